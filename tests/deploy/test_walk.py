"""The first apply of docs/kubernetes.md: its commands that need no cluster, and its manifests, are tried."""

import os
import re
import shlex
from pathlib import Path

import pytest

from tests.deploy.manifests import ROOT, faults, objects, pods, rendered

PAGE = (ROOT / "docs/kubernetes.md").read_text()
BLOCKS = re.findall(r"^```(bash|yaml)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]

YAML = [text for kind, text in BLOCKS if kind == "yaml"]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with deploy/ and the kustomization of the page."""
    (text,) = (text for text in YAML if text.startswith("#"))
    place = re.match(r"# (\S+)", text)
    assert place is not None
    path = tmp_path.resolve() / place[1]
    path.parent.mkdir()
    path.write_text(text.replace("../deploy", os.path.relpath(ROOT / "deploy", path.parent)))
    monkeypatch.chdir(tmp_path)
    Path("deploy").symlink_to(ROOT / "deploy")
    return tmp_path


def test_the_commands_that_render_manifests_work_as_they_stand(
    checkout: Path, kubectl: Path, helm: Path
) -> None:
    programs = {"kubectl": kubectl, "helm": helm}
    commands = [line for line in COMMANDS if re.match(r"kubectl kustomize |helm template ", line)]
    assert len(commands) == 2
    for command in commands:
        program, *words = shlex.split(command)
        found = rendered(programs[program], *words)
        assert {name: said for name, each in found.items() if (said := faults(each))} == {}
        assert ("RayService", "wan-serve") in found


def test_the_kustomization_of_the_page_sets_images_classes_and_namespace(
    checkout: Path, kubectl: Path
) -> None:
    found = rendered(kubectl, "kustomize", checkout / "my-cluster")
    assert {each["metadata"]["namespace"] for each in found.values()} == {"video"}
    images = {pod["containers"][0]["image"] for _, _, pod in pods(found["RayService", "wan-serve"])}
    assert images == {f"registry.example.com/wan-serve-{kind}:0.1.0" for kind in ("cpu", "cuda")}
    classes = {
        name: each["spec"].get("storageClassName")
        for (kind, name), each in found.items()
        if kind == "PersistentVolumeClaim"
    }
    assert classes == {"wan-serve-data": "nfs", "wan-serve-weights": "nfs", "wan-serve-store": None}
    assert ("NetworkPolicy", "wan-serve-monitoring") in found


def test_the_patch_for_upgrades_without_a_pause_starts_a_second_cluster_and_keeps_the_first_for_a_while(
    checkout: Path, kubectl: Path
) -> None:
    (patch,) = (text for text in YAML if text.startswith("  - target"))
    path = checkout / "my-cluster/kustomization.yaml"
    path.write_text(path.read_text() + patch)
    service = rendered(kubectl, "kustomize", checkout / "my-cluster")["RayService", "wan-serve"]
    assert not faults(service)
    assert service["spec"]["upgradeStrategy"] == {"type": "NewCluster"}
    assert service["spec"]["rayClusterDeletionDelaySeconds"] > 3600


def test_the_job_that_fetches_weights_puts_them_where_the_overlay_of_the_page_looks() -> None:
    ((_, job),) = objects((ROOT / "deploy/kuberay/fetch-weights.yaml").read_text()).items()
    assert not faults(job)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment["REPOSITORY"].partition("/")[2] == environment["FOLDER"]
    overlay = ROOT / "deploy/kuberay/overlays/wan2.1-t2v-1.3b-1gpu/kustomization.yaml"
    assert f"weights: /weights/{environment['FOLDER']}\n" in overlay.read_text()


def test_what_the_page_names_in_the_cluster_is_in_the_manifests() -> None:
    names = set(re.findall(r"job/([\w-]+)|rayservice ([\w-]+)|service/([\w-]+)-serve-svc", PAGE))
    assert {name for each in names for name in each if name} == {"wan-serve", "wan-serve-fetch-weights"}
