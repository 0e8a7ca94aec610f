"""Placement by the resources that Ray reports: a replica per GPU, or CPU replicas where there is none."""

from pathlib import Path
from typing import Any

import pytest

from serve_app.config.model_settings import AutoscalingSettings, ModelSettings
from serve_app.config.placement import Placement, place
from serve_app.config.section import SettingsError
from serve_app.config.settings import AppSettings


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


def test_replicas_of_several_gpus_are_as_many_as_fit() -> None:
    placed = place([model(devices_per_replica=4)], {"CPU": 64.0, "GPU": 11.0})["demo"]
    assert (placed.replicas, placed.ranks, placed.gpus, placed.cpus) == (2, 4, 1, 1.0)


def test_a_group_on_several_nodes_has_a_bundle_on_each_with_the_replica_in_the_first() -> None:
    spread = model(devices_per_replica=4, nodes_per_replica=2)
    placed = place([spread], {"CPU": 64.0, "GPU": 8.0})["demo"]
    assert (placed.replicas, placed.ranks, placed.nodes, placed.strategy) == (2, 4, 2, "STRICT_SPREAD")
    assert placed.bundles == [{"CPU": 3.0, "GPU": 2.0}, {"CPU": 2.0, "GPU": 2.0}]
    assert [placed.bundle_of(rank) for rank in range(4)] == [0, 0, 1, 1]
    packed = place([model(devices_per_replica=2)], {"CPU": 64.0, "GPU": 2.0})["demo"]
    assert packed.bundles == [{"CPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}]
    assert (packed.strategy, [packed.bundle_of(rank) for rank in range(2)]) == ("STRICT_PACK", [1, 2])


def test_groups_of_a_fixed_count_leave_the_gpus_they_do_not_hold() -> None:
    models = [model("a", replicas=2, devices_per_replica=2), model("b", devices_per_replica=2), model("c")]
    placed = place(models, {"CPU": 64.0, "GPU": 10.0})
    assert {name: found.replicas for name, found in placed.items()} == {"a": 2, "b": 1, "c": 3}


def test_a_machine_without_gpus_gets_one_group_that_shares_its_cores() -> None:
    placed = place([model(devices_per_replica=2)], {"CPU": 2.0})["demo"]
    assert (placed.replicas, placed.device, placed.ranks, placed.threads) == (1, "cpu", 2, 2)
    assert 3 * placed.cpus <= 2.0 - 0.2


def test_the_cpus_of_a_replica_are_those_of_all_its_processes() -> None:
    placed = place([model(devices_per_replica=2, cpus_per_replica=6.0)], {"CPU": 2.0})["demo"]
    assert placed.cpus == 2.0


def test_a_group_of_more_gpus_than_there_are_is_refused() -> None:
    models = [model("a"), model("b", devices_per_replica=4)]
    sentence = r"^args\.models\[1\]\.devices_per_replica: 4 GPUs .* b, and Ray sees 2\.$"
    with pytest.raises(SettingsError, match=sentence):
        place(models, {"CPU": 8.0, "GPU": 2.0})


def test_a_model_that_scales_is_promised_its_least_and_allowed_its_most() -> None:
    scales = AutoscalingSettings(min_replicas=1, max_replicas=6)
    placed = place([model("a", autoscaling=scales), model("b")], {"CPU": 64.0, "GPU": 8.0})
    assert {name: found.replicas for name, found in placed.items()} == {"a": 6, "b": 7}


@pytest.mark.parametrize(
    ("resources", "max_gpus", "most"),
    [
        ({"CPU": 64.0, "GPU": 8.0}, None, 8),
        ({"CPU": 4.0}, 16, 16),
        ({"CPU": 64.0, "GPU": 8.0}, 4, 8),
        ({"CPU": 2.0}, None, 1),
    ],
)
def test_a_model_that_scales_with_auto_may_fill_the_gpus_that_there_are_or_may_come(
    resources, max_gpus, most
):
    found = place([model(autoscaling=AutoscalingSettings())], resources, max_gpus)["demo"]
    assert (found.replicas, found.device) == (most, "cuda" if most > 1 else "cpu")


def test_groups_that_scale_with_auto_are_as_many_as_fit() -> None:
    rules = AutoscalingSettings(min_replicas=0)
    placed = place([model(autoscaling=rules, devices_per_replica=8)], {"CPU": 4.0}, 20)["demo"]
    assert (placed.replicas, placed.ranks, placed.cpus) == (2, 8, 1.0)


def test_models_that_scale_with_auto_may_have_what_the_others_do_not_always_hold() -> None:
    rules = AutoscalingSettings(min_replicas=1)
    models = [model("a", autoscaling=rules), model("b", autoscaling=rules), model("c", replicas=2)]
    placed = place(models, {"CPU": 64.0, "GPU": 8.0})
    assert {name: found.replicas for name, found in placed.items()} == {"a": 5, "b": 5, "c": 2}
    placed = place([model("a"), model("b", autoscaling=rules)], {"CPU": 64.0, "GPU": 8.0})
    assert {name: found.replicas for name, found in placed.items()} == {"a": 3, "b": 5}


def test_the_least_replicas_stay_the_least_where_fewer_fit() -> None:
    rules = AutoscalingSettings(min_replicas=3)
    assert place([model(autoscaling=rules)], {"CPU": 8.0, "GPU": 2.0})["demo"].replicas == 3
    assert place([model(autoscaling=rules)], {"CPU": 8.0})["demo"].replicas == 3


def test_nodes_that_are_still_to_come_bring_cpus_for_their_replicas() -> None:
    assert place([model(replicas=8)], {"CPU": 2.0}, 8)["demo"].cpus == 1.0


def test_a_group_larger_than_the_cluster_may_become_is_refused() -> None:
    with pytest.raises(SettingsError, match="8 GPUs are needed for a replica of demo, and max_gpus allows 4"):
        place([model(devices_per_replica=8)], {"CPU": 8.0, "GPU": 2.0}, 4)


def test_the_settings_say_the_number_in_place_of_auto_and_leave_models_that_do_not_scale() -> None:
    models = (model("a", autoscaling=AutoscalingSettings()), model("b", replicas=2))
    settings = AppSettings(models=models).with_most({"a": 6, "b": 2})
    assert settings.models[0].autoscaling == AutoscalingSettings(max_replicas=6)
    assert settings.models[1] == models[1]
