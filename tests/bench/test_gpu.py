"""The benchmark of a GPU, tried on a CPU: the plan at tiny sizes, and what a block that breaks costs."""

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from diffusers import WanTransformer3DModel

from bench import gpu
from bench.cases import CASES, tiny
from bench.gpu_blocks.finding import Finding, Findings
from bench.gpu_blocks.plan import PLAN, Block
from bench.gpu_blocks.section import markdown
from models.errors import OutOfMemory, TuningError
from models.phase import Phase
from models.tuning import Tuning
from testbed.random_engine import RandomModel

from . import gpu_work

pytestmark = pytest.mark.slow

ABSENT = ("ray", "pydantic", "fastapi", "sqlalchemy", "httpx")


@cache
def tiny_run() -> tuple[list[Finding], str]:
    """Run the whole plan where those packages are not installed; return its findings and its section."""
    out = Path(mkdtemp())
    (out / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({ABSENT!r}))\n")
    command = [sys.executable, "-m", "bench", "gpu", "--scale", "tiny", "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(out)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return Findings(out / "findings.jsonl").read(), (out / "section.md").read_text()


def test_every_block_of_the_plan_finds_something() -> None:
    findings, section = tiny_run()
    assert {finding.block for finding in findings} == {block.name for block in PLAN}
    assert not [finding for finding in findings if finding.kind == "failure"]
    assert "`python -m bench gpu --scale tiny" in section.splitlines()[0]


def test_a_step_and_a_decode_are_timed_and_broken_down_by_kernel_beside_diffusers() -> None:
    findings, section = tiny_run()
    for name in ("14b-480p", "decode-480p"):
        seconds = {finding.name: finding.value or 0.0 for finding in findings if finding.unit == "s"}
        assert min(seconds[name], seconds[f"{name} by diffusers"]) > 0.0
        assert f"{name}: {seconds[f'{name} by diffusers'] / seconds[name]:.2f} times as fast" in section
        assert sum(finding.kind == "kernel" and finding.block == name for finding in findings) > 5


def test_a_whole_run_tells_the_seconds_of_each_phase_and_a_text_encoder_its_own() -> None:
    values = {finding.name: finding.value or 0.0 for finding in tiny_run()[0] if finding.kind == "figure"}
    phases = set(Phase) - {Phase.ENHANCING, Phase.ENCODING_IMAGE}
    assert min(values[f"14b-480p-4-steps, {phase}"] for phase in phases) > 0.0
    assert min(values["prompt, short"], values["prompt, 512 tokens"]) > 0.0


def test_the_engine_is_past_its_gates() -> None:
    gates = {finding.name: finding for finding in tiny_run()[0] if finding.kind == "gate"}
    assert gates["exact"].passed
    assert gates["exact"].value is not None and gates["exact"].value < 1e-5
    assert gates["decode"].passed
    figures = {
        finding.name: finding.value or 0.0 for finding in tiny_run()[0] if finding.block == "gate-decode"
    }
    assert figures["decode in float16, beside float32"] > 40.0


def test_what_cannot_run_here_is_left_out_with_a_reason() -> None:
    notes = {finding.block: finding.note for finding in tiny_run()[0] if finding.name == "left out"}
    assert "needs a CUDA device" in notes["14b-480p-flash3"]
    assert "needs a CUDA device" in notes["gate-fp8"]
    assert notes["14b-480p-fp8"] == "not past the gate fp8"


def found_by(folder: Path, *blocks: Block, budget_s: float = 60.0) -> list[tuple[str, str, str]]:
    run = gpu.Run(folder, "cpu", tiny=True)
    return [(finding.block, finding.kind, finding.note) for finding in run.all(blocks, budget_s, "command")]


def test_a_block_that_breaks_costs_that_block_only(tmp_path: Path) -> None:
    found = found_by(
        tmp_path,
        Block("breaks", gpu_work.breaks, 60.0),
        Block("dies", gpu_work.dies, 60.0),
        Block("hangs", gpu_work.hangs, 5.0),
        Block("cannot", gpu_work.cannot, 60.0),
        Block("finds", gpu_work.finds, 60.0),
    )
    assert found == [
        ("breaks", "figure", ""),
        ("breaks", "failure", "CUDA error: an illegal memory access was encountered"),
        ("dies", "figure", ""),
        ("dies", "failure", "ended with exit status -11"),
        ("hangs", "figure", ""),
        ("hangs", "failure", "killed after 5 s"),
        ("cannot", "note", "attention flash3 cannot be used: it is not installed."),
        ("finds", "figure", ""),
    ]
    assert "| finds | found | 1 |" in (tmp_path / "section.md").read_text()


def test_a_test_that_fails_is_told_with_its_reason(tmp_path: Path) -> None:
    run = gpu.Run(tmp_path, "cpu", tiny=True)
    found = run.all([Block("tests", gpu_work.tests_that_end_in_every_way, 60.0)], 60.0, "command")
    broken, fails, passed = found
    assert (broken.kind, broken.note) == ("failure", "ModuleNotFoundError: No module named 'no_such_module'")
    assert (fails.kind, fails.note) == ("failure", "assert 1 == 2")
    assert fails.name.endswith("::test_fails")
    assert (passed.name, passed.value, passed.note) == ("passed", 1, "1 skipped")


def test_nothing_is_timed_whose_gate_is_not_passed(tmp_path: Path) -> None:
    found = found_by(
        tmp_path,
        Block("gate-open", gpu_work.passes, 60.0),
        Block("gate-shut", gpu_work.fails, 60.0),
        Block("open", gpu_work.finds, 60.0, ("open",)),
        Block("shut", gpu_work.finds, 60.0, ("open", "shut")),
    )
    assert found[2:] == [("open", "figure", ""), ("shut", "note", "not past the gate shut")]


def test_nothing_is_begun_that_has_no_time_left(tmp_path: Path) -> None:
    found = found_by(tmp_path, Block("long", gpu_work.finds, 1000.0), Block("short", gpu_work.finds, 60.0))
    assert found == [("long", "note", "no time left"), ("short", "figure", "")]


def test_a_line_that_was_cut_off_is_not_read(tmp_path: Path) -> None:
    findings = Findings(tmp_path / "findings.jsonl")
    findings.add(Finding(block="block", kind="figure", name="whole", value=1.0, unit="s"))
    with findings.path.open("a") as file:
        file.write('{"block": "blo')
    assert [finding.name for finding in findings.read()] == ["whole"]


def test_a_gate_of_decibels_is_passed_above_its_bound() -> None:
    gate = Finding(block="gate", kind="gate", name="decode", value=40.0, unit="dB", wanted=30.0)
    assert gate.passed
    assert not replace(gate, value=20.0).passed
    assert "| decode | 40 | 30 | dB | yes |" in markdown([gate], "command")


def test_a_block_that_there_is_not_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--scale", "tiny", "--blocks", "14b-408p"])
    assert ended.value.code == 2
    assert "there is no block 14b-408p" in capsys.readouterr().err


def test_names_of_blocks_are_distinct_and_each_gate_comes_before_what_waits_for_it() -> None:
    names = [block.name for block in PLAN]
    assert len(names) == len(set(names))
    assert {case.name for case in CASES} <= set(names)
    for place, block in enumerate(PLAN):
        assert {f"gate-{gate}" for gate in block.gates} <= set(names[:place])


def test_random_weights_have_the_types_that_loading_gives_them() -> None:
    variant = tiny(CASES[0]).variant
    model = RandomModel(variant, torch.device("cpu"), torch.bfloat16)
    transformer: WanTransformer3DModel = model.transformer
    types = {name: parameter.dtype for name, parameter in transformer.named_parameters()}
    assert types["blocks.0.attn1.to_q.weight"] == torch.bfloat16
    assert types["blocks.0.scale_shift_table"] == torch.float32
    assert types["condition_embedder.time_embedder.linear_1.weight"] == torch.float32
    assert all(bool(parameter.isfinite().all()) for parameter in transformer.parameters())
    assert not transformer.rope.freqs_cos.is_meta


def test_a_model_that_does_not_fit_is_not_made() -> None:
    huge = replace(tiny(CASES[0]).variant, ffn_dim=10**9, heads=10**4)
    with pytest.raises(OutOfMemory, match=r"needs \d+ GB of \d+ GB"):
        RandomModel(huge, torch.device("cpu"), torch.float32)


def test_settings_that_are_not_built_in_are_no_silent_defaults() -> None:
    model = RandomModel(tiny(CASES[0]).variant, torch.device("cpu"), torch.float32)
    with pytest.raises(TuningError):
        model.engine(Tuning(fp8=True))
