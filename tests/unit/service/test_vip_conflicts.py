"""Who has an address that several want, or that no Service may have."""

from __future__ import annotations

import time
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from msgspec.structs import replace
from tests import builders
from tests.unit.service.build import build

from percale.model.endpoints import EndpointSlice
from percale.model.meta import ObjectKey
from percale.model.node import Node
from percale.model.service import Service
from percale.model.subnet_lease import SubnetLease

IP, POD, OUTSIDE = "172.30.0.41", "10.0.0.2", "203.0.113.2"


def key(name: str) -> ObjectKey:
    return ObjectKey("ns1", name)


# Two want one address


def test_the_older_service_has_the_external_ip() -> None:
    older = build.service("z", ip="172.30.0.1", externalIPs=("192.168.99.11",), created="2026-01-01T00:00:00Z")
    newer = build.service("a", ip="172.30.0.2", externalIPs=("192.168.99.11",), created="2026-01-02T00:00:00Z")
    slices = build.slice("10.180.0.1", service="z"), build.slice("10.180.0.2", service="a")
    for services in ((older, newer), (newer, older)):
        table = build.table(*services, *slices)
        assert build.brief(table, OUTSIDE, "192.168.99.11") == "10.180.0.1:80 masquerade"
        assert build.brief(table, POD, "172.30.0.2") == "10.180.0.2:80"
        assert list(table.problems) == ["Service ns1/a: 192.168.99.11:80/TCP belongs to Service ns1/z"]
    assert table.apply(gone=[(Service, key("z"))]) == {key("z"), key("a")}
    assert build.brief(table, OUTSIDE, "192.168.99.11") == "10.180.0.2:80 masquerade"
    assert list(table.problems) == []
    assert table.apply([older]) == {key("z"), key("a")}
    assert build.brief(table, OUTSIDE, "192.168.99.11") == "10.180.0.1:80 masquerade"


def test_of_the_same_age_the_name_decides_and_other_ports_are_nobodys_matter() -> None:
    one = build.service("a", build.port(80), ip="172.30.0.1", externalIPs=("192.168.99.11",))
    two = build.service("b", build.port(81), build.port(80, "p81"), ip="172.30.0.2", externalIPs=("192.168.99.11",))
    table = build.table(one, two, build.slice("10.180.0.1", service="a"), build.slice("10.180.0.2", service="b"))
    assert build.brief(table, OUTSIDE, "192.168.99.11", 80) == "10.180.0.1:80 masquerade"
    assert build.brief(table, OUTSIDE, "192.168.99.11", 81) == "10.180.0.2:80 masquerade"


def test_a_cluster_ip_is_not_taken_over_by_an_external_ip() -> None:
    """However old the Service that wants it is (CVE-2020-8554)."""
    thief = build.service("thief", ip="172.30.0.1", externalIPs=(IP,), created="2020-01-01T00:00:00Z")
    owner = build.service("svc1", created="2026-01-01T00:00:00Z")
    table = build.table(thief, owner, build.slice("10.180.0.1"), build.slice("10.180.0.2", service="thief"))
    assert build.brief(table, POD, IP) == "10.180.0.1:80"
    (problem,) = table.problems
    assert problem.startswith("Service ns1/thief: spec.externalIPs: 172.30.0.41 is in the service network")
    table = build.table(
        thief, owner, build.slice("10.180.0.1"), build.slice("10.180.0.2", service="thief"), external_ips="any"
    )
    assert build.brief(table, POD, IP) == "10.180.0.1:80"
    assert list(table.problems) == ["Service ns1/thief: 172.30.0.41:80/TCP belongs to Service ns1/svc1"]


def test_what_a_load_balancer_gave_is_not_taken_over_by_an_external_ip() -> None:
    """An old Service may ask for whatever a younger one has."""
    thief = build.service("a", ip="172.30.0.1", externalIPs=("192.168.99.11",), created="2020-01-01T00:00:00Z")
    owner = build.service("z", ip="172.30.0.2", lb=["192.168.99.11"], created="2026-01-01T00:00:00Z")
    table = build.table(thief, owner, build.slice("10.180.0.1", service="z"), build.slice("10.180.0.2", service="a"))
    assert build.brief(table, OUTSIDE, "192.168.99.11") == "10.180.0.1:80 masquerade"
    assert list(table.problems) == ["Service ns1/a: 192.168.99.11:80/TCP belongs to Service ns1/z"]


@pytest.mark.parametrize("first", ["a", "z"])
def test_of_one_second_the_uid_decides_and_no_name_does(first: str) -> None:
    second = "z" if first == "a" else "a"
    wants = []
    for index, (name, uid) in enumerate(((first, "1111"), (second, "2222")), 1):
        port = build.port(nodePort=30001)
        each = build.service(name, port, ip=f"172.30.0.{index}", type="NodePort", created="2026-01-01T00:00:00Z")
        wants.append(replace(each, metadata=replace(each.metadata, uid=uid)))
    slices = build.slice("10.180.0.1", service=first), build.slice("10.180.0.2", service=second)
    for order in (wants, wants[::-1]):
        table = build.table(*order, *slices)
        assert build.brief(table, OUTSIDE, "192.168.0.2", 30001) == "10.180.0.1:80 masquerade"


# Addresses that no Service has


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.9.9.9", "is in the pod network"),
        ("fd00:10::9", "is in the pod network"),
        ("172.30.9.9", "is in the service network"),
        ("192.168.0.2", "is a node's address"),
        ("192.168.0.3", "is a node's address"),
        ("203.0.113.9", "is a node's address"),
        ("2001:db8::3", "is a node's address"),
        ("198.51.100.4", "is a node's address"),
        ("198.51.100.5", "is the API server's address"),
        ("192.0.2.53", "is a server of this node's: its store's or its name server"),
        ("127.0.0.1", "is a loopback address"),
        ("::1", "is a loopback address"),
        ("169.254.169.254", "is a link-local address"),
        ("fe80::1", "is a link-local address"),
        ("224.0.0.1", "is an address of many hosts"),
        ("255.255.255.255", "is an address of many hosts"),
        ("ff02::1", "is an address of many hosts"),
        ("0.0.0.0", "means all addresses"),
        ("::", "means all addresses"),
    ],
)
def test_an_external_ip_that_is_anothers(address: str, why: str) -> None:
    """Only it is left out: the rest of the Service lives."""
    others = (
        build.node(),
        build.node("192.168.0.3", "2001:db8::3", name="n2", external=["203.0.113.9"]),
        builders.lease(3, publicIP="198.51.100.4"),
        build.slice("198.51.100.5", service="kubernetes", namespace="default"),
    )
    thief = build.service(
        ip="172.30.0.41", clusterIPs=(IP, "fd00:172::41"), externalIPs=(address, "192.0.2.7", "2001:db8:7::7")
    )
    six = build.slice("fd00:10::1", family="IPv6", index=2)
    servers = frozenset({ip_address("192.0.2.53").packed})
    table = build.table(*others, thief, build.slice("10.180.0.1"), six, servers=servers)
    source = "2001:db8:9::9" if ":" in address else OUTSIDE
    wanted = "none" if why != "is in the service network" else "drop"
    answer = build.ask(table, source, address)
    assert answer.action == wanted
    (problem,) = table.problems
    said = "; services.externalIPs of the agents says which may be"
    assert problem == f"Service ns1/svc1: spec.externalIPs: {ip_address(address)} {why}, so it is not served{said}"
    assert wanted == "drop" or problem in answer.reason
    assert build.brief(table, OUTSIDE, "192.0.2.7") == "10.180.0.1:80 masquerade"
    assert build.brief(table, "2001:db8:9::9", "2001:db8:7::7") == "[fd00:10::1]:80 masquerade"
    assert build.brief(table, POD, IP) == "10.180.0.1:80"


@pytest.mark.parametrize(
    ("config", "served"),
    [
        ("any", {"10.9.9.9", "192.168.0.3", "192.0.2.7"}),
        ("none", set()),
        ((ip_network("192.168.0.0/24"), ip_network("127.0.0.0/8")), {"192.168.0.3"}),
        ((), {"192.0.2.7"}),
    ],
)
def test_what_the_configuration_says_of_external_ips(config: Any, served: set[str]) -> None:
    asked = ("10.9.9.9", "192.168.0.3", "192.0.2.7", "127.0.0.1")
    nodes = build.node(), build.node("192.168.0.3", name="n2")
    table = build.table(*nodes, build.service(externalIPs=asked), build.slice("10.180.0.1"), external_ips=config)
    assert {each for each in asked if build.brief(table, OUTSIDE, each) != "none"} == served
    assert len(list(table.problems)) == len(asked) - len(served)


def test_addresses_of_load_balancers_may_be_nodes_and_nothing_of_the_clusters() -> None:
    lb = ["192.168.0.2", "10.9.9.9", "172.30.9.9", "127.0.0.1", "198.51.100.1"]
    table = build.table(build.service(lb=lb, type="LoadBalancer"), build.slice("10.180.0.1"))
    served = [each for each in lb if build.brief(table, OUTSIDE, each).startswith("10.180")]
    assert served == ["192.168.0.2", "198.51.100.1"]
    assert list(table.problems) == [
        "Service ns1/svc1: status.loadBalancer.ingress: 10.9.9.9 is in the pod network, so it is not served",
        "Service ns1/svc1: status.loadBalancer.ingress: 172.30.9.9 is in the service network, so it is not served",
        "Service ns1/svc1: status.loadBalancer.ingress: 127.0.0.1 is a loopback address, so it is not served",
    ]


@pytest.mark.parametrize(("ip", "why"), [("127.0.0.1", "is a loopback address"), ("10.9.9.9", "is in the pod network")])
def test_a_cluster_ip_that_can_be_none(ip: str, why: str) -> None:
    table = build.table(build.service(ip=ip, externalIPs=("192.0.2.7",)), build.slice("10.180.0.1"))
    assert build.brief(table, POD, ip) == "none"
    assert list(table.problems) == [f"Service ns1/svc1: spec.clusterIPs: {ip} {why}, so it is not served"]


def test_a_node_that_comes_or_goes_touches_whoever_asks_for_its_address() -> None:
    asking = build.service("svc2", ip="172.30.0.42", externalIPs=("192.168.0.3",))
    table = build.table(build.service(externalIPs=("192.0.2.7",)), asking, build.slice("10.180.0.2", service="svc2"))
    assert build.brief(table, OUTSIDE, "192.168.0.3") == "10.180.0.2:80 masquerade"
    assert table.apply([build.node("192.168.0.3", name="n2")]) == {key("svc2")}
    assert build.brief(table, OUTSIDE, "192.168.0.3") == "none"
    lease = builders.lease(2, publicIP="192.168.0.3")
    assert table.apply([lease, build.node("192.168.0.4", name="n2")]) == set(), "the lease says it too"
    assert table.apply([build.node("192.168.0.5", name="n2")]) == set()
    assert table.apply(gone=[(SubnetLease, lease.key)]) == {key("svc2")}
    assert build.brief(table, OUTSIDE, "192.168.0.3") == "10.180.0.2:80 masquerade"
    assert list(table.problems) == []
    assert {kind for kind, _ in table.object_keys} == {Service, EndpointSlice, Node}


def test_three_want_one_node_port() -> None:
    wants = [
        build.service(name, build.port(nodePort=30001), ip=f"172.30.0.{index}", type="NodePort")
        for index, name in enumerate("abc", 1)
    ]
    table = build.table(*reversed(wants), *(build.slice(f"10.180.0.{i}", service=n) for i, n in enumerate("abc", 1)))
    for index, name in enumerate("abc", 1):
        assert build.brief(table, OUTSIDE, "192.168.0.2", 30001) == f"10.180.0.{index}:80 masquerade"
        assert len(list(table.problems)) == 3 - index
        table.apply(gone=[(Service, key(name))])
    assert build.brief(table, OUTSIDE, "192.168.0.2", 30001) == "none"


def test_an_address_of_two_kinds_is_one_vip_and_keeps_its_source_ranges() -> None:
    service = build.service(
        lb=["1.2.3.4"], type="LoadBalancer", externalIPs=("1.2.3.4",), loadBalancerSourceRanges=("192.0.2.0/24",)
    )
    table = build.table(service, build.slice("10.180.0.1"))
    assert [vip.kind for vip in table.services[key("svc1")].ports[0].vips] == ["cluster", "load-balancer"]
    assert build.brief(table, OUTSIDE, "1.2.3.4") == "drop"


def test_one_cluster_ip_of_two_ports_stays_active_until_both_are_gone() -> None:
    table = build.table(build.service("svc1", build.port(80), build.port(81, "p81")))
    assert list(table.cluster_ips) == [bytes((172, 30, 0, 41))]
    table.apply([build.service("svc1", build.port(80))])
    assert build.brief(table, POD, IP, 81) == "reject"
    table.apply(gone=[(Service, key("svc1"))])
    assert list(table.cluster_ips) == []


def test_many_addresses_of_two_services_are_decided_in_linear_time() -> None:
    """A square of them would be 10^8 comparisons for each change of either."""
    addresses = [f"203.{number // 65536}.{number // 256 % 256}.{number % 256}" for number in range(10_000)]
    both = [
        build.service(name, ip=ip, externalIPs=addresses)
        for name, ip in (("one", "172.30.0.41"), ("two", "172.30.0.42"))
    ]
    began = time.process_time()
    table = build.table(*both)
    assert len(list(table.problems)) == len(addresses)
    table.apply(gone=[(Service, both[0].key)])
    assert not list(table.problems)
    assert time.process_time() - began < 10.0
