"""The configurations of deploy/: one for each variant and number of GPUs, here and on Kubernetes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from deploy import generate, model_pages
from deploy.pod_size import PodSize
from models.engine import GenerationRequest
from models.memory.estimate import GB, MARGIN, KernelScratch, parameters, request_memory, resident_weights
from models.variants import VARIANTS, Variant
from serve_app.config.config_lint import lint
from serve_app.config.placement import place
from serve_app.config.preflight import check
from serve_app.config.section import SettingsError
from serve_app.config.settings import AppSettings, parse_settings

CASES = [(variant, gpus) for variant in VARIANTS.values() for gpus in generate.GPUS]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to start in, where operators have put the LoRAs of distilled models and the demo's weights."""
    monkeypatch.chdir(tmp_path)
    for variant, _ in CASES:
        lora = np.ones((1, variant.dim)), np.ones((variant.dim, 1))
        key = "diffusion_model.blocks.0.self_attn.q"
        tensors = {f"{key}.lora_down.weight": lora[0], f"{key}.lora_up.weight": lora[1]}
        for document in (generate.single_machine(variant, 1), generate.on_kubernetes(variant, 1)):
            for fused in model_of(document).get("fused_loras", ()):
                file = inside(tmp_path, fused["file"])
                file.parent.mkdir(parents=True, exist_ok=True)
                save_file(tensors, file)
        inside(tmp_path, model_of(generate.on_kubernetes(variant, 1))["weights"]).mkdir(
            parents=True, exist_ok=True
        )
    (tmp_path / "models/demo/weights").mkdir(parents=True, exist_ok=True)
    return tmp_path


def inside(folder: Path, path: str) -> Path:
    return folder / path.lstrip("/")


def model_of(document: Mapping[str, Any]) -> dict[str, Any]:
    (model,) = document["applications"][0]["args"]["models"]
    assert isinstance(model, dict)
    return model


def settings_in_pod(document: dict[str, Any], pod: Path) -> AppSettings:
    """Return the settings as a pod reads them, whose volumes are in a folder here."""
    text = yaml.dump(document, Dumper=yaml.CSafeDumper)
    for volume in ("/data", "/weights", "/store", "/opt"):
        text = text.replace(f" {volume}", f" {pod}{volume}").replace(f"//{volume}", f"//{pod}{volume}")
    args = yaml.load(text, yaml.CSafeLoader)["applications"][0]["args"]
    return parse_settings(args, pod)


def test_the_written_files_are_what_the_generator_writes_and_there_are_no_others() -> None:
    written = dict(generate.files())
    stale = [path for path, text in written.items() if not path.exists() or path.read_text() != text]
    assert not stale, "python -m deploy.generate writes them anew"
    once = {"alerts.yaml", "variants.yaml", "dashboard.json", "wan-serve.json"}
    assert {*found()} == {path for path in written if path.name not in once}


def test_the_page_of_a_model_says_on_which_gpus_its_own_video_fits() -> None:
    page = (model_pages.FOLDER / "wan2.2-i2v-a14b.md").read_text()
    variant = VARIANTS["wan2.2-i2v-a14b"]
    request = GenerationRequest.of(variant, "a cat")
    video = request_memory(variant, request, 2, scratch=KernelScratch(fused=True, volumes=True)).peak
    weights = resident_weights(parameters(variant), 2, variant)
    assert 79 * GB < weights + MARGIN * video < 95 * GB
    assert "| 80 GB (A100, H100) | `offload: experts`" in page
    assert "| 96 GB (RTX PRO 6000) | all weights |" in page


def found() -> Iterator[Path]:
    yield from (generate.ROOT / "configs").iterdir()
    yield from (generate.ROOT / "kuberay/overlays").glob("*/*")
    yield from model_pages.FOLDER.iterdir()


def test_each_configuration_passes_the_check_before_a_start(machine: Path) -> None:
    paths = sorted((generate.ROOT / "configs").iterdir())
    assert len(paths) == len(CASES)
    for path in paths:
        check(path)


def test_a_configuration_whose_loras_are_missing_is_refused_with_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"fused_loras\[0\]\.file: there is no file .*high_noise"):
        check(generate.ROOT / "configs/wan2.2-i2v-a14b-distill-8gpu.yaml")


def test_each_configuration_of_kubernetes_fits_ray_our_settings_and_its_pods(machine: Path) -> None:
    wide = [(variant, generate.GPUS[-1], generate.NODES) for variant in generate.on_several_nodes()]
    assert "wan2.2-t2v-a14b" in {variant.name for variant, _, _ in wide}
    for variant, gpus, nodes in [*((*case, 1) for case in CASES), *wide]:
        document = generate.on_kubernetes(variant, gpus, nodes)
        lint(document)
        settings = settings_in_pod(document, machine)
        assert_fits(variant, gpus, nodes, settings)


def assert_fits(variant: Variant, gpus: int, nodes: int, settings: AppSettings) -> None:
    """Assert that the replicas are planned while there is no GPU yet, and that a pod has room for one."""
    placed = place(settings.models, {"CPU": 2.0}, settings.max_gpus)[variant.name]
    assert (placed.replicas, placed.device) == (generate.MOST_PODS // nodes, "cuda")
    assert (placed.ranks, placed.nodes) == (gpus * nodes, nodes)
    processes = 1 if gpus == 1 else 1 + gpus
    assert processes * placed.cpus <= PodSize.of(variant, gpus).cpus


def test_the_deployments_that_open_the_database_are_pinned_to_the_pod_that_has_it() -> None:
    (application,) = generate.on_kubernetes(VARIANTS["demo"], 1)["applications"]
    pinned = {each["name"]: each["ray_actor_options"]["resources"] for each in application["deployments"]}
    assert pinned == {"api": {"front": 0.01}, "coordinator": {"front": 0.01}}
