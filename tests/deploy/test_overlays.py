"""The manifests that ``kubectl kustomize`` renders, against the schemas and what the service needs."""

from dataclasses import dataclass
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
SAMPLE = [("wan2.1-t2v-1.3b", 1, 1), ("wan2.2-i2v-a14b-distill", 8, 1), ("wan2.2-i2v-a14b", 8, 2)]
"""The smallest, the largest, and one on two nodes. All are written alike, as another test holds."""


def overlay_of(variant: str, gpus: int, nodes: int) -> Path:
    return OVERLAYS / (f"{variant}-{gpus}gpu" if nodes == 1 else f"{variant}-{nodes}x{gpus}gpu")


@dataclass(frozen=True, slots=True)
class Case:
    """A rendered overlay."""

    variant: str
    gpus: int
    nodes: int
    objects: Objects


@pytest.fixture(scope="module", params=SAMPLE, ids=str)
def case(request: pytest.FixtureRequest, kubectl: Path) -> Case:
    variant, gpus, nodes = request.param
    return Case(variant, gpus, nodes, rendered(kubectl, "kustomize", overlay_of(variant, gpus, nodes)))


@pytest.fixture(scope="module")
def service(case: Case) -> dict[str, Any]:
    return case.objects["RayService", "wan-serve"]


def test_every_object_satisfies_the_schema_of_its_kind(case: Case) -> None:
    objects = case.objects
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


def test_the_configuration_arrives_as_it_was_made(case: Case) -> None:
    text = case.objects["RayService", "wan-serve"]["spec"]["serveConfigV2"]
    assert yaml.load(text, yaml.CSafeLoader) == generate.on_kubernetes(
        VARIANTS[case.variant], case.gpus, case.nodes
    )


def test_gpu_pods_start_from_none_and_may_be_as_many_as_the_settings_count(
    case: Case, service: dict[str, Any]
) -> None:
    groups = {name: (group, pod) for name, group, pod in pods(service)}
    group, pod = groups["gpu"]
    assert (group["minReplicas"], group["replicas"]) == (0, 0)
    config = yaml.load(service["spec"]["serveConfigV2"], yaml.CSafeLoader)
    args = config["applications"][0]["args"]
    assert group["maxReplicas"] * case.gpus == args["max_gpus"]
    resources = pod["containers"][0]["resources"]
    assert resources == PodSize.of(VARIANTS[case.variant], case.gpus).resources()
    memory, shared = (int(text.removesuffix("Gi")) for text in (resources["limits"]["memory"], shm(pod)))
    assert shared < memory, "what lies in /dev/shm counts to the memory of the pod"


def test_pods_that_make_a_video_together_are_as_many_as_it_needs_and_find_each_other(
    case: Case, service: dict[str, Any]
) -> None:
    config = yaml.load(service["spec"]["serveConfigV2"], yaml.CSafeLoader)
    (model,) = config["applications"][0]["args"]["models"]
    assert model["devices_per_replica"] == case.gpus * case.nodes
    assert model.get("nodes_per_replica", 1) == case.nodes
    groups = {name: (group, pod) for name, group, pod in pods(service)}
    group, pod = groups["gpu"]
    assert group["maxReplicas"] % case.nodes == 0, "a pod would be of no use"
    assert environment(pod).get("NCCL_SOCKET_IFNAME") == ("eth0" if case.nodes > 1 else None)


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
        each.pop("NCCL_SOCKET_IFNAME", None)
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


def test_each_claim_that_a_pod_names_is_there(case: Case) -> None:
    assert_claims(case.objects)


def test_two_front_pods_share_no_volume_of_a_single_node(everything: Objects) -> None:
    service = everything["RayService", "wan-serve"]
    front = next(group for name, group, _ in pods(service) if name == "front")
    assert (front["minReplicas"], front["replicas"], front["maxReplicas"]) == (2, 2, 2)
    assert_claims(everything)
    claims = [each for (kind, _), each in everything.items() if kind == "PersistentVolumeClaim"]
    modes = {tuple(each["spec"]["accessModes"]) for each in claims}
    assert modes == {("ReadWriteMany",)}


def test_a_gateway_moves_the_traffic_for_as_long_as_a_run_may_take(everything: Objects) -> None:
    strategy = everything["RayService", "wan-serve"]["spec"]["upgradeStrategy"]
    options = strategy["clusterUpgradeOptions"]
    assert strategy["type"] == "NewClusterWithIncrementalUpgrade"
    assert options["stepSizePercent"] <= options["maxSurgePercent"]
    steps = 100 / options["stepSizePercent"]
    assert steps * options["intervalSeconds"] >= generate.LONGEST_RUN_S


def assert_claims(objects: Objects) -> None:
    """Assert that each claim that a pod names is there, and no other."""
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
