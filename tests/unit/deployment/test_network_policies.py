"""Who may talk to whom on Kubernetes: the policies are evaluated for pairs of pods, as a network plugin would."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kustomization import Document, build, read, select

K8S = Path(__file__).parents[3] / "k8s"


class Pod(NamedTuple):
    """A pod's labels and its namespace; or an address outside the cluster."""

    labels: dict[str, str]
    namespace: str = "dreamgym"
    address: str = ""


HEAD = Pod({"dreamgym-part": "ray", "ray.io/node-type": "head"})
WORKER = Pod({"dreamgym-part": "ray", "ray.io/node-type": "worker"})
CLEANUP = Pod({"dreamgym-part": "ray", "ray.io/node-type": "redis-cleanup"})
QDRANT = Pod({"dreamgym-part": "qdrant"})
REDIS = Pod({"dreamgym-part": "redis"})
SUBMITTER = Pod({"dreamgym-part": "submitter"})
STRANGER = Pod({"app": "stranger"})
ELSEWHERE = Pod({"dreamgym-part": "ray", "ray.io/node-type": "head"}, "default")
OPERATOR = Pod({"app.kubernetes.io/name": "kuberay-operator"}, "kuberay-system")
PROMETHEUS = Pod({"app.kubernetes.io/name": "prometheus"}, "monitoring")
DNS = Pod({"k8s-app": "kube-dns"}, "kube-system")
API_SERVER = Pod({}, "", "10.96.0.1")
METADATA = Pod({}, "", "169.254.169.254")
INTERNET = Pod({}, "", "93.184.216.34")


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def is_peer(peer: dict[str, Any], pod: Pod) -> bool:
    block, namespaces = peer.get("ipBlock"), peer.get("namespaceSelector")
    if block or pod.address:
        networks = [ipaddress.ip_network(each) for each in [block["cidr"], *block.get("except", [])]] if block else []
        inside = [bool(pod.address) and ipaddress.ip_address(pod.address) in network for network in networks]
        return inside[:1] == [True] and not any(inside[1:])
    if namespaces is None:
        here = pod.namespace == "dreamgym"
    else:
        here = matches(namespaces, {"kubernetes.io/metadata.name": pod.namespace})
    return here and matches(peer.get("podSelector", {}), pod.labels)


def permits(policies: list[Document], direction: str, pod: Pod, other: Pod, port: int) -> bool:
    """Whether one end agrees; a pod outside the namespace always does, as no policy here selects it."""
    if pod.namespace != "dreamgym":
        return True
    specs = [each["spec"] for each in policies if matches(each["spec"]["podSelector"], pod.labels)]
    specs = [spec for spec in specs if direction in spec["policyTypes"]]
    assert specs, "no policy selects the pod: everything would be allowed"
    peers = "from" if direction == "Ingress" else "to"
    for rule in (rule for spec in specs for rule in spec.get(direction.lower(), [])):
        assert rule[peers], "a rule without peers allows everybody"
        ports = [each["port"] for each in rule.get("ports", [{"port": port}])]
        if port in ports and any(is_peer(peer, other) for peer in rule[peers]):
            return True
    return False


def talk(policies: list[Document], source: Pod, target: Pod, port: int) -> bool:
    """Whether `source` can open a connection to a port of `target`."""
    return permits(policies, "Egress", source, target, port) and permits(policies, "Ingress", target, source, port)


@pytest.fixture(scope="module")
def policies() -> list[Document]:
    return select(build(K8S / "overlays" / "gpu-nvidia"), kind="NetworkPolicy")


def test_the_namespace_is_closed_by_default(policies: list[Document]) -> None:
    (deny,) = select(policies, name="default-deny")
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        (WORKER, HEAD, 6379),
        (HEAD, WORKER, 23456),
        (WORKER, WORKER, 29500),
        (WORKER, QDRANT, 6333),
        (HEAD, QDRANT, 6333),
        (HEAD, REDIS, 6379),
        (CLEANUP, REDIS, 6379),
        (SUBMITTER, HEAD, 8265),
        (OPERATOR, HEAD, 8265),
        (HEAD, API_SERVER, 443),
        (WORKER, DNS, 53),
        (SUBMITTER, DNS, 53),
        (PROMETHEUS, WORKER, 8080),
        (PROMETHEUS, HEAD, 44227),
        (PROMETHEUS, QDRANT, 6333),
    ],
)
def test_what_must_talk_may(policies: list[Document], source: Pod, target: Pod, port: int) -> None:
    assert talk(policies, source, target, port)


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        (STRANGER, HEAD, 8265),
        (STRANGER, QDRANT, 6333),
        (ELSEWHERE, HEAD, 6379),
        (ELSEWHERE, QDRANT, 6333),
        (ELSEWHERE, REDIS, 6379),
        (WORKER, REDIS, 6379),
        (SUBMITTER, QDRANT, 6333),
        (SUBMITTER, HEAD, 6379),
        (SUBMITTER, WORKER, 8265),
        (OPERATOR, HEAD, 6379),
        (OPERATOR, WORKER, 8265),
        (PROMETHEUS, HEAD, 8265),
        (PROMETHEUS, REDIS, 6379),
        (QDRANT, INTERNET, 443),
        (QDRANT, DNS, 53),
        (REDIS, HEAD, 6379),
        (WORKER, API_SERVER, 443),
        (WORKER, INTERNET, 443),
        (HEAD, INTERNET, 443),
        (INTERNET, HEAD, 8265),
    ],
)
def test_nothing_else_may(policies: list[Document], source: Pod, target: Pod, port: int) -> None:
    assert not talk(policies, source, target, port)


def test_the_internet_component_opens_public_https_and_no_more(policies: list[Document]) -> None:
    opened = policies + read(K8S / "components" / "internet" / "network.yaml")
    assert talk(opened, WORKER, INTERNET, 443)
    assert not talk(opened, WORKER, INTERNET, 80)
    assert not talk(opened, WORKER, METADATA, 443)
    assert not talk(opened, WORKER, API_SERVER, 443)
    assert not talk(opened, QDRANT, INTERNET, 443)
