"""The Helm chart renders the objects of the kustomize overlays."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import ROOT, Objects, faults, pods, rendered
from tests.deploy.test_overlays import SAMPLE, overlay_of

CHART = ROOT / "deploy/helm/wan-serve"


def comparable(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return an object with its configuration parsed, without what is Helm's own."""
    spec = dict(manifest.get("spec", {}))
    if "serveConfigV2" in spec:
        spec["serveConfigV2"] = yaml.load(spec["serveConfigV2"], yaml.CSafeLoader)
    metadata = {key: value for key, value in manifest["metadata"].items() if key != "annotations"}
    return {**manifest, "metadata": metadata, "spec": spec}


COMPONENTS = {"redis.address": "redis://redis:6379", "redis.secret": "wan-serve-redis", "internet": "true"}
COMPONENTS |= {"monitoringNamespace": "monitoring", "prometheusOperator": "true"}
COMPONENTS |= {"stores.secret": "wan-serve-stores", "fronts": "2", "gateway.className": "istio"}
COMPONENTS |= {"grafana": "true", "clusterUpgrade": "true"}


def test_the_values_for_what_is_optional_do_what_the_components_do(helm: Path, everything: Objects) -> None:
    values = [word for name, value in COMPONENTS.items() for word in ("--set", f"{name}={value}")]
    of_chart = rendered(helm, "template", "wan-serve", CHART, *values)
    assert of_chart.keys() == everything.keys()
    for name, manifest in everything.items():
        assert comparable(of_chart[name]) == comparable(manifest)
        assert not faults(manifest)


@pytest.mark.parametrize(("variant", "gpus", "nodes"), SAMPLE)
def test_the_chart_renders_what_the_overlay_does(
    helm: Path, kubectl: Path, variant: str, gpus: int, nodes: int
) -> None:
    values = ("--set", f"variant={variant}", "--set", f"gpus={gpus}", "--set", f"nodes={nodes}")
    of_chart = rendered(helm, "template", "wan-serve", CHART, *values)
    of_overlay = rendered(kubectl, "kustomize", overlay_of(variant, gpus, nodes))
    assert of_chart.keys() == of_overlay.keys()
    for name, manifest in of_overlay.items():
        assert comparable(of_chart[name]) == comparable(manifest)


def test_what_the_values_change_satisfies_the_schemas_and_keeps_the_rest(helm: Path, tmp_path: Path) -> None:
    changed = {
        "variant": "wan2.1-t2v-14b",
        "gpus": 2,
        "nodes": 2,
        "model": {"options": {"fp8": True}},
        "settings": {"limits": {"max_queued": 5}, "tasks": {"drain_s": 5}},
        "pods": {"most": 6, "leastReplicas": 1, "size": {"cpus": 16}, "nodeSelector": {"gpu": "h100"}},
        "longestRunSeconds": 600,
        "imagePullSecrets": [{"name": "registry"}],
        "storage": {"data": {"storageClass": "nfs"}},
        "redis": {"address": "redis://redis:6379", "secret": "redis"},
    }
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(changed))
    objects = rendered(helm, "template", "video", CHART, "--values", values)
    assert {name: found for name, each in objects.items() if (found := faults(each))} == {}
    assert all(name.startswith("video") for _, name in objects)
    service = objects["RayService", "video"]
    args = yaml.load(service["spec"]["serveConfigV2"], yaml.CSafeLoader)["applications"][0]["args"]
    (model,) = args["models"]
    assert model["options"] == {"fp8": True} and model["weights"] == "/weights/Wan2.1-T2V-14B-Diffusers"
    assert (model["devices_per_replica"], model["nodes_per_replica"]) == (4, 2)
    assert args["limits"] == {"max_queued": 5} and args["max_gpus"] == 12
    assert args["tasks"] == {"drain_s": 5, "longest_run_s": 600}
    groups = {name: (group, pod) for name, group, pod in pods(service)}
    group, pod = groups["gpu"]
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (2, 2, 6)
    assert pod["terminationGracePeriodSeconds"] == 630
    assert pod["containers"][0]["resources"]["limits"]["cpu"] == "16"
    assert pod["nodeSelector"] == {"gpu": "h100"}
    assert all(pod["imagePullSecrets"] == [{"name": "registry"}] for _, pod in groups.values())
    redis = service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    assert "externalStorageNamespace" not in redis, "two clusters must not share one"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("variant=wan2.2-i2v", "variant: wan2.2-i2v is unknown; allowed: demo, demo-distill, wan2.1-"),
        ("gpus=3", "gpus"),
        ("pod.most=2", "pod"),
        ("redis.address=redis://redis:6379", "redis.secret: is needed with redis.address"),
        ("fronts=2", "stores.secret: is needed with"),
        ("clusterUpgrade=true", "stores.secret: is needed with"),
        ("gateway.className=istio", "stores.secret: is needed with"),
    ],
)
def test_a_wrong_value_is_refused(helm: Path, value: str, said: str) -> None:
    command = [str(helm), "template", "wan-serve", str(CHART), "--set", value]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert said in done.stderr


def test_helm_finds_nothing_to_say_of_the_chart(helm: Path) -> None:
    done = subprocess.run([helm, "lint", "--strict", CHART], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
