"""Where packets go, and whether their source is kept: every kind of address × traffic policy × place of the client.

The situations of kube-proxy's packet flow tables, in our own words. `masquerade` after the endpoints: the source is not kept.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from tests.unit.service.build import build

from percale.model.meta import ObjectMeta
from percale.model.pod import Protocol
from percale.model.service import LoadBalancerIngress, LoadBalancerStatus, Service, ServiceStatus
from percale.service.resolver import ServiceResolver

POD, NODE, OTHER_NODE, OUTSIDE, BLOCKED = "10.0.0.2", "192.168.0.2", "192.168.0.3", "203.0.113.2", "203.0.113.130"
IP, EXTERNAL, LB = "172.30.0.41", "192.168.99.11", "1.2.3.4"
BOTH, HERE = "10.180.0.1:80 10.180.2.1:80", "10.180.2.1:80"


def reachable(**spec: Any) -> Service:
    """At every kind of address."""
    return build.service(
        "svc1", build.port(nodePort=30001), lb=[LB], type="LoadBalancer", externalIPs=(EXTERNAL,), **spec
    )


def everywhere(**spec: Any) -> ServiceResolver:
    """One endpoint somewhere, one on this node."""
    return build.table(reachable(**spec), build.slice("10.180.0.1", "10.180.2.1@n1"))


@pytest.mark.parametrize(
    ("place", "source", "cluster_ip", "with_cluster", "with_local"),
    [
        ("a pod", POD, BOTH, f"{BOTH} masquerade", BOTH),
        ("this node", NODE, f"{BOTH} masquerade", f"{BOTH} masquerade", f"{BOTH} masquerade"),
        ("another node", OTHER_NODE, f"{BOTH} masquerade", f"{BOTH} masquerade", HERE),
        ("outside", OUTSIDE, f"{BOTH} masquerade", f"{BOTH} masquerade", HERE),
    ],
)
def test_kinds_policies_and_places(
    place: str, source: str, cluster_ip: str, with_cluster: str, with_local: str
) -> None:
    for policy, external in ((None, with_cluster), ("Cluster", with_cluster), ("Local", with_local)):
        table = everywhere(externalTrafficPolicy=policy)
        assert build.brief(table, source, IP) == cluster_ip, (place, policy)
        for target, port in ((EXTERNAL, 80), (LB, 80), (NODE, 30001)):
            assert build.brief(table, source, target, port) == external, (place, policy, target)


@pytest.mark.parametrize("source", [POD, NODE, OUTSIDE])
def test_internal_traffic_policy_is_for_the_cluster_ip_only(source: str) -> None:
    table = everywhere(internalTrafficPolicy="Local", externalTrafficPolicy="Local")
    assert build.brief(table, source, IP).split()[0] == HERE
    expected = HERE if source == OUTSIDE else BOTH
    assert build.brief(table, source, LB).removesuffix(" masquerade") == expected


def test_internal_local_without_a_local_endpoint_drops_and_without_any_rejects() -> None:
    service = build.service(internalTrafficPolicy="Local")
    assert build.brief(build.table(service, build.slice("10.0.1.1@n2")), POD, IP) == "drop"
    assert build.brief(build.table(service), POD, IP) == "reject"
    assert build.brief(build.table(service, build.slice(build.draining("10.0.1.1@n2"))), POD, IP) == "drop"


def test_external_local_without_a_local_endpoint_drops_from_outside_only() -> None:
    table = build.table(reachable(externalTrafficPolicy="Local"), build.slice("10.180.0.1@n2"))
    for target, port in ((EXTERNAL, 80), (LB, 80), (NODE, 30001)):
        assert build.brief(table, OUTSIDE, target, port) == "drop"
        assert build.brief(table, POD, target, port) == "10.180.0.1:80"
        assert build.brief(table, NODE, target, port) == "10.180.0.1:80 masquerade"
    assert build.brief(table, OUTSIDE, IP) == "10.180.0.1:80 masquerade"


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_no_endpoint_anywhere_rejects_at_every_address(policy: str) -> None:
    table = build.table(reachable(externalTrafficPolicy=policy), build.slice(build.dead("10.180.0.1")))
    for target, port in ((IP, 80), (EXTERNAL, 80), (LB, 80), (NODE, 30001)):
        for source in (POD, NODE, OUTSIDE):
            assert build.brief(table, source, target, port) == "reject", (target, source)


def test_an_external_policy_on_a_service_that_nobody_outside_reaches_means_nothing() -> None:
    table = build.table(build.service(externalTrafficPolicy="Local"), build.slice("10.180.0.1@n2"))
    assert table.services[build.service().key].ports[0].spec.external_local is False
    assert build.brief(table, OUTSIDE, IP) == "10.180.0.1:80 masquerade"


def test_masquerade_all_is_for_cluster_ips() -> None:
    table = build.table(reachable(externalTrafficPolicy="Local"), build.slice("10.180.0.1@n1"), masquerade_all=True)
    assert build.brief(table, POD, IP) == "10.180.0.1:80 masquerade"
    assert build.brief(table, POD, LB) == "10.180.0.1:80"


def test_without_a_pod_network_nobody_is_masqueraded_for_being_outside() -> None:
    """As kube-proxy without a local detector."""
    table = build.table(reachable(), build.slice("10.180.0.1@n1"), pod_cidrs=())
    for source in (POD, NODE, OUTSIDE):
        assert build.brief(table, source, IP) == "10.180.0.1:80"
        for target, port in ((EXTERNAL, 80), (LB, 80), (NODE, 30001)):
            assert build.brief(table, source, target, port) == "10.180.0.1:80 masquerade"
    assert build.brief(table, "10.180.0.1", IP) == "10.180.0.1:80 masquerade"
    local = build.table(
        reachable(externalTrafficPolicy="Local"), build.slice("10.180.0.1@n1", "10.180.1.1@n2"), pod_cidrs=()
    )
    assert build.brief(local, POD, LB) == build.brief(local, OUTSIDE, LB) == "10.180.0.1:80"
    assert build.brief(local, NODE, LB).endswith(" masquerade")
    everything = build.table(build.service(), build.slice("10.180.0.1@n1"), pod_cidrs=(), masquerade_all=True)
    assert build.brief(everything, POD, IP) == "10.180.0.1:80 masquerade"


def test_a_client_that_is_its_own_endpoint() -> None:
    alone = build.table(build.service(), build.slice("10.180.0.1@n1"))
    answer = build.ask(alone, "10.180.0.1", IP)
    assert (answer.endpoints, answer.masquerade) == (("10.180.0.1:80",), True)
    assert "its own endpoint" in answer.reason
    answer = build.ask(everywhere(), "10.180.0.1", IP)
    assert (len(answer.endpoints), answer.masquerade) == (2, False)
    assert answer.reason.endswith("source kept unless the client's own endpoint is chosen")
    answer = build.ask(everywhere(externalTrafficPolicy="Local"), "10.180.2.1", LB)
    assert not answer.masquerade
    assert "unless" in answer.reason


# Ports, protocols, and addresses of nobody


def test_ports_of_a_service_are_apart() -> None:
    service = build.service(
        "svc1",
        build.port(80, "http"),
        build.port(443, "https", targetPort=8443),
        build.port(53, "dns-udp", protocol="UDP"),
        build.port(53, "dns-tcp", targetPort=5353),
        build.port(53, "dns-sctp", protocol="SCTP"),
    )
    ports: list[tuple[str | None, int | None, Protocol]] = [
        ("http", 80, "TCP"),
        ("https", 8443, "TCP"),
        ("dns-udp", 53, "UDP"),
        ("dns-tcp", 5353, "TCP"),
        ("dns-sctp", 53, "SCTP"),
    ]
    table = build.table(service, build.slice("10.180.0.1", "10.180.2.1@n2", ports=ports))
    assert build.brief(table, POD, IP, 443) == "10.180.0.1:8443 10.180.2.1:8443"
    assert build.brief(table, POD, IP, 53, "TCP") == "10.180.0.1:5353 10.180.2.1:5353"
    assert build.brief(table, POD, IP, 53, "UDP") == "10.180.0.1:53 10.180.2.1:53"
    assert build.brief(table, POD, IP, 53, "SCTP") == "10.180.0.1:53 10.180.2.1:53"
    assert build.brief(table, POD, IP, 80, "UDP") == "reject"
    assert build.brief(table, POD, IP, 8080) == "reject"


@pytest.mark.parametrize("source", [POD, NODE, OUTSIDE])
def test_addresses_that_are_nobodys(source: str) -> None:
    table = everywhere()
    assert build.brief(table, source, "172.30.0.50") == "drop"
    assert build.brief(table, source, IP, 81) == "reject"
    assert build.brief(table, source, EXTERNAL, 81) == "none"
    assert build.brief(table, source, LB, 80, "UDP") == "none"
    assert build.brief(table, source, NODE, 80) == "none"
    assert build.brief(table, source, "8.8.8.8") == "none"
    assert build.brief(table, source, "10.180.0.1") == "none"


def test_a_cluster_ip_that_is_free_again_drops() -> None:
    table = everywhere()
    table.apply(gone=[(Service, build.service().key)])
    assert build.brief(table, POD, IP) == "drop"
    assert build.brief(table, POD, LB) == "none"


@pytest.mark.parametrize(
    "service",
    [
        build.service(ip="None", externalIPs=(EXTERNAL,)),
        build.service(ip="", externalIPs=(EXTERNAL,)),
        build.service(ip=None, externalIPs=(EXTERNAL,)),
        build.service(type="ExternalName", externalName="example.com", externalIPs=(EXTERNAL,)),
        build.service(labels={"service.kubernetes.io/service-proxy-name": "other"}, externalIPs=(EXTERNAL,)),
        build.service(labels={"service.kubernetes.io/headless": ""}, externalIPs=(EXTERNAL,)),
    ],
)
def test_services_that_are_not_for_this_proxy(service: Service) -> None:
    table = build.table(service, build.slice("10.180.0.1"))
    assert build.brief(table, POD, EXTERNAL) == "none"
    assert build.brief(table, POD, IP) == "drop"
    assert table.services == {}


# Node ports


@pytest.mark.parametrize(
    ("networks", "taken", "not_taken"),
    [
        (None, {"192.168.0.2"}, {"192.168.1.2", "192.168.0.3"}),
        (["192.168.0.0/24", "192.168.1.0/24"], {"192.168.0.2", "192.168.1.2"}, {"192.168.0.3"}),
        (["192.168.1.2/32"], {"192.168.1.2"}, {"192.168.0.2"}),
        (["0.0.0.0/0"], {"192.168.0.2", "192.168.1.2"}, {"192.168.0.3", "127.0.0.1"}),
        (["2001:db8::/64"], set(), {"192.168.0.2", "192.168.1.2"}),
    ],
)
def test_node_port_addresses(networks: list[str] | None, taken: set[str], not_taken: set[str]) -> None:
    table = build.table(
        build.service("svc1", build.port(nodePort=30001), type="NodePort"),
        build.slice("10.180.0.1", "10.180.2.1@n1"),
        node_port_addresses=networks,
    )
    for address in taken:
        assert build.brief(table, OUTSIDE, address, 30001) == f"{BOTH} masquerade"
        assert build.brief(table, OUTSIDE, address, 30001, "UDP") == "none"
        assert build.brief(table, NODE, address, 30001) == f"{BOTH} masquerade"
    for address in not_taken:
        assert build.brief(table, OUTSIDE, address, 30001) == "none"


def test_loopback_takes_no_node_ports() -> None:
    table = build.table(
        build.node("127.0.0.1", "::1", "192.168.0.2"),
        build.service("svc1", build.port(nodePort=30001)),
        node_port_addresses=["0.0.0.0/0", "::/0"],
    )
    assert table.node_port_addresses == (bytes((192, 168, 0, 2)),)


def test_internal_addresses_come_before_external_ones() -> None:
    table = build.table(build.node("10.9.0.1", external=["198.51.100.1"]), build.service())
    assert table.node_port_addresses == (bytes((10, 9, 0, 1)),)


# Load balancers


def ranged(*ranges: str, **spec: Any) -> ServiceResolver:
    service = build.service(
        "svc1",
        build.port(nodePort=30001),
        lb=[LB, "5.6.7.8"],
        type="LoadBalancer",
        loadBalancerSourceRanges=ranges,
        externalIPs=(EXTERNAL,),
        **spec,
    )
    return build.table(service, build.slice("10.180.0.1"))


def test_source_ranges_are_for_the_load_balancers_addresses() -> None:
    table = ranged("192.168.0.0/24", " 203.0.113.0/25")
    there = "10.180.0.1:80 masquerade"
    for address in (LB, "5.6.7.8"):
        assert build.brief(table, OUTSIDE, address) == there
        assert build.brief(table, BLOCKED, address) == "drop"
        assert build.brief(table, POD, address) == "drop"
        assert build.brief(table, NODE, address) == there
        assert build.brief(table, address, address) == there, "the node's own packets may have it as their source"
    assert build.brief(table, BLOCKED, NODE, 30001) == there
    assert build.brief(table, BLOCKED, EXTERNAL) == there
    assert build.brief(table, POD, IP) == "10.180.0.1:80"


def test_a_load_balancers_own_address_is_no_source_when_the_node_is_not_in_range() -> None:
    table = ranged("203.0.113.0/25")
    assert build.brief(table, NODE, LB) == "drop"
    assert build.brief(table, LB, LB) == "drop"


def test_source_ranges_drop_before_anything_is_rejected() -> None:
    table = build.table(build.service(lb=[LB], type="LoadBalancer", loadBalancerSourceRanges=("203.0.113.0/25",)))
    assert build.brief(table, BLOCKED, LB) == "drop"
    assert build.brief(table, OUTSIDE, LB) == "reject"


def test_source_ranges_of_the_other_family_say_nothing() -> None:
    assert build.brief(ranged("2001:db8::/32"), BLOCKED, LB) == "10.180.0.1:80 masquerade"


def test_a_source_range_that_is_none_is_reported() -> None:
    assert list(ranged("203.0.113.0/25", "here").problems) == [
        'Service ns1/svc1: spec.loadBalancerSourceRanges: "here" is not a network in CIDR form'
    ]


def test_source_ranges_of_which_none_can_be_read_let_nobody_in() -> None:
    assert build.brief(ranged("here"), BLOCKED, LB) == "drop"
    assert build.brief(ranged("here", "203.0.113.0/25"), OUTSIDE, LB) == "10.180.0.1:80 masquerade"


@pytest.mark.parametrize(
    ("mode", "expected"), [(None, "10.180.0.1:80 masquerade"), ("VIP", "10.180.0.1:80 masquerade"), ("Proxy", "none")]
)
def test_ip_mode(mode: Any, expected: str) -> None:
    ingress = (LoadBalancerIngress(ip=LB, ipMode=mode), LoadBalancerIngress(hostname="lb.example.com"))
    status = ServiceStatus(loadBalancer=LoadBalancerStatus(ingress=ingress))
    service = replace(build.service(type="LoadBalancer"), status=status)
    assert build.brief(build.table(service, build.slice("10.180.0.1")), OUTSIDE, LB) == expected


def test_a_load_balancer_without_node_ports() -> None:
    service = build.service(lb=[LB], type="LoadBalancer", allocateLoadBalancerNodePorts=False)
    table = build.table(service, build.slice("10.180.0.1"))
    assert [vip.kind for vip in table.services[service.key].ports[0].vips] == ["cluster", "load-balancer"]


# Endpoints that end


@pytest.mark.parametrize(
    ("endpoints", "to_cluster_ip", "to_lb"),
    [
        (
            ("10.0.1.1@n1", "10.0.1.2@n1", build.draining("10.0.1.3@n1"), build.dead("10.0.1.4@n1"), "10.0.1.5@n2"),
            "10.0.1.1:80 10.0.1.2:80 10.0.1.5:80",
            "10.0.1.1:80 10.0.1.2:80",
        ),
        (
            (build.draining("10.0.1.2@n1"), build.draining("10.0.1.3@n1"), build.dead("10.0.1.4@n1"), "10.0.1.5@n2"),
            "10.0.1.5:80",
            "10.0.1.2:80 10.0.1.3:80",
        ),
        ((build.draining("10.0.1.2@n1"), build.draining("10.0.1.5@n2")), "10.0.1.2:80 10.0.1.5:80", "10.0.1.2:80"),
        ((build.dead("10.0.1.4@n1"), build.draining("10.0.1.5@n2")), "10.0.1.5:80", "drop"),
        ((build.dead("10.0.1.4@n1"),), "reject", "reject"),
    ],
)
def test_rolling_updates(endpoints: Any, to_cluster_ip: str, to_lb: str) -> None:
    table = build.table(reachable(externalTrafficPolicy="Local"), build.slice(*endpoints))
    assert build.brief(table, POD, IP) == to_cluster_ip
    assert build.brief(table, OUTSIDE, LB) == to_lb


# Two families


def test_ipv6_is_apart() -> None:
    service = build.service(
        "svc1",
        build.port(nodePort=30001),
        ip="172.30.0.41",
        clusterIPs=("172.30.0.41", "fd00:172::41"),
        type="NodePort",
        externalIPs=("2001:db8:99::1", EXTERNAL),
    )
    table = build.table(service, build.slice("10.180.0.1"), build.slice("fd00:10::180", family="IPv6", index=2))
    there = "[fd00:10::180]:80"
    assert build.brief(table, "fd00:10::2", "fd00:172::41") == there
    assert build.brief(table, "2600::1", "fd00:172::41") == f"{there} masquerade"
    assert build.brief(table, "2600::1", "2001:db8::1", 30001) == f"{there} masquerade"
    assert build.brief(table, "2600::1", "2001:db8:1::2", 30001) == "none"
    assert build.brief(table, "2600::1", "2001:db8:99::1") == f"{there} masquerade"
    assert build.brief(table, "fd00:10::2", "fd00:172::50") == "drop"
    assert build.brief(table, POD, IP) == "10.180.0.1:80"
    with pytest.raises(ValueError, match="not of one address family"):
        build.ask(table, POD, "fd00:172::41")


def test_one_family_without_endpoints_rejects_the_other_serves() -> None:
    service = build.service(ip="fd00:172::41", clusterIPs=("fd00:172::41", "172.30.0.41"))
    table = build.table(service, build.slice("10.180.0.1"))
    assert build.brief(table, POD, IP) == "10.180.0.1:80"
    assert build.brief(table, "fd00:10::2", "fd00:172::41") == "reject"


def test_answers_say_why() -> None:
    table = everywhere(externalTrafficPolicy="Local")
    assert build.ask(table, OUTSIDE, LB).reason == (
        "load balancer address of ns1/svc1:p80 from outside: one endpoint, source kept"
    )
    assert build.ask(table, NODE, NODE, 30001).reason == (
        "node port of ns1/svc1:p80 from this node: one of 2 endpoints, masqueraded"
    )
    assert build.ask(table, POD, "172.30.0.50").reason == "172.30.0.50 is in the service network, but no Service has it"
    assert build.ask(table, POD, IP, 81).reason == "172.30.0.41 is a cluster IP, but its Service has no port 81/TCP"
    assert build.ask(ranged("192.0.2.0/24"), BLOCKED, LB).reason == (
        "203.0.113.130 is not in the loadBalancerSourceRanges of ns1/svc1:p80"
    )


def test_a_port_without_a_name() -> None:
    table = build.table(
        build.service("svc1", build.port(80, None)), build.slice("10.180.0.1", ports=[(None, 80, "TCP")])
    )
    assert build.ask(table, POD, IP).reason.startswith("cluster IP of ns1/svc1 from a pod")


def test_a_slice_of_another_namespace() -> None:
    """It is another Service's."""
    entry = build.slice("10.180.0.1")
    elsewhere = replace(entry, metadata=ObjectMeta(name="svc1-1", namespace="ns2", labels=entry.metadata.labels))
    assert build.brief(build.table(build.service(), elsewhere), POD, IP) == "reject"
