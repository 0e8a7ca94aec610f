"""What the network policies let through, worked out as Kubernetes does, for the ports that the pods open."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.manifests import Objects, rendered


@dataclass(frozen=True, slots=True)
class Peer:
    """A pod, or with an address alone something outside of the cluster."""

    namespace: str = "video"
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = "10.1.2.3"

    @property
    def is_pod(self) -> bool:
        return bool(self.namespace)


def part(name: str) -> Peer:
    return Peer(labels={"app": "wan-serve", "part": name})


HEAD, FRONT, GPU = part("head"), part("front"), part("gpu")
OPERATOR = Peer("kuberay-system", {"app.kubernetes.io/name": "kuberay-operator"})
DNS = Peer("kube-system", {"k8s-app": "kube-dns"})
STRANGER = Peer("other", {"app": "wan-serve"})
CLIENT = Peer(namespace="", address="203.0.113.7")
PROMETHEUS = Peer("monitoring", {"app": "prometheus"})
API_SERVER = Peer(namespace="", address="10.0.0.1")
PRIVATE_HOST = Peer(namespace="", address="10.9.8.7")

HTTP = 8000
DASHBOARD = 8265
HAPROXY_METRICS, RAY_METRICS = 9101, 8080
INSIDE = {
    "GCS": 6379,
    "dashboard": DASHBOARD,
    "dashboard agent": 52365,
    "Ray client": 10001,
    "first worker": 10002,
    "HAProxy's statistics": 8404,
    "HAProxy's metrics": HAPROXY_METRICS,
    "fallback proxy": 8500,
    "a replica, from HAProxy": 30000,
    "Ray's metrics": RAY_METRICS,
    "a rank's rendezvous": 40001,
}
"""What the pods open for each other: Ray's defaults, as a running service was seen to open them."""


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    assert selector is not None and selector.keys() <= {"matchLabels"}, "more is not worked out here"
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def is_peer(rule: Mapping[str, Any], peer: Peer) -> bool:
    if "ipBlock" in rule:
        address, block = ip_address(peer.address), rule["ipBlock"]
        networks = [ip_network(each) for each in block.get("except", ())]
        return address in ip_network(block["cidr"]) and not any(address in each for each in networks)
    if not peer.is_pod:
        return False
    namespace = {"kubernetes.io/metadata.name": peer.namespace}
    same = peer.namespace == "video"
    in_namespace = selects(rule["namespaceSelector"], namespace) if "namespaceSelector" in rule else same
    return in_namespace and selects(rule.get("podSelector", {}), peer.labels)


def rules(objects: Objects, pod: Peer, direction: str) -> Iterator[list[dict[str, Any]]]:
    """Yield the rules of each policy that is for this pod in this direction."""
    for (kind, _), policy in objects.items():
        if kind == "NetworkPolicy" and pod.namespace == "video":
            spec = policy["spec"]
            if selects(spec["podSelector"], pod.labels) and direction in spec["policyTypes"]:
                yield spec.get(direction.lower(), [])


def lets(objects: Objects, pod: Peer, direction: str, other: Peer, port: int, protocol: str) -> bool:
    found = list(rules(objects, pod, direction))
    if not found:
        return True  # a pod without policies takes and sends anything
    side = "from" if direction == "Ingress" else "to"
    return any(
        (side not in rule or any(is_peer(each, other) for each in rule[side]))
        and ("ports" not in rule or {"port": port, "protocol": protocol} in rule["ports"])
        for policy in found
        for rule in policy
    )


@dataclass(frozen=True, slots=True)
class Network:
    objects: Objects

    def passes(self, source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
        leaves = lets(self.objects, source, "Egress", target, port, protocol)
        return leaves and lets(self.objects, target, "Ingress", source, port, protocol)


@pytest.fixture(scope="module")
def network(kubectl: Path) -> Network:
    folder = Path(__file__).parents[2] / "deploy/kuberay/overlays/demo-1gpu"
    return Network(rendered(kubectl, "kustomize", folder))


@pytest.fixture(scope="module")
def with_components(everything: Objects) -> Network:
    return Network(everything)


def test_the_pods_reach_each_other_on_every_port_that_they_open(network: Network) -> None:
    for source in (HEAD, FRONT, GPU):
        for target in (HEAD, FRONT, GPU):
            blocked = [name for name, port in INSIDE.items() if not network.passes(source, target, port)]
            assert not blocked


@pytest.mark.parametrize("outsider", [STRANGER, CLIENT, DNS, OPERATOR], ids=str)
def test_others_reach_http_alone_and_the_operator_the_dashboard(network: Network, outsider: Peer) -> None:
    for target in (HEAD, FRONT, GPU):
        assert network.passes(outsider, target, HTTP)
        reached = {port for port in INSIDE.values() if network.passes(outsider, target, port)}
        assert reached == ({DASHBOARD} if (outsider, target) == (OPERATOR, HEAD) else set())


def test_pods_ask_for_names_and_the_autoscaler_asks_the_api_server(network: Network) -> None:
    for source in (HEAD, FRONT, GPU):
        assert network.passes(source, DNS, 53, "UDP") and network.passes(source, DNS, 53)
        assert not network.passes(source, PRIVATE_HOST, 5432)
    reached = [source for source in (HEAD, FRONT, GPU) if network.passes(source, API_SERVER, 6443)]
    assert reached == [HEAD]
    assert not network.passes(GPU, CLIENT, 443), "webhooks and the hub are for a component"


def test_components_open_what_they_say_and_nothing_else(with_components: Network) -> None:
    assert with_components.passes(GPU, CLIENT, 443) and not with_components.passes(GPU, CLIENT, 80)
    assert not with_components.passes(FRONT, PRIVATE_HOST, 443)
    reached = {port for port in INSIDE.values() if with_components.passes(PROMETHEUS, GPU, port)}
    assert reached == {HAPROXY_METRICS, RAY_METRICS}
    for pod in (HEAD, FRONT, GPU):
        assert with_components.passes(pod, PRIVATE_HOST, 5432) and with_components.passes(
            pod, PRIVATE_HOST, 9000
        )
    assert with_components.passes(HEAD, PRIVATE_HOST, 6379)
    assert not with_components.passes(GPU, PRIVATE_HOST, 6379)
