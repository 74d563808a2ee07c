"""The table: what one change touches, and that the way to a state does not matter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.service.build import build

from percale.model.endpoints import Endpoint, EndpointAddress, EndpointPort, Endpoints, EndpointSlice, EndpointSubset
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.node import Node
from percale.model.service import ClientIPConfig, Service, SessionAffinityConfig
from percale.model.subnet_lease import SubnetLease, SubnetLeaseSpec
from percale.service.resolver import ServiceResolver

IP, POD, OUTSIDE = "172.30.0.41", "10.0.0.2", "203.0.113.2"


def key(name: str) -> ObjectKey:
    return ObjectKey("ns1", name)


# What a change touches


def test_one_slice_touches_one_service() -> None:
    table = build.table(
        build.service(),
        build.service("svc2", ip="172.30.0.42"),
        build.slice("10.180.0.1"),
        build.slice("10.180.0.2", service="svc2"),
    )
    assert table.apply([build.slice("10.180.0.3")]) == {key("svc1")}
    assert build.brief(table, POD, IP) == "10.180.0.3:80"
    assert table.apply([build.slice("10.180.0.3")]) == set()
    assert table.apply(gone=[(EndpointSlice, key("svc1-1"))]) == {key("svc1")}
    assert build.brief(table, POD, IP) == "reject"


def test_slices_of_one_service_are_put_in_order_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes very many slices does not make each of them cost what all cost."""
    ordered: list[int] = []

    def counting(names: Iterable[str]) -> list[str]:
        found = sorted(names)
        ordered.append(len(found))
        return found

    monkeypatch.setattr("percale.service.resolver.sorted", counting, raising=False)
    one = build.slice("10.180.0.1")
    many = [replace(one, metadata=replace(one.metadata, name=f"s{number}")) for number in range(200)]
    build.table(build.service(), *many)
    assert sum(ordered) <= 400


def test_what_changes_nothing_is_not_reported() -> None:
    table = build.table(build.service(internalTrafficPolicy="Local"), build.slice("10.180.0.1@n1", "10.180.0.2@n2"))
    unready = build.slice("10.180.0.1@n1", "10.180.0.2@n2", build.endpoint("10.180.0.3@n2", ready=False))
    assert table.apply([unready]) == set()
    assert table.apply([build.service(internalTrafficPolicy="Local", labels={"a": "b"})]) == set()
    assert table.apply([build.node(zone=None), build.node(name="n2")]) == set()
    assert table.apply(gone=[(Service, key("other")), (EndpointSlice, key("other-1"))]) == set()


def test_a_service_that_means_the_same_after_a_change_is_still_found() -> None:
    table = build.table(build.service(selector={}))
    assert table.apply([build.service(selector={"app": "web"})]) == set()
    assert build.brief(table, POD, IP) == "reject"


def test_a_slice_that_moves_to_another_service() -> None:
    table = build.table(build.service(), build.service("svc2", ip="172.30.0.42"), build.slice("10.180.0.1"))
    moved = build.slice("10.180.0.1", service="svc2")
    moved = replace(moved, metadata=replace(moved.metadata, name="svc1-1"))
    assert table.apply([moved]) == {key("svc1"), key("svc2")}
    assert build.brief(table, POD, IP) == "reject"
    assert build.brief(table, POD, "172.30.0.42") == "10.180.0.1:80"


def test_slices_may_come_before_their_service_and_go_after_it() -> None:
    table = build.table(build.slice("10.180.0.1"))
    assert table.services == {}
    assert table.apply([build.service()]) == {key("svc1")}
    assert build.brief(table, POD, IP) == "10.180.0.1:80"
    assert table.apply(gone=[(Service, key("svc1"))]) == {key("svc1")}
    assert table.apply(gone=[(EndpointSlice, key("svc1-1"))]) == set()
    assert list(table.cluster_ips) == []


def test_a_zone_touches_whoever_has_hints() -> None:
    hinted = build.slice(build.endpoint("10.180.0.1", zones=["a"]), build.endpoint("10.180.0.2", zones=["b"]))
    table = build.table(
        build.service(), hinted, build.service("svc2", ip="172.30.0.42"), build.slice("10.180.0.3", service="svc2")
    )
    assert table.apply([build.node(zone="b")]) == {key("svc1")}
    assert build.brief(table, POD, IP) == "10.180.0.2:80"
    assert table.apply(gone=[(Node, ObjectKey(None, "n1"))]) == {key("svc1")}
    assert table.node_port_addresses == ()


# Affinity, health checks, addresses that are none


def test_affinity() -> None:
    def timeout(service: Service) -> int | None:
        return build.table(service).services[key("svc1")].ports[0].spec.affinity

    config = SessionAffinityConfig(clientIP=ClientIPConfig(timeoutSeconds=60))
    assert timeout(build.service()) is None
    assert timeout(build.service(sessionAffinityConfig=config)) is None
    assert timeout(build.service(sessionAffinity="ClientIP")) == 10800
    assert timeout(build.service(sessionAffinity="ClientIP", sessionAffinityConfig=config)) == 60


@pytest.mark.parametrize("seconds", [0, -5, 86401, 10**19])
def test_a_timeout_that_no_client_can_have_is_a_problem_and_the_default_holds(seconds: int) -> None:
    config = SessionAffinityConfig(clientIP=ClientIPConfig(timeoutSeconds=seconds))
    table = build.table(build.service(sessionAffinity="ClientIP", sessionAffinityConfig=config))
    assert table.services[key("svc1")].ports[0].spec.affinity == 10800
    assert list(table.problems) == [
        f"Service ns1/svc1: spec.sessionAffinityConfig.clientIP.timeoutSeconds: {seconds} is not from 1 to 86400; "
        "10800 is used"
    ]


@pytest.mark.parametrize("number", [-1, 65536, 99999])
def test_a_number_that_is_no_port_is_a_problem_and_the_rest_is_served(number: int) -> None:
    odd = build.service(
        "svc1",
        build.port(80, nodePort=number),
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        healthCheckNodePort=number,
    )
    table = build.table(odd, build.slice("10.180.0.1"))
    service = table.services[key("svc1")]
    assert ([vip.kind for vip in service.ports[0].vips], service.health_check_port) == (["cluster"], None)
    assert list(table.problems) == [
        f"Service ns1/svc1: spec.ports[0].nodePort: {number} is not a port, 1 to 65535",
        f"Service ns1/svc1: spec.healthCheckNodePort: {number} is not a port, 1 to 65535",
    ]


def test_health_checks_count_the_ready_endpoints_of_this_node() -> None:
    service = build.service(
        "svc1",
        build.port(80),
        build.port(81, "p81"),
        ip="172.30.0.41",
        clusterIPs=("172.30.0.41", "fd00:172::41"),
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        healthCheckNodePort=32000,
    )
    here = build.slice(
        "10.0.1.1@n1",
        "10.0.1.2@n1",
        build.endpoint("10.0.1.4@n1", ready=False),
        build.draining("10.0.1.5@n1"),
        "10.0.1.6@n2",
        ports=[("p80", 80, "TCP"), ("p81", 81, "TCP")],
    )
    again = build.slice("10.0.1.1@n1", index=2)
    six = build.slice("fd00:10::1@n1", "fd00:10::2@n1", family="IPv6", index=3)
    table = build.table(service, here, again, six)
    resolved = table.services[key("svc1")]
    assert (resolved.health_check_port, resolved.local_ready) == (32000, 2)
    assert table.apply([build.slice(build.draining("10.0.1.1@n1"))]) == {key("svc1")}
    table.apply(gone=[(EndpointSlice, key("svc1-2")), (EndpointSlice, key("svc1-3"))])
    assert table.services[key("svc1")].local_ready == 0
    table.apply([replace(service, spec=replace(service.spec, externalTrafficPolicy="Cluster"))])
    assert table.services[key("svc1")].health_check_port is None


def test_an_address_that_is_none_is_an_error_of_its_service_only() -> None:
    table = build.table(
        build.service(externalIPs=("here", "192.168.99.11")),
        build.slice("10.180.0.1", "10.180.0"),
        build.service("svc2", ip="172.30.0"),
    )
    assert sorted(table.problems) == [
        'EndpointSlice ns1/svc1-1: endpoints[1].addresses[0]: "10.180.0" is not an IPv4 address',
        'Service ns1/svc1: spec.externalIPs: "here" is not an IP address',
        'Service ns1/svc2: spec.clusterIPs: "172.30.0" is not an IP address',
    ]
    assert build.brief(table, OUTSIDE, "192.168.99.11") == "10.180.0.1:80 masquerade"


def test_a_port_that_is_none_is_an_error_of_its_service_only() -> None:
    odd = build.slice("10.180.0.1")
    table = build.table(
        build.service(),
        replace(odd, ports=(replace(odd.ports[0], port=70000),)),
        build.service("svc2", ip="172.30.0.42"),
    )
    assert list(table.problems) == ["EndpointSlice ns1/svc1-1: ports[0].port: 70000 is not a port, 1 to 65535"]


# Tunnels between nodes


def lease(name: str, subnet: str = "10.0.2.0/24", public: str = "192.168.0.9") -> SubnetLease:
    spec = SubnetLeaseSpec(node=name, subnet=IPv4Network(subnet), publicIP=IPv4Address(public))
    return SubnetLease(metadata=ObjectMeta(name=name), spec=spec)


def tunnelled(*endpoints: Endpoint | str, service: str = "svc1", index: int = 1) -> EndpointSlice:
    """With a port of that number, and another."""
    return build.slice(*endpoints, service=service, index=index, ports=(("p80", 8472, "UDP"), ("p81", 80, "TCP")))


def test_a_tunnel_is_no_endpoint_whenever_its_node_comes() -> None:
    service = build.service("svc1", build.port(protocol="UDP"), build.port(81, "p81"))
    at_tunnel, at_other = ("10.9.9.9", "172.30.0.41", 80, "UDP"), ("10.9.9.9", "172.30.0.41", 81, "TCP")
    table = build.table(service, tunnelled("10.0.2.0", "10.0.2.1", "192.168.0.9", "10.0.2.7"))
    assert len(build.ask(table, *at_tunnel).endpoints) == 4  # type: ignore[arg-type]
    assert table.apply([lease("n2")]) == {service.key}
    assert build.ask(table, *at_tunnel).endpoints == ("10.0.2.7:8472",)  # type: ignore[arg-type]
    assert len(build.ask(table, *at_other).endpoints) == 4  # type: ignore[arg-type]
    assert list(table.problems) == [
        f"EndpointSlice ns1/svc1-1: {address}:8472/UDP is the tunnel of a node, and no endpoint"
        for address in ("10.0.2.0", "10.0.2.1", "192.168.0.9")
    ]
    assert table.apply([lease("n3", "10.0.3.0/24")]) == set()  # two leases have the public address now
    assert table.apply(gone=[(SubnetLease, lease("n2").key)]) == {service.key}
    assert len(build.ask(table, *at_tunnel).endpoints) == 3  # type: ignore[arg-type]


def test_the_tunnels_port_is_the_networks() -> None:
    table = build.table(build.service(), tunnelled("10.0.2.0"), lease("n2"), tunnel_ports=(4789,))
    assert list(table.problems) == []
    plain = written("10.0.2.0")
    plain = replace(
        plain, subsets=(replace(plain.subsets[0], ports=(EndpointPort(name="p80", port=4789, protocol="UDP"),)),)
    )
    assert len(list(build.table(build.service(), plain, lease("n2"), tunnel_ports=(4789,)).problems)) == 1


def test_each_of_several_tunnel_ports_is_no_endpoint() -> None:
    both = build.slice("10.0.2.0", service="svc1", ports=(("p80", 51820, "UDP"), ("p81", 51821, "UDP")))
    table = build.table(build.service(), both, lease("n2"), tunnel_ports=(51820, 51821))
    assert list(table.problems) == [
        f"EndpointSlice ns1/svc1-1: 10.0.2.0:{port}/UDP is the tunnel of a node, and no endpoint"
        for port in (51820, 51821)
    ]


# Endpoints that somebody wrote


def written(
    *addresses: str, name: str = "svc1", labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None
) -> Endpoints:
    meta = ObjectMeta(name=name, namespace="ns1", labels=labels or {}, annotations=annotations or {})
    subset = EndpointSubset(
        addresses=tuple(EndpointAddress(ip=each) for each in addresses), ports=(EndpointPort(name="p80", port=5432),)
    )
    return Endpoints(metadata=meta, subsets=(subset,))


def test_an_outside_database() -> None:
    table = build.table(build.service(), written("198.51.100.7", "2001:db8:7::1"))
    assert build.brief(table, POD, IP) == "198.51.100.7:5432"
    assert table.apply([written("198.51.100.8")]) == {key("svc1")}
    assert build.brief(table, POD, IP) == "198.51.100.8:5432"
    assert table.apply([build.slice("10.180.0.1")]) == {key("svc1")}
    assert build.brief(table, POD, IP) == "10.180.0.1:80", "slices come before Endpoints"
    table.apply(gone=[(EndpointSlice, key("svc1-1"))])
    assert build.brief(table, POD, IP) == "198.51.100.8:5432"
    assert table.apply(gone=[(Endpoints, key("svc1"))]) == {key("svc1")}
    assert build.brief(table, POD, IP) == "reject"


def test_endpoints_that_are_not_mirrored() -> None:
    skipped = written("198.51.100.7", labels={"endpointslice.kubernetes.io/skip-mirror": "true"})
    leader = written("198.51.100.7", annotations={"control-plane.alpha.kubernetes.io/leader": "{}"})
    for each in (skipped, leader):
        assert build.brief(build.table(build.service(), each), POD, IP) == "reject"
    selecting = build.service(selector={"app": "web"})
    assert build.brief(build.table(selecting, written("198.51.100.7")), POD, IP) == "reject"


def test_addresses_that_are_not_ready_are_mirrored_so() -> None:
    meta = ObjectMeta(name="svc1", namespace="ns1")
    ports = (EndpointPort(name="p80", port=80),)
    subset = EndpointSubset(notReadyAddresses=(EndpointAddress(ip="10.1.1.1"),), ports=ports)
    assert build.brief(build.table(build.service(), Endpoints(metadata=meta, subsets=(subset,))), POD, IP) == "reject"


# The way to a state does not matter

NAMES = st.sampled_from(["a", "b", "c"])
ENDPOINTS = st.builds(
    build.endpoint,
    st.sampled_from(["10.0.0.1", "10.0.0.2@n1", "10.0.0.3@n2", "10.0.0.1@n1"]),
    ready=st.sampled_from([None, True, False]),
    serving=st.sampled_from([None, True, False]),
    terminating=st.sampled_from([None, True, False]),
    zones=st.sampled_from([(), ("x",), ("y",)]),
    nodes=st.sampled_from([(), ("n1",), ("n2",)]),
)


@st.composite
def services(draw: st.DrawFn) -> Object:
    name = draw(NAMES)
    return build.service(
        name,
        build.port(draw(st.sampled_from([80, 81])), nodePort=draw(st.sampled_from([None, 30001, 30002]))),
        ip=draw(st.sampled_from(["172.30.0.1", "172.30.0.2", "None", "fd00:172::1"])),
        created=draw(st.sampled_from([None, "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"])),
        lb=draw(st.sampled_from([(), ("1.2.3.4",)])),
        annotations=draw(
            st.sampled_from(
                [
                    {},
                    {"percale.io/strategy": "mh"},
                    {"percale.io/strategy": "worst"},
                    {"percale.io/strategy": "wrr", "percale.io/weights": "node/n1=3"},
                ]
            )
        ),
        type=draw(st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"])),
        externalIPs=draw(
            st.sampled_from(
                [(), ("192.168.99.11",), ("172.30.0.1",), ("192.168.0.3",), ("192.168.0.3", "192.168.99.11")]
            )
        ),
        internalTrafficPolicy=draw(st.sampled_from([None, "Local"])),
        externalTrafficPolicy=draw(st.sampled_from([None, "Local"])),
        selector=draw(st.sampled_from([{}, {"app": "web"}])),
        healthCheckNodePort=draw(st.sampled_from([None, 32000])),
    )


@st.composite
def slices(draw: st.DrawFn) -> Object:
    name, index = draw(NAMES), draw(st.integers(1, 2))
    of = build.slice if draw(st.booleans()) else tunnelled
    entry = of(*draw(st.lists(ENDPOINTS, max_size=4)), service=draw(NAMES), index=index)
    return replace(entry, metadata=replace(entry.metadata, name=f"{name}-{index}"))


def nodes() -> st.SearchStrategy[Object]:
    return st.builds(
        build.node,
        st.sampled_from(["192.168.0.2", "192.168.0.3"]),
        name=st.sampled_from(["n1", "n2", "n3"]),
        zone=st.sampled_from([None, "x", "y"]),
    )


def leases() -> st.SearchStrategy[Object]:
    return st.builds(
        lease,
        st.sampled_from(["n1", "n2"]),
        st.sampled_from(["10.0.0.0/24", "10.0.0.2/31", "10.1.0.0/24"]),
        st.sampled_from(["10.0.0.2", "10.0.0.9", "192.168.0.3", "192.168.99.11"]),
    )


OBJECTS = st.one_of(services(), slices(), nodes(), leases(), st.builds(written, st.just("198.51.100.7"), name=NAMES))
STEPS = st.lists(
    st.tuples(st.lists(OBJECTS, max_size=3), st.lists(st.integers(0, 20), max_size=2)), min_size=1, max_size=12
)


@given(STEPS)
def test_a_table_that_followed_equals_a_fresh_one(steps: list[tuple[list[Object], list[int]]]) -> None:
    followed = ServiceResolver(build.config())
    there: dict[tuple[type[Object], ObjectKey], Object] = {}
    for drawn, chosen in steps:
        put = list({(type(each), each.key): each for each in drawn}.values())
        names = [each for each in there if each not in {(type(obj), obj.key) for obj in put}]
        gone = {names[index % len(names)] for index in chosen} if names else set()
        before = dict(followed.services)
        changed = followed.apply(put, gone)
        for each in gone:
            del there[each]
        there.update({(type(each), each.key): each for each in put})
        assert changed == differing(before, followed)
        same(followed, ServiceResolver(build.config(), shuffled(there.values())))


def differing(before: Mapping[ObjectKey, object], after: ServiceResolver) -> set[ObjectKey]:
    keys = before.keys() | after.services.keys()
    return {each for each in keys if before.get(each) != after.services.get(each)}


def shuffled(objects: Iterable[Object]) -> list[Object]:
    """In an order of its own: by kind and name, backwards."""
    return sorted(objects, key=lambda each: (each.KIND, each.key.name), reverse=True)


def same(one: ServiceResolver, other: ServiceResolver) -> None:
    assert one.services == other.services
    assert set(one.cluster_ips) == set(other.cluster_ips)
    assert one.node_port_addresses == other.node_port_addresses
    for resolved in one.services.values():
        for port in resolved.ports:
            for vip in port.vips:
                target = vip.address or bytes((192, 168, 0, 2))
                if len(target) == 4:
                    text = ".".join(map(str, target))
                    assert build.ask(one, OUTSIDE, text, vip.port) == build.ask(other, OUTSIDE, text, vip.port)
