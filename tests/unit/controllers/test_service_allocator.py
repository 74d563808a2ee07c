"""Cluster IPs and node ports: what is given, what is refused, and in which words."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from msgspec.structs import replace
from tests.unit.service.build import build

from percale.controllers.service_allocator import Allocations
from percale.model.service import Service

V4, V6 = ip_network("10.96.0.0/16"), ip_network("fd00:96::/112")


def fresh(*services: Service, cidrs: Any = (V4,)) -> Allocations:
    return Allocations(cidrs, services)


def said(allocations: Allocations, service: Service, old: Service | None = None) -> list[str]:
    return [str(each) for each in allocations.admit(service, old).errors]


def given(allocations: Allocations, service: Service, old: Service | None = None) -> Service:
    admitted = allocations.admit(service, old)
    assert not admitted.errors
    return admitted.service


def named(name: str, **spec: Any) -> Service:
    return build.service(name, **{"ip": None, **spec})


def test_the_lower_part_is_for_those_who_ask() -> None:
    allocations = fresh()
    assert given(allocations, named("a")).spec.clusterIPs == ("10.96.1.1",)
    assert given(allocations, named("b")).spec.clusterIP == "10.96.1.2"
    dns = given(allocations, named("dns", ip="10.96.0.10"))
    assert (dns.spec.clusterIPs, dns.spec.ipFamilies, dns.spec.ipFamilyPolicy) == (
        ("10.96.0.10",),
        ("IPv4",),
        "SingleStack",
    )


def test_a_small_range_is_used_up_and_then_full() -> None:
    allocations = fresh(cidrs=[ip_network("10.96.0.0/27")])
    order = [given(allocations, named(f"s{index}")).spec.clusterIP for index in range(30)]
    assert order[:2] == ["10.96.0.17", "10.96.0.18"]
    assert order[14] == "10.96.0.1", "the lower part, when nothing else is left"
    assert len(set(order)) == 30
    assert said(allocations, named("late")) == [
        "spec.clusterIPs: Invalid value: []: failed to allocate a serviceIP: range is full"
    ]
    allocations.release(build.service("s3", ip=order[3]))
    assert given(allocations, named("late")).spec.clusterIP == order[3]


def test_a_service_that_cannot_have_all_takes_nothing() -> None:
    tiny = fresh(cidrs=[V4, ip_network("fd00:96::/126")])
    for index in range(3):
        given(tiny, named(f"s{index}", ipFamilies=("IPv6",)))
    assert len(said(tiny, named("both", ipFamilyPolicy="PreferDualStack"))) == 1
    assert given(tiny, named("next")).spec.clusterIP == "10.96.1.1"


@pytest.mark.parametrize("ip", ["10.95.0.1", "10.96.0.0", "10.96.255.255"])
def test_a_cluster_ip_outside_the_range(ip: str) -> None:
    assert said(fresh(), named("a", ip=ip)) == [
        f'spec.clusterIPs: Invalid value: ["{ip}"]: failed to allocate IP {ip}: the provided IP ({ip}) is not in the '
        "valid range. The range of valid IPs is 10.96.0.0/16"
    ]


def test_a_cluster_ip_that_is_taken() -> None:
    allocations = fresh(named("a", ip="10.96.0.10"))
    assert said(allocations, named("b", ip="10.96.0.10")) == [
        'spec.clusterIPs: Invalid value: ["10.96.0.10"]: failed to allocate IP 10.96.0.10: provided IP is already allocated'
    ]
    allocations.release(named("a", ip="10.96.0.10"))
    assert said(allocations, named("b", ip="10.96.0.10")) == []


def nodes_port(name: str, *numbers: int | None, **spec: Any) -> Service:
    ports = [build.port(80 + index, f"p{index}", nodePort=number) for index, number in enumerate(numbers)]
    return build.service(name, *ports, **{"ip": None, "type": "NodePort", **spec})


def test_node_ports() -> None:
    allocations = fresh(nodes_port("a", 30100))
    assert [each.nodePort for each in given(allocations, nodes_port("b", None, 31000, None)).spec.ports] == [
        30086,
        31000,
        30087,
    ]
    assert said(allocations, nodes_port("c", 30100, 29999)) == [
        "spec.ports[0].nodePort: Invalid value: 30100: provided port is already allocated",
        "spec.ports[1].nodePort: Invalid value: 29999: provided port is not in the valid range. "
        "The range of valid ports is 30000-32767",
    ]
    assert said(allocations, nodes_port("c", 32768)) != []


def test_all_errors_at_once_and_nothing_taken() -> None:
    allocations = fresh(nodes_port("a", 30100, ip="10.96.0.9"))
    bad = nodes_port("c", 30100, ip="10.96.0.9")
    assert len(said(allocations, bad)) == 2
    assert said(allocations, nodes_port("d", 30101, ip="10.96.0.11")) == []


def test_tcp_and_udp_of_one_port_share_a_node_port() -> None:
    service = build.service(
        "dns",
        build.port(53, "tcp"),
        build.port(53, "udp", protocol="UDP"),
        build.port(54, "x"),
        ip=None,
        type="NodePort",
    )
    assert [each.nodePort for each in given(fresh(), service).spec.ports] == [30086, 30086, 30087]


def test_load_balancers() -> None:
    allocations = fresh()
    spec = given(allocations, named("a", type="LoadBalancer", externalTrafficPolicy="Local")).spec
    assert (spec.healthCheckNodePort, spec.ports[0].nodePort) == (30086, 30087)
    spec = given(allocations, named("b", type="LoadBalancer", allocateLoadBalancerNodePorts=False)).spec
    assert (spec.healthCheckNodePort, spec.ports[0].nodePort, spec.externalTrafficPolicy) == (None, None, "Cluster")
    taken = named("c", type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=30086)
    assert said(allocations, taken) == [
        "spec.healthCheckNodePort: Invalid value: 30086: provided port is already allocated"
    ]


def test_headless_and_external_names() -> None:
    allocations = fresh()
    assert given(allocations, named("a", ip="None")).spec.clusterIPs == ("None",)
    outside = named("b", type="ExternalName", externalName="example.com")
    assert given(allocations, outside) == outside
    assert given(allocations, named("c")).spec.clusterIP == "10.96.1.1"


def test_two_families() -> None:
    both = [V4, V6]
    assert given(fresh(cidrs=both), named("a")).spec.clusterIPs == ("10.96.1.1",)
    spec = given(fresh(cidrs=both), named("a", ipFamilyPolicy="PreferDualStack")).spec
    assert (spec.clusterIPs, spec.ipFamilies) == (("10.96.1.1", "fd00:96::101"), ("IPv4", "IPv6"))
    spec = given(fresh(cidrs=both), named("a", ipFamilyPolicy="RequireDualStack", ipFamilies=("IPv6",))).spec
    assert spec.ipFamilies == ("IPv6", "IPv4")
    assert given(fresh(cidrs=both), named("a", ip="fd00:96::5")).spec.ipFamilies == ("IPv6",)
    assert said(fresh(), named("a", ipFamilyPolicy="RequireDualStack", ipFamilies=("IPv6",))) == [
        'spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster',
        'spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services',
    ]


def test_a_change_keeps_what_the_service_has() -> None:
    allocations = fresh()
    old = given(allocations, nodes_port("a", None, None))
    new = given(allocations, nodes_port("a", None, None, None), old)
    assert new.spec.clusterIP == old.spec.clusterIP
    assert [each.nodePort for each in new.spec.ports] == [30086, 30087, 30088]
    plain = given(allocations, named("a"), new)
    assert plain.spec.clusterIP == old.spec.clusterIP
    assert given(allocations, nodes_port("b", 30086)).spec.ports[0].nodePort == 30086


def test_a_node_port_goes_to_one_port_alone_and_is_found_again_by_number_or_name() -> None:
    def ports(*told: tuple[str, int, int | None]) -> Service:
        made = [build.port(number, name, nodePort=node_port) for name, number, node_port in told]
        return build.service("a", *made, ip=None, type="NodePort")

    def kept(*told: tuple[str, int, int | None]) -> list[int | None]:
        allocations = fresh()
        old = given(allocations, ports(("http", 80, 30500)))
        return [each.nodePort for each in given(allocations, ports(*told), old).spec.ports]

    assert kept(("http", 80, None), ("other", 81, 30500)) == [30086, 30500]
    assert kept(("http", 8080, None), ("other", 81, None)) == [30500, 30086]
    assert kept(("renamed", 80, None)) == [30500]
    assert kept(("http", 8080, None), ("renamed", 80, None)) == [30500, 30086]


def test_a_cluster_ip_does_not_change() -> None:
    allocations = fresh()
    old = given(allocations, named("a"))
    for ip in ("None", "10.96.9.9"):
        assert said(allocations, named("a", ip=ip), old) == [
            f'spec.clusterIPs[0]: Invalid value: ["{ip}"]: may not change once set'
        ]
    headless = given(allocations, named("b", ip="None"))
    assert given(allocations, named("b"), headless).spec.clusterIP == "None"
    assert said(allocations, named("b", ip="10.96.9.9"), headless) != []
    name = given(allocations, named("a", type="ExternalName", externalName="outside"), old)
    assert given(allocations, named("a", ip="None"), name).spec.clusterIP == "None"


def test_a_change_that_is_refused_leaves_the_service_what_it_has() -> None:
    allocations = fresh()
    old = given(allocations, nodes_port("a", 30100))
    assert said(allocations, nodes_port("a", 1), old) != []
    assert said(allocations, nodes_port("b", 30100)) == [
        "spec.ports[0].nodePort: Invalid value: 30100: provided port is already allocated"
    ]


def test_manifests_that_ask_come_first() -> None:
    services = [named("a"), named("b", ip="10.96.1.1"), named("c", ip="10.0.0.1")]
    assert [each.spec.clusterIP for each in fresh().complete(services)] == ["10.96.1.2", "10.96.1.1", "10.0.0.1"]


def test_releasing_twice_is_nothing() -> None:
    allocations = fresh()
    service = given(allocations, named("a"))
    allocations.release(service)
    allocations.release(replace(service))
    assert given(allocations, named("b")).spec.clusterIP == service.spec.clusterIP
