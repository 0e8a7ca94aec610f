"""The first apply of docs/kubernetes.md: its commands that need no cluster, and its manifests, are tried."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import ROOT, faults, objects, pods, rendered

PAGE = (ROOT / "docs/kubernetes.md").read_text()
BLOCKS = re.findall(r"^```(bash|yaml)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]

YAML = [text for kind, text in BLOCKS if kind == "yaml"]


def adjusted(text: str, path: Path) -> str:
    """Return a part of a kustomization that lies at ``path``, with the real place of deploy/."""
    return text.replace("../deploy", os.path.relpath(ROOT / "deploy", path.parent))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with deploy/ and the kustomization of the page."""
    (text,) = (text for text in YAML if text.startswith("#"))
    place = re.match(r"# (\S+)", text)
    assert place is not None
    path = tmp_path.resolve() / place[1]
    path.parent.mkdir()
    path.write_text(adjusted(text, path))
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


@pytest.mark.slow
def test_an_upgrade_by_a_second_cluster_keeps_the_first_until_it_has_drained_and_shares_no_volume_of_one_pod(
    checkout: Path, kubectl: Path, helm: Path
) -> None:
    page = (ROOT / "docs/operations/upgrade.md").read_text()
    (components,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    changes = re.findall(r"^sed .*$", page, re.MULTILINE)
    path = checkout / "my-cluster/kustomization.yaml"
    path.write_text(
        re.sub(r"components:\n(  - .*\n)+", lambda _: adjusted(components, path), path.read_text())
    )
    tags = []
    for change in changes:
        subprocess.run(shlex.split(change), check=True)
        found = rendered(kubectl, "kustomize", checkout / "my-cluster")
        service = found["RayService", "wan-serve"]
        tags.append({pod["containers"][0]["image"].rpartition(":")[2] for _, _, pod in pods(service)})
    assert tags == [{"0.2.0"}, {"0.1.0"}]
    assert not faults(service)
    spec = service["spec"]
    assert spec["upgradeStrategy"] == {"type": "NewCluster"}
    args = yaml.safe_load(spec["serveConfigV2"])["applications"][0]["args"]
    assert spec["rayClusterDeletionDelaySeconds"] > args["tasks"]["drain_s"] == args["tasks"]["longest_run_s"]
    assert claims(service) == {"wan-serve-data", "wan-serve-weights"}
    values = ("--set", "variant=wan2.1-t2v-1.3b", "--set", "clusterUpgrade=true", "--set", "stores.secret=s")
    of_chart = rendered(helm, "template", "wan-serve", "deploy/helm/wan-serve", *values)
    by_helm = of_chart["RayService", "wan-serve"]
    assert claims(by_helm) == claims(service) and ("PersistentVolumeClaim", "wan-serve-store") not in of_chart
    for field in ("upgradeStrategy", "rayClusterDeletionDelaySeconds"):
        assert by_helm["spec"][field] == spec[field]


def claims(service: dict[str, Any]) -> set[str]:
    """Return the claims of volumes that the pods of a cluster want."""
    volumes = [volume for _, _, pod in pods(service) for volume in pod["volumes"]]
    return {each["persistentVolumeClaim"]["claimName"] for each in volumes if "persistentVolumeClaim" in each}


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
