"""The manifests that ``kubectl kustomize`` renders, against the schemas and what the service needs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import generate
from deploy.pod_size import PodSize
from models.variants import VARIANTS
from serve_app.config.ray_environment import ray_environment
from tests.deploy.manifests import ROOT, Objects, faults, pods, rendered

OVERLAYS = ROOT / "deploy/kuberay/overlays"
SAMPLE = [("wan2.1-t2v-1.3b", 1), ("wan2.2-i2v-a14b-distill", 8)]
"""The smallest and the largest; all overlays are written by the same lines, which another test holds."""


@pytest.fixture(scope="module", params=SAMPLE, ids=str)
def case(request: pytest.FixtureRequest, kubectl: Path) -> tuple[str, int, Objects]:
    variant, gpus = request.param
    return variant, gpus, rendered(kubectl, "kustomize", OVERLAYS / f"{variant}-{gpus}gpu")


@pytest.fixture(scope="module")
def service(case: tuple[str, int, Objects]) -> dict[str, Any]:
    return case[2]["RayService", "wan-serve"]


def test_every_object_satisfies_the_schema_of_its_kind(case: tuple[str, int, Objects]) -> None:
    objects = case[2]
    # No PodDisruptionBudget: a RayCluster has no scale subresource; with maxUnavailable no pod could go.
    assert {kind for kind, _ in objects} == {"NetworkPolicy", "PersistentVolumeClaim", "RayService"}
    assert {name: found for name, each in objects.items() if (found := faults(each))} == {}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda spec: spec.update(serveConfigV3=""),
        lambda spec: spec["rayClusterConfig"]["workerGroupSpecs"][0].pop("groupName"),
        lambda spec: spec["rayClusterConfig"]["workerGroupSpecs"][1].update(maxReplicas="4"),
        lambda spec: spec["rayClusterConfig"]["headGroupSpec"]["template"]["spec"].update(container=[]),
    ],
)
def test_the_schema_finds_a_misspelt_a_missing_and_a_wrong_field(service: dict[str, Any], spoil: Any) -> None:
    spoilt = yaml.load(yaml.dump(service, Dumper=yaml.CSafeDumper), yaml.CSafeLoader)
    spoil(spoilt["spec"])
    assert len(faults(spoilt)) == 1


def test_the_configuration_arrives_as_it_was_made(case: tuple[str, int, Objects]) -> None:
    variant, gpus, objects = case
    text = objects["RayService", "wan-serve"]["spec"]["serveConfigV2"]
    assert yaml.load(text, yaml.CSafeLoader) == generate.on_kubernetes(VARIANTS[variant], gpus)


def test_gpu_pods_start_from_none_and_may_be_as_many_as_the_settings_count(
    case: tuple[str, int, Objects], service: dict[str, Any]
) -> None:
    variant, gpus, _ = case
    groups = {name: (group, pod) for name, group, pod in pods(service)}
    group, pod = groups["gpu"]
    assert (group["minReplicas"], group["replicas"]) == (0, 0)
    config = yaml.load(service["spec"]["serveConfigV2"], yaml.CSafeLoader)
    args = config["applications"][0]["args"]
    assert group["maxReplicas"] * gpus == args["max_gpus"]
    resources = pod["containers"][0]["resources"]
    assert resources == PodSize.of(VARIANTS[variant], gpus).resources()
    memory, shared = (int(text.removesuffix("Gi")) for text in (resources["limits"]["memory"], shm(pod)))
    assert shared < memory, "what lies in /dev/shm counts to the memory of the pod"


def shm(pod: dict[str, Any]) -> str:
    (size,) = (each["emptyDir"]["sizeLimit"] for each in pod["volumes"] if each["name"] == "shm")
    assert isinstance(size, str)
    return size


def test_a_gpu_pod_may_end_its_run_before_it_is_killed(service: dict[str, Any]) -> None:
    config = yaml.load(service["spec"]["serveConfigV2"], yaml.CSafeLoader)
    longest = config["applications"][0]["args"]["tasks"]["longest_run_s"]
    (gpu,) = (pod for name, _, pod in pods(service) if name == "gpu")
    assert environment(gpu)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] == str(longest)
    assert gpu["terminationGracePeriodSeconds"] >= longest + 30


def environment(pod: dict[str, Any]) -> dict[str, str | None]:
    return {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}


def test_ray_is_set_up_alike_on_every_pod_as_the_launcher_does_but_for_fixed_ports(
    service: dict[str, Any],
) -> None:
    found = [environment(pod) for _, _, pod in pods(service)]
    for each in found:
        each.pop("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", None)  # of each group its own
        assert each.pop("WAN_SERVE_SERVICE") is None  # taken from the pod's labels
        assert each == found[0]
    launcher = ray_environment()
    assert found[0].keys() == launcher.keys()
    assert {name for name in launcher if launcher[name] != found[0][name]} <= {
        name for name in launcher if name.endswith("_PORT")
    }
    assert all(pod["containers"][0]["ports"] for _, _, pod in pods(service))


def test_the_head_runs_no_replica_and_one_pod_alone_has_the_database(service: dict[str, Any]) -> None:
    groups = {name: (group, pod) for name, group, pod in pods(service)}
    assert groups["head"][0]["rayStartParams"]["num-cpus"] == "0"
    front = groups["front"][0]
    assert (front["minReplicas"], front["replicas"], front["maxReplicas"]) == (1, 1, 1)
    assert yaml.safe_load(yaml.safe_load(front["rayStartParams"]["resources"])) == {"front": 1}
    with_store = [name for name, (_, pod) in groups.items() if "/store" in mounts(pod)]
    assert with_store == ["front"]
    assert service["spec"]["upgradeStrategy"] == {"type": "None"}, "a second cluster would open it too"


def mounts(pod: dict[str, Any]) -> set[str]:
    """Return where a pod's volumes are mounted; each mount has its volume."""
    mounted = pod["containers"][0]["volumeMounts"]
    assert {each["name"] for each in mounted} == {each["name"] for each in pod["volumes"]}
    return {each["mountPath"] for each in mounted}


def test_each_folder_that_the_configuration_names_is_a_volume_of_the_pods_that_check_it(
    service: dict[str, Any],
) -> None:
    for _, _, pod in pods(service):
        assert mounts(pod) >= {"/data", "/weights", "/tmp", "/dev/shm"}


def test_each_claim_that_a_pod_names_is_there(case: tuple[str, int, Objects]) -> None:
    objects = case[2]
    claims = {name for kind, name in objects if kind == "PersistentVolumeClaim"}
    named = {
        volume["persistentVolumeClaim"]["claimName"]
        for _, _, pod in pods(objects["RayService", "wan-serve"])
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert named == claims


def test_pods_have_no_more_rights_than_the_restricted_standard_grants(service: dict[str, Any]) -> None:
    for _, _, pod in pods(service):
        of_pod, of_container = pod["securityContext"], pod["containers"][0]["securityContext"]
        assert (of_pod["runAsNonRoot"], of_pod["runAsUser"]) == (True, 1000)
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert of_container == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        kinds = {kind for volume in pod["volumes"] for kind in volume.keys() - {"name"}}
        assert kinds <= {"emptyDir", "persistentVolumeClaim"}


def test_ray_wants_its_token_and_the_versions_are_those_of_this_project(service: dict[str, Any]) -> None:
    cluster = service["spec"]["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token"}
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"ray=={cluster['rayVersion']}" in pins
    version = next(
        line.split('"')[1]
        for line in (ROOT / "pyproject.toml").read_text().splitlines()
        if line.startswith("version = ")
    )
    images = {pod["containers"][0]["image"] for _, _, pod in pods(service)}
    assert images == {f"wan-serve-cpu:{version}", f"wan-serve-cuda:{version}"}
