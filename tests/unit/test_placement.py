"""Replicas follow what Ray sees: one per GPU, or CPU replicas where there is none."""

from pathlib import Path
from typing import Any

from serve_app.placement import Placement, place
from serve_app.settings import AutoscalingSettings, ModelSettings


def model(name: str = "demo", **changes: Any) -> ModelSettings:
    return ModelSettings(name=name, variant="demo", weights=Path("w"), **changes)


def test_a_machine_without_gpus_gets_one_cpu_replica_that_computes_with_every_core() -> None:
    placed = place([model()], {"CPU": 2.0})["demo"]
    assert placed == Placement(replicas=1, device="cpu", gpus=0, cpus=1.0, threads=2)


def test_every_gpu_gets_a_replica() -> None:
    placed = place([model()], {"CPU": 64.0, "GPU": 8.0})["demo"]
    assert (placed.replicas, placed.device, placed.gpus) == (8, "cuda", 1)


def test_a_fixed_count_is_kept_and_the_rest_is_split_evenly() -> None:
    models = [model("a", replicas=2), model("b"), model("c")]
    placed = place(models, {"CPU": 64.0, "GPU": 8.0})
    assert {name: found.replicas for name, found in placed.items()} == {"a": 2, "b": 3, "c": 3}


def test_many_cpu_replicas_share_a_small_machine_and_leave_room_for_the_service() -> None:
    placed = place([model(replicas=8)], {"CPU": 2.0})["demo"]
    assert (placed.replicas, placed.threads) == (8, 1)
    assert placed.replicas * placed.cpus <= 2.0 - 0.2


def test_a_model_kept_on_the_cpu_takes_no_gpu() -> None:
    placed = place([model("a", device="cpu"), model("b")], {"CPU": 8.0, "GPU": 2.0})
    assert (placed["a"].device, placed["a"].gpus, placed["b"].replicas) == ("cpu", 0, 2)


def test_a_model_that_scales_is_promised_its_least_and_allowed_its_most() -> None:
    scales = AutoscalingSettings(min_replicas=1, max_replicas=6)
    placed = place([model("a", autoscaling=scales), model("b")], {"CPU": 64.0, "GPU": 8.0})
    assert {name: found.replicas for name, found in placed.items()} == {"a": 6, "b": 7}
