"""Rendered manifests: what ``kubectl kustomize`` and ``helm template`` print, and the schemas for it."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(__file__).parent / "schemas"
GROUPS = {
    "ConfigMap": "io.k8s.api.core.v1",
    "Job": "io.k8s.api.batch.v1",
    "NetworkPolicy": "io.k8s.api.networking.v1",
    "PersistentVolumeClaim": "io.k8s.api.core.v1",
}
OF_PROMETHEUS_OPERATOR = ("PodMonitor", "PrometheusRule")
Objects = Mapping[tuple[str, str], dict[str, Any]]
"""Objects by kind and name."""


def rendered(*command: str | Path) -> Objects:
    """Return the objects that a command prints; each kind and name once."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return objects(done.stdout)


def objects(text: str) -> Objects:
    documents = [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]
    named = {(each["kind"], each["metadata"]["name"]): each for each in documents}
    assert len(named) == len(documents)
    return named


def faults(manifest: Mapping[str, Any]) -> list[str]:
    """Return what the schema of the object's kind says against it."""
    found = validator(manifest["kind"]).iter_errors(manifest)
    return [f"{error.json_path}: {error.message}" for error in found]


@cache
def validator(kind: str) -> Draft202012Validator:
    if kind == "RayService":
        return Draft202012Validator(strict(json.loads((SCHEMAS / "rayservice-v1.json").read_text())))
    if kind in OF_PROMETHEUS_OPERATOR:
        schema = json.loads((SCHEMAS / "prometheus-operator-v1.json").read_text())
        return Draft202012Validator({**schema, "$ref": f"#/$defs/{kind}"})
    schema = json.loads((SCHEMAS / "kubernetes-v1.34.json").read_text())
    return Draft202012Validator({**schema, "$ref": f"#/$defs/{GROUPS[kind]}.{kind}"})


def strict(schema: Any) -> Any:
    """Return the structural schema of a custom resource as a JSON schema that knows no unknown fields."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: strict(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        changed.pop("anyOf", None)
        changed["type"] = ["integer", "string"]
    is_object = schema.get("type") == "object" and "properties" in schema
    if is_object and not schema.get("x-kubernetes-preserve-unknown-fields"):
        changed["additionalProperties"] = False
    return changed


def pods(service: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield each group of pods as its name, the group, and the pod's spec."""
    cluster = service["spec"]["rayClusterConfig"]
    groups: Sequence[dict[str, Any]] = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        yield group.get("groupName", "head"), group, group["template"]["spec"]
