"""The files that are there once for each variant, or its number of GPUs, and copies of others.

``python -m deploy.generate`` writes them; a test compares them with what it would write.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from deploy import model_pages
from deploy.pod_size import PodSize
from models.memory.estimate import parameters
from models.variants import VARIANTS, Variant

ROOT = Path(__file__).parent
ALERTS = ROOT / "alerts.yaml"
DASHBOARD = ROOT / "grafana/wan-serve.json"
GPUS = (1, 2, 4, 8)
"""Numbers of GPUs of a pod, which make a video together."""
NODES = 2
"""Pods of 8 GPUs that make a video together, in overlays of the largest models."""
LARGE = 14e9
"""Parameters of a transformer from which on there is such an overlay."""
MOST_PODS = 4
"""GPU pods that an overlay allows; the base says the same."""
LONGEST_RUN_S = 3600
"""How long a run may go on in a pod that is to end; the base's times are made from it."""

REPOSITORIES = {
    "wan2.1-t2v-1.3b": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "wan2.1-t2v-14b": "Wan-AI/Wan2.1-T2V-14B-Diffusers",
    "wan2.1-i2v-14b-480p": "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
    "wan2.1-i2v-14b-720p": "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers",
    "wan2.1-fun-inp-1.3b": "weizhou03/Wan2.1-Fun-1.3B-InP-Diffusers",
    "wan2.1-flf2v-14b": "Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers",
    "wan2.1-vace-1.3b": "Wan-AI/Wan2.1-VACE-1.3B-diffusers",
    "wan2.1-vace-14b": "Wan-AI/Wan2.1-VACE-14B-diffusers",
    "wan2.2-t2v-a14b": "Wan-AI/Wan2.2-T2V-A14B-Diffusers",
    "wan2.2-i2v-a14b": "Wan-AI/Wan2.2-I2V-A14B-Diffusers",
    "wan2.2-vace-fun-a14b": "linoyts/Wan2.2-VACE-Fun-14B-diffusers",
    "wan2.2-ti2v-5b": "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
}
"""The weights of each base variant on the Hugging Face hub, in diffusers' layout."""

INTERFACE = {"name": "NCCL_SOCKET_IFNAME", "value": "eth0"}
"""The pods' network, by which NCCL's ranks find each other; gloo's take the one with the pod's address."""

INGRESS_REPLICAS = 2
"""One that is killed is not missed; with two front pods they spread over both."""

_DEMO_WEIGHTS = "models/demo/weights"
_IN_IMAGE = "/opt/wan-serve"
_HEADER = "# Written by `python -m deploy.generate`; copy it before you change it.\n"


def single_machine(variant: Variant, gpus: int) -> dict[str, Any]:
    """Return the configuration for one machine: weights of the hub, everything else in ``data``."""
    model = _model(variant, gpus, folder=None)
    model["autoscaling"] = {"min_replicas": 1, "max_replicas": "auto"}
    return _document({"data_dir": "data", "ingress_replicas": INGRESS_REPLICAS, "models": [model]})


def on_kubernetes(variant: Variant, gpus: int, nodes: int = 1) -> dict[str, Any]:
    """Return the ``serveConfigV2``: folders are volumes, and GPU pods come and go with the work.

    ``gpus``: those of a pod; ``nodes``: pods, each on a node of its own, that make a video together.
    """
    model = _model(variant, gpus * nodes, folder="/weights")
    if nodes > 1:
        model["nodes_per_replica"] = nodes
    model["autoscaling"] = {"min_replicas": 0, "max_replicas": "auto"}
    args = {
        "data_dir": "/data",
        "database_url": "sqlite+aiosqlite:////store/tasks.db",
        "max_gpus": gpus * MOST_PODS,
        "ingress_replicas": INGRESS_REPLICAS,
        # A cluster that another has followed may go on with its runs for as long.
        "tasks": {"longest_run_s": LONGEST_RUN_S, "drain_s": LONGEST_RUN_S},
        "models": [model],
    }
    document = _document(args)
    # Both open the database, which only the front pod has.
    front = {"ray_actor_options": {"num_cpus": 0.1, "resources": {"front": 0.01}}}
    document["applications"][0]["deployments"] = [{"name": name, **front} for name in ("api", "coordinator")]
    return document


def overlay(variant: Variant, gpus: int, nodes: int = 1) -> dict[str, Any]:
    """Return the kustomization of one variant, number of GPUs of a pod, and number of pods for a video."""
    size = PodSize.of(variant, gpus)
    group = "/spec/rayClusterConfig/workerGroupSpecs/1"
    pod = f"{group}/template/spec"
    changes = [
        {"op": "add", "path": "/spec/serveConfigV2", "value": _dump(on_kubernetes(variant, gpus, nodes))},
        # The places below are numbers: fail where the base has something else there.
        {"op": "test", "path": f"{group}/groupName", "value": "gpu"},
        {"op": "test", "path": f"{pod}/volumes/1/name", "value": "shm"},
        {"op": "add", "path": f"{pod}/containers/0/resources", "value": size.resources()},
        {"op": "add", "path": f"{pod}/volumes/1/emptyDir/sizeLimit", "value": f"{size.shared_memory_gib}Gi"},
    ]
    if nodes > 1:
        changes.append({"op": "add", "path": f"{pod}/containers/0/env/-", "value": INTERFACE})
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../../base"],
        "patches": [{"target": {"kind": "RayService", "name": "wan-serve"}, "patch": _dump(changes)}],
    }


def on_several_nodes() -> Iterator[Variant]:
    """Yield the variants for a video of which more than one node is worth it: large, and with many steps."""
    for variant in VARIANTS.values():
        if parameters(variant)["transformer"] >= LARGE and not variant.distilled:
            yield variant


def chart_sizes() -> dict[str, Any]:
    """Return the chart's table: each variant's weights, and the size of its pods by number of GPUs."""
    return {
        variant.name: {
            "weights": _model(variant, 1, folder="/weights")["weights"],
            "fusedLoras": _model(variant, 1, folder="/weights").get("fused_loras", []),
            "pods": {str(gpus): PodSize.of(variant, gpus).in_chart() for gpus in GPUS},
        }
        for variant in VARIANTS.values()
    }


def alert_rules() -> dict[str, Any]:
    """Return the alert rules as an object for the Prometheus operator."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "wan-serve"},
        "spec": yaml.load(ALERTS.read_text(), yaml.CSafeLoader),
    }


def files() -> Iterator[tuple[Path, str]]:
    """Yield each file's path and text."""
    for variant in VARIANTS.values():
        for gpus in GPUS:
            name = f"{variant.name}-{gpus}gpu"
            yield ROOT / f"configs/{name}.yaml", _HEADER + _dump(single_machine(variant, gpus))
            path = ROOT / f"kuberay/overlays/{name}/kustomization.yaml"
            yield path, _HEADER + _dump(overlay(variant, gpus))
    for variant in on_several_nodes():
        path = ROOT / f"kuberay/overlays/{variant.name}-{NODES}x{GPUS[-1]}gpu/kustomization.yaml"
        yield path, _HEADER + _dump(overlay(variant, GPUS[-1], NODES))
    yield from model_pages.pages(REPOSITORIES)
    yield ROOT / "helm/wan-serve/variants.yaml", _HEADER + _dump(chart_sizes())
    # A chart reads no file beside itself.
    yield ROOT / "helm/wan-serve/alerts.yaml", ALERTS.read_text()
    # Nor does a kustomization.
    for copy in ("helm/wan-serve/dashboard.json", "kuberay/components/grafana/wan-serve.json"):
        yield ROOT / copy, DASHBOARD.read_text()
    path = ROOT / "kuberay/components/prometheus-operator/alerts.yaml"
    yield path, "# Written by `python -m deploy.generate` from deploy/alerts.yaml.\n" + _dump(alert_rules())


def main() -> None:
    """Write the files."""
    for path, text in files():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _document(args: Mapping[str, Any]) -> dict[str, Any]:
    application = {
        "name": "wan-serve",
        "route_prefix": "/",
        "import_path": "serve_app.app:build",
        "autoscaling_policy": {"policy_function": "serve_app.scaling_policy:policy"},
        "args": dict(args),
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": 8000},
        "applications": [application],
    }


def _model(variant: Variant, gpus: int, folder: str | None) -> dict[str, Any]:
    """Return a model's settings; ``folder`` has the weights, None for those of the hub."""
    base = variant.name.removesuffix("-distill")
    model: dict[str, Any] = {"name": variant.name, "variant": variant.name, "devices_per_replica": gpus}
    if base == "demo":
        model["weights"] = f"{_IN_IMAGE}/{_DEMO_WEIGHTS}" if folder else _DEMO_WEIGHTS
    else:
        repository = REPOSITORIES[base]
        model["weights"] = f"{folder}/{repository.partition('/')[2]}" if folder else repository
    if variant.distilled:
        model["fused_loras"] = _distillation(variant, base, folder, model["weights"])
    return model


def _distillation(variant: Variant, base: str, folder: str | None, weights: str) -> list[dict[str, str]]:
    """Return the LoRAs that make a base model a distilled one; the operator puts them there."""
    if base == "demo":
        return [{"file": f"{weights}/4_steps_lora.safetensors"}]
    place = f"{folder or 'weights'}/distill/{base}"
    if variant.boundary is None:
        return [{"file": f"{place}.safetensors"}]
    experts = ("high_noise", "low_noise")
    return [{"file": f"{place}/{expert}.safetensors", "expert": expert} for expert in experts]


class _Dumper(yaml.CSafeDumper):
    """Writes a text of several lines as a block, and nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.CSafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _dump(value: object) -> str:
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=110)
    return text


if __name__ == "__main__":
    main()
