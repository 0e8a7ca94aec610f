"""The check of a whole configuration: Ray's part and the application's together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from models.variants import VARIANTS
from serve_app.config.preflight import check
from serve_app.config.section import SettingsError

POLICY = {"policy_function": "serve_app.scaling_policy:policy"}


def write(
    folder: Path, autoscaling: dict[str, Any] | None, fused_loras: Sequence[Path] = (), **application: Any
) -> Path:
    model = {
        "name": "demo",
        "variant": "demo",
        "weights": str(folder),
        "autoscaling": autoscaling,
        "fused_loras": [{"file": str(file)} for file in fused_loras],
    }
    args = {"data_dir": str(folder / "data"), "models": [model]}
    config = {"applications": [{"import_path": "serve_app.app:build", "args": args, **application}]}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_scaling_by_work_wants_its_policy_and_says_which(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as stopped:
        check(write(tmp_path, {"max_replicas": 2}))
    assert str(stopped.value) == (
        "applications[0].autoscaling_policy: a model scales by work, so it must be "
        "{policy_function: serve_app.scaling_policy:policy}; "
        "or set `by: requests` in the model's autoscaling."
    )


def test_scaling_by_work_with_its_policy_starts(tmp_path: Path) -> None:
    check(write(tmp_path, {"max_replicas": 2}, autoscaling_policy=POLICY))


def test_scaling_by_requests_needs_no_policy(tmp_path: Path) -> None:
    check(write(tmp_path, {"max_replicas": 2, "by": "requests"}))


def test_a_fused_lora_that_cannot_be_applied_is_known_before_ray_starts(tmp_path: Path) -> None:
    dim, key = VARIANTS["demo"].dim, "diffusion_model.blocks.0.self_attn.q"
    matrices = {f"{key}.lora_down.weight": np.ones((2, dim)), f"{key}.lora_up.weight": np.ones((dim, 2))}
    fine, bad = tmp_path / "fine.safetensors", tmp_path / "bad.safetensors"
    save_file(matrices, fine)
    save_file(matrices | {f"{key}.alpha": np.array(np.nan)}, bad)
    check(write(tmp_path, None, [fine]))
    with pytest.raises(SettingsError) as stopped:
        check(write(tmp_path, None, [fine, bad]))
    assert str(stopped.value) == (
        f"args.models[0].fused_loras[1].file: the LoRA {bad} has an alpha of "
        "blocks.0.attn1.to_q that is not a finite number."
    )


def test_the_configuration_that_comes_along_has_the_policy() -> None:
    config = yaml.safe_load((Path(__file__).parents[2] / "serve_config.yaml").read_text())
    assert config["applications"][0]["autoscaling_policy"] == POLICY
