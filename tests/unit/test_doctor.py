"""``wan-serve doctor``: what is well, what is not, and what to do about it."""

import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.cli.commands import main
from serve_app.doctor import devices, machine
from serve_app.doctor.configuration import of_configuration
from serve_app.doctor.devices import Device, DeviceReport, listed_by_driver, of_devices, seen_by_torch
from serve_app.doctor.finding import Finding
from serve_app.doctor.packages import required
from serve_app.doctor.report import print_findings
from serve_app.doctor.video import encoders
from wan_serve.commands.exit_status import ExitStatus

ROOT = Path(__file__).parents[2]
H100 = Device("NVIDIA H100", 80 * 10**9, (9, 0))


def config(folder: Path, *, port: int, **args: Any) -> Path:
    """Write the configuration that comes along with another port and other settings, and return its path."""
    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    document["http_options"] = {"host": "127.0.0.1", "port": port}
    document["applications"][0]["args"] |= {"data_dir": str(folder / "data"), **args}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def states(findings: Sequence[Finding], part: str) -> list[str]:
    return [finding.state for finding in findings if finding.part == part]


def model(**changes: Any) -> list[dict[str, Any]]:
    return [{"name": "demo", "variant": "demo", "weights": str(ROOT / "models/demo/weights"), **changes}]


@pytest.mark.slow
def test_all_of_a_machine_and_a_configuration_is_looked_at_and_a_problem_is_an_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        path = config(tmp_path, port=taken.getsockname()[1])
        assert main(["doctor", str(path), "--json"]) == ExitStatus.FAILED
    findings = [Finding(**each) for each in json.loads(capsys.readouterr().out)]
    parts = {finding.part for finding in findings}
    assert parts >= {"Python", "memory", "shared memory", "open files", "packages", "Ray", "HAProxy", "disk"}
    assert parts >= {"torch", "GPUs", "ffmpeg", "encoders", "configuration", "port", "weights"}
    assert [finding.part for finding in findings if finding.is_problem] == ["port"]
    assert all(finding.advice for finding in findings if finding.state != "ok")


def test_a_configuration_is_looked_at_in_all_its_parts(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    well = [*of_configuration(config(tmp_path, port=port), gpus=0)]
    assert {finding.state for finding in well} == {"ok"}
    many = [*of_configuration(config(tmp_path, port=port, models=model(devices_per_replica=8)), gpus=2)]
    assert states(many, "GPUs") == ["warning"]
    for offline, state in ((False, "warning"), (True, "problem")):
        models = model(variant="wan2.1-t2v-1.3b", weights="org/none", offline=offline)
        (weights,) = [
            finding
            for finding in of_configuration(config(tmp_path, port=port, models=models), gpus=1)
            if finding.part == "weights"
        ]
        assert weights.state == state and "org/none is not on this machine" in weights.seen
    full = config(tmp_path, port=port, limits={"min_free_bytes": 10**18})
    assert states([*of_configuration(full, gpus=0)], "disk") == ["problem"]
    wrong = [*of_configuration(config(tmp_path, port=port, task={}), gpus=0)]
    assert [finding.state for finding in wrong] == ["problem"] and "did you mean tasks?" in wrong[0].seen


def test_gpus_are_told_from_those_that_only_the_driver_sees() -> None:
    kernels = {"sdpa": None, "flash3": "is not installed (there is no module flash_attn_interface)"}
    seen = [*of_devices(DeviceReport("2.13", "12.8", (H100,), kernels), ["NVIDIA H100, 570.1"])]
    assert [finding.state for finding in seen] == ["ok", "ok", "ok", "warning"]
    assert "570.1" in seen[2].seen and "fa3" in seen[3].advice
    unseen = [*of_devices(DeviceReport("2.13+cpu", None, (), kernels), ["NVIDIA H100, 570.1"])]
    assert states(unseen, "GPUs") == ["problem"]
    assert states([*of_devices(DeviceReport("2.13+cpu", None, (), kernels), [])], "GPUs") == ["warning"]


def test_a_torch_that_does_not_load_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13 is missing')")
    monkeypatch.setattr(devices, "ROOT", tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models")
    broken = seen_by_torch()
    assert isinstance(broken, Finding) and broken.is_problem
    assert broken.seen == "ImportError: libcudart.so.13 is missing"


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        (
            """print('torch.AcceleratorError: CUDA error: out of memory\\nCompile with `TORCH_USE_CUDA_DSA`',
            file=sys.stderr); sys.exit(1)""",
            "torch.AcceleratorError: CUDA error: out of memory",
        ),
        ("os.kill(os.getpid(), 11)", "ended with -11"),
        ("print('NCCL version 2.27')", "told nothing that can be read"),
    ],
    ids=["CUDA error", "signal", "other text"],
)
def test_a_torch_that_breaks_on_a_gpu_is_a_problem_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str, told: str
) -> None:
    package = tmp_path / "models" / "speed"
    package.mkdir(parents=True)
    for file in (package.parent / "__init__.py", package / "__init__.py"):
        file.touch()
    (package / "device_report.py").write_text(f"import os, sys\n{ends}")
    monkeypatch.setattr(devices, "ROOT", tmp_path)
    broken = seen_by_torch()
    assert isinstance(broken, Finding) and broken.is_problem and broken.seen == told


def write_nvidia_smi(folder: Path, says: str, ends_with: int = 0) -> None:
    """Write an nvidia-smi that says what real ones say; one that has nothing to say hangs."""
    (folder / "said").write_text(says)
    does = f"/bin/cat {folder}/said; exit {ends_with}" if says else "exec /bin/sleep 60"
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{does}\n")
    (folder / "nvidia-smi").chmod(0o755)


def test_the_gpus_that_nvidia_smi_lists_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert listed_by_driver() == ()
    write_nvidia_smi(tmp_path, "NVIDIA H200, 570.124.06\n" * 8)
    assert listed_by_driver() == ["NVIDIA H200, 570.124.06"] * 8


@pytest.mark.parametrize(
    ("says", "ends_with"),
    [
        ("No devices were found", 6),
        ("Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 570.124", 18),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9),
        ("Unable to determine the device handle for GPU0000:03:00.0: Unknown Error", 0),
        ("", 0),
    ],
)
def test_an_nvidia_smi_that_fails_is_told_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, ends_with: int
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(devices, "_WITHIN_S", 60 if says else 0.1)
    write_nvidia_smi(tmp_path, says, ends_with)
    found = listed_by_driver()
    assert isinstance(found, Finding) and found.state == "warning" and found.advice
    assert (" ".join(says.splitlines()) or "did not answer") in found.seen


def test_packages_that_are_missing_or_old_are_named() -> None:
    assert required(("pydantic>=2", "boto3>=999; extra == 's3'")).state == "ok"
    found = required(("pydantic>=999", "no-such-package"))
    assert found.is_problem
    assert "is not >=999" in found.seen and "no-such-package is missing" in found.seen
    assert required(()).state == "warning"


def test_a_machine_that_is_short_of_something_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert machine.shared_memory(tmp_path / "none").state == "warning"
    assert machine.disk(tmp_path / "not" / "yet", 0).state == "ok"
    assert machine.disk(tmp_path, 10**18).is_problem
    monkeypatch.setattr(machine, "LEAST_MEMORY", 10**18)
    monkeypatch.setattr(machine, "LEAST_SHARED", 10**18)
    monkeypatch.setattr(machine, "LEAST_FILES", 10**18)
    short = [finding for finding in machine.of_machine() if finding.state == "warning"]
    assert [finding.part for finding in short][:2] == ["memory", "shared memory"]
    assert all(finding.advice for finding in short)


@pytest.mark.usefixtures("poor_ffmpeg")
def test_formats_that_ffmpeg_cannot_write_are_named() -> None:
    found = encoders()
    assert found.state == "warning"
    assert "webm" in found.advice and "av1" in found.advice and "h264" not in found.advice


def test_findings_are_lines_with_what_to_do_below(capsys: pytest.CaptureFixture[str]) -> None:
    print_findings([Finding("disk", "ok", "plenty"), Finding("GPUs", "warning", "none\x1b[2J", "Buy one.")])
    assert capsys.readouterr().out.splitlines() == [
        "ok       disk           plenty",
        r"warning  GPUs           none\x1b[2J",
        "                        Buy one.",
        "1 ok, 1 warning, 0 problem",
    ]
