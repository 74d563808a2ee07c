"""Where the router leads hosts outside."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

from tests import builders

from percale.lab.machines.fabric import route_lines
from percale.lab.machines.router_routes import RouterRoute, pod_routes, service_routes
from percale.model.endpoints import EndpointSlice
from percale.model.service import Service

HOME = [ip_network("203.0.113.0/24")]
N1, N2 = ip_address("192.168.1.2"), ip_address("192.168.1.3")


NODES = [builders.node("n1", str(N1)), builders.node("n2", str(N2))]


def service(address: str, **spec: Any) -> Service:
    return builders.service("web", type="LoadBalancer", ingress=[address], **spec)


def slice_(*endpoints: tuple[str, dict[str, bool]]) -> EndpointSlice:
    made = [builders.endpoint(f"10.0.0.1@{node}", conditions=conditions) for node, conditions in endpoints]
    return builders.endpoint_slice("web", *made, ports=[])


def test_pods_are_behind_their_node() -> None:
    lease = builders.lease(1, publicIP=str(N1))
    assert list(pod_routes([lease])) == [RouterRoute(ip_network("10.244.1.0/24"), (N1,))]


def test_all_nodes_take_a_load_balancers_address() -> None:
    assert list(service_routes([service("198.51.100.1")], [], NODES, HOME)) == [
        RouterRoute(ip_network("198.51.100.1/32"), (N1, N2))
    ]


def test_with_policy_local_nodes_with_ready_endpoints_else_with_those_that_still_serve() -> None:
    local = service("198.51.100.1", externalTrafficPolicy="Local")
    leaving = {"ready": False, "serving": True, "terminating": True}
    ready = slice_(("n1", {"ready": True}), ("n2", leaving))
    assert [way.nodes for way in service_routes([local], [ready], NODES, HOME)] == [(N1,)]
    only_leaving = slice_(("n2", leaving), ("n1", {"ready": False, "serving": False}))
    assert [way.nodes for way in service_routes([local], [only_leaving], NODES, HOME)] == [(N2,)]
    assert list(service_routes([local], [], NODES, HOME)) == []


def test_external_ips_are_led_too_but_not_those_of_machines() -> None:
    open_ = service("198.51.100.1", externalIPs=["198.51.100.7", "203.0.113.9"])
    assert [str(way.subnet) for way in service_routes([open_], [], NODES, HOME)] == [
        "198.51.100.1/32",
        "198.51.100.7/32",
    ]


def test_routes_are_replaced_where_they_are_in_use() -> None:
    one, both = RouterRoute(ip_network("198.51.100.1/32"), (N1,)), RouterRoute(ip_network("198.51.100.1/32"), (N1, N2))
    pods = RouterRoute(ip_network("10.244.1.0/24"), (N1,))
    assert route_lines({one, pods}, {both}) == [
        "route delete 10.244.1.0/24 table 100",
        "route replace 198.51.100.1/32 table 100 nexthop via 192.168.1.2 nexthop via 192.168.1.3",
    ]
    assert route_lines({both}, {both}) == []


def test_what_is_no_address_leads_nowhere_and_the_others_do() -> None:
    odd = service("no-address", externalIPs=["198.51.100.7", "neither"])
    assert list(service_routes([odd], [], NODES, HOME)) == [RouterRoute(ip_network("198.51.100.7/32"), (N1, N2))]
