"""What addresses mean by a plan: its faults, the next free one, the plan as other objects."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

import pytest
from tests.builders import node

from percale.errors import BadInput
from percale.ipam.address_plan import rendering
from percale.ipam.address_plan.check import errors_of_names, findings
from percale.ipam.address_plan.plan import Plan
from percale.model.address_plan import AddressPlanSpec
from percale.model.calico_selector import parse_selector
from percale.model.ip_pool import IPPoolSpec
from percale.model.manifest.decoders import converted

NODES = {"for": "nodes", "form": "10.{room:0-15}.{env:0-15}.{host:1-32}"}
PODS = {"for": "pods", "bits": "172.16.0.0/12 room:4 env:3 node:5 pod:8"}
SERVICES = {"for": "services", "form": "10.96.{env:0-15}.{n}"}
NAMES = {"room": {"4": "berlin", "5": "hamburg"}, "env": {"1": "test", "7": "prod"}}
BIND = {"room": "node label zone", "env": "node label env"}


def plan(*ranges: dict[str, str], **fields: Any) -> Plan:
    spec = {"ranges": ranges or (NODES, PODS, SERVICES), "names": NAMES, "bind": BIND, **fields}
    return Plan(converted(spec, AddressPlanSpec))


def faults(*ranges: dict[str, str], routes: Sequence[tuple[str, str]] = (), **fields: Any) -> list[str]:
    """Code and message of each."""
    found = plan(*ranges, **fields)
    placed = [(ip_network(network), words) for network, words in routes]
    wrong = list(errors_of_names(found)) or list(findings(found, placed))
    return [f"{each.severity} {each.code}: {each.message}" for each in wrong]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10.4.7.21", "nodes: room 4 (berlin), env 7 (prod), host 21"),
        ("10.3.7.21", "nodes: room 3, env 7 (prod), host 21"),
        ("172.20.227.5", "pods: room 4 (berlin), env 7 (prod), node 3, pod 5"),
        ("172.20.227.0/24", "pods: room 4 (berlin), env 7 (prod), node 3"),
        ("172.20.0.0/16", "pods: room 4 (berlin)"),
        ("10.96.7.10", "services: env 7 (prod), n 10"),
        ("10.4.7.33", None),
        ("172.0.0.0/11", None),
        ("fd00::1", None),
    ],
)
def test_an_address_has_a_meaning(text: str, words: str | None) -> None:
    meaning = plan().meaning(ip_network(text))
    assert (None if meaning is None else str(meaning)) == words


def test_a_plan_without_faults() -> None:
    assert faults() == []


@pytest.mark.parametrize(
    ("ranges", "fields", "fault"),
    [
        (
            ({"for": "nodes", "form": "10.{room}.{env}.{host}"}, SERVICES),
            {},
            "error overlap: services overlaps nodes: 10.96.0.0 is nodes: room 96, env 0, host 0, and services: env 0, n 0",
        ),
        ((), {"reserve": ["172.17.0.0/16"]}, "error overlap: 172.17.0.0/16 lies in pods: 172.17.0.0 is pods: room 1,"),
        ((), {"names": {"env": {"9": "canary"}}}, "error overflow: canary does not fit into pods: there env is 0 to 7"),
        (
            ({"for": "services", "form": "10.{n}.0.0"},),
            {"names": {}, "bind": {}},
            "error not-a-network: a cluster's service",
        ),
        (
            ({"for": "services", "bits": "10.0.0.0/8 n:24"},),
            {"names": {}, "bind": {}},
            "error services: 10.0.0.0/8 is larger than /12",
        ),
        (
            ({"for": "pods", "form": "10.4{node:1}.{pod:1-9}.0"},),
            {"names": {}, "bind": {}},
            "error not-a-network: a node's subnet",
        ),
        (
            (PODS,),
            {"bind": {"room": "node label zone"}},
            "warning unbound: env in a pod's address says where its node is",
        ),
        (
            (PODS, {**NODES, "form": "10.{room}.{env}.{host}"}),
            {},
            "warning few-subnets: each room and env has subnets for 32 of 256 nodes",
        ),
        (
            ({"for": "pods", "bits": "10.0.0.0/8 room:4 env:3 node:11 pod:6"},),
            {},
            "warning small: a node's subnet is a /26: room for 61 pods",
        ),
        (({"for": "storage", "form": "127.{room}.{env}.1"},), {}, "error special: 127.0.0.1 is of 127.0.0.0/8"),
        (
            ({"for": "storage", "form": "11.{room}.{env}.1"},),
            {},
            "warning public: storage has addresses that are not private",
        ),
        (
            ({"for": "storage", "form": "fd00:{room}:{env}::1"}, {"for": "storage", "form": "fd00:4:{x}::1"}),
            {},
            "error overlap: storage",
        ),
        ((), {"names": {"rom": {"4": "berlin"}}}, "error unknown-field: no range has a field rom"),
        ((), {"names": {"room": {"four": "berlin"}}}, 'error name: "four" is not a number'),
        ((), {"names": {"room": {"4": "12"}}}, 'error name: "12" cannot be a name'),
        ((), {"names": {"room": {"4": "a b"}}}, 'error name: "a b" cannot be a name'),
        ((), {"names": {"room": {"4": "x", "5": "x"}}}, "error name: two values have the same name"),
        ((), {"bind": {"room": "pod label x"}}, 'error bind: "pod label x" is not understood'),
        ((), {"reserve": ["here"]}, 'error reserve: "here" is not a network'),
    ],
)
def test_a_fault_is_named(ranges: Sequence[dict[str, str]], fields: dict[str, Any], fault: str) -> None:
    assert any(each.startswith(fault) for each in faults(*ranges, **fields)), faults(*ranges, **fields)


def test_routes_of_a_host_that_take_packets_of_pods_and_services() -> None:
    routes = [("10.96.3.0/24", "on tun0"), ("10.4.0.0/16", "on eth0"), ("172.20.0.0/14", "by 10.4.0.1 on eth0")]
    assert faults(routes=routes) == [
        "error route: this host has a route for 10.96.3.0/24 on tun0: 10.96.3.0 is services: env 3, n 0",
        "error route: this host has a route for 172.20.0.0/14 by 10.4.0.1 on eth0: "
        "172.20.0.0 is pods: room 4 (berlin), env 0, node 0, pod 0",
    ]


@pytest.mark.parametrize(
    ("purpose", "fixed", "taken", "free"),
    [
        ("nodes", {"room": 4, "env": 7}, [], "10.4.7.1/32"),
        ("nodes", {"room": 4, "env": 7}, ["10.4.7.1", "10.4.7.2"], "10.4.7.3/32"),
        ("nodes", {"room": 4}, ["10.4.0.0/24"], "10.4.1.1/32"),
        ("nodes", {"room": 4, "env": 7}, ["10.4.0.0/16"], None),
        ("pods", {"room": 4, "env": 7}, ["172.20.224.9"], "172.20.225.0/24"),
        ("pods", {"room": 4, "env": 7, "node": 31}, [], "172.20.255.0/24"),
        ("services", {}, ["10.96.0.0/23"], "10.96.2.0/24"),
        ("hosts", {"h": 7, "rest": 0}, [], "10.200.7.1/32"),
        ("hosts", {"h": 7, "rest": 0}, ["10.200.7.1", "10.200.7.2"], None),
    ],
)
def test_the_next_free_one(purpose: str, fixed: dict[str, int], taken: list[str], free: str | None) -> None:
    found = plan(NODES, PODS, SERVICES, {"for": "hosts", "bits": "10.200.0.0/16 h:8 rest:6 last:2"})
    [wanted] = found.ranges_for(purpose)
    network = found.next_free(wanted, fixed, map(ip_network, taken))
    assert (None if network is None else str(network)) == free


def test_what_is_reserved_is_not_free() -> None:
    found = plan(reserve=["10.4.7.0/28"])
    assert str(found.next_free(found.ranges_for("nodes")[0], {"room": 4, "env": 7}, ())) == "10.4.7.16/32"


def test_a_search_has_an_end() -> None:
    found = plan({"for": "nodes", "bits": "fd00::/16 room:48 host:64"}, names={}, bind={})
    with pytest.raises(BadInput, match="the first 100,000 of nodes are in use"):
        found.next_free(found.ranges_for("nodes")[0], {}, [ip_network("fd00::/17")])


def test_values_by_name() -> None:
    found = plan()
    assert (found.value("room", "berlin"), found.value("room", "17")) == (4, 17)
    with pytest.raises(BadInput, match="no room is called berln; did you mean berlin"):
        found.value("room", "berln")
    with pytest.raises(BadInput, match="no range for pod; did you mean pods"):
        found.ranges_for("pod")
    with pytest.raises(BadInput, match="room 16 does not fit: here it is 0 to 15"):
        found.next_free(found.ranges_for("nodes")[0], {"room": 16}, ())
    with pytest.raises(BadInput, match="services has no field room"):
        found.next_free(found.ranges_for("services")[0], {"room": 4}, ())


def test_as_a_network_configuration() -> None:
    ipv6 = {"for": "pods", "bits": "fd00::/48 room:4 env:4 node:8 pod:64"}
    both = {"EnableIPv6": True, "IPv6Network": "fd00::/48", "IPv6SubnetLen": 64}
    assert rendering.net_conf(plan()) == {"Network": "172.16.0.0/12", "SubnetLen": 24}
    assert rendering.net_conf(plan(PODS, ipv6)) == {"Network": "172.16.0.0/12", "SubnetLen": 24, **both}
    assert rendering.net_conf(plan(ipv6)) == {"EnableIPv4": False, **both}
    with pytest.raises(BadInput, match=r"pods have 10\.40\.0\.0/13 and 10\.48\.0\.0/15"):
        rendering.net_conf(plan({"for": "pods", "form": "10.4{room:1}.{env}.{pod}"}, names={}))


def test_as_labels_of_nodes() -> None:
    nodes = [node("a", "10.4.7.1"), node("b", "10.9.1.2"), node("c", "192.168.0.1"), node("d")]
    assert list(rendering.labels(plan(), nodes)) == [
        ("a", {"zone": "berlin", "env": "prod"}),
        ("b", {"zone": "9", "env": "test"}),
    ]


def test_as_pools() -> None:
    found = list(rendering.pools(plan()))
    assert [(each.metadata.name, each.spec.cidr) for each in found] == [
        ("pods-berlin-test", "172.20.32.0/19"),
        ("pods-berlin-prod", "172.20.224.0/19"),
        ("pods-hamburg-test", "172.21.32.0/19"),
        ("pods-hamburg-prod", "172.21.224.0/19"),
    ]
    matches = parse_selector(found[1].spec.nodeSelector)
    assert matches({"zone": "berlin", "env": "prod"})
    assert not matches({"zone": "berlin", "env": "test"})
    [everywhere] = rendering.pools(plan({"for": "pods", "bits": "10.0.0.0/8 node:16 pod:8"}, names={}, bind={}))
    assert everywhere.spec == IPPoolSpec(cidr="10.0.0.0/8", blockSize=24, natOutgoing=True, nodeSelector="all()")
    with pytest.raises(BadInput, match="a node's subnet is a /16, and the blocks of a pool are /20 to /32"):
        list(rendering.pools(plan({"for": "pods", "bits": "10.0.0.0/8 node:8 pod:16"}, names={}, bind={})))
