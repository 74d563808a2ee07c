"""One Service as a node sees it: each endpoint, used or why not, and for whom; the list; what is not ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from tests.unit.service.build import build

from percale.explain.services.document import service_document
from percale.explain.services.endpoint_usage import User, endpoints_of, slices_of, users_of
from percale.explain.services.list import row
from percale.explain.services.show import lines, view
from percale.model.endpoints import Endpoint, EndpointAddress, EndpointPort, Endpoints, EndpointSlice, EndpointSubset
from percale.model.meta import Object, ObjectMeta
from percale.model.service import HEADLESS_LABEL, PROXY_NAME_LABEL, Service
from percale.service.resolved_service import ResolvedPort


def usage(service: Service, *objects: Object, zone: str | None = None) -> dict[str, tuple[str, str | None]]:
    """Each endpoint's address with whether it is used and why, as n1 sees it; a duplicate has a prime."""
    everything = (build.node(zone=zone), service, *objects)
    found: dict[str, tuple[str, str | None]] = {}
    for port in view(service, build.table(*everything), everything).ports:
        for each in port.endpoints:
            name = each.endpoint.rpartition(":")[0]
            found[f"{name}'" if name in found else name] = (each.used, each.reason)
    return found


def hinted(address: str, *zones: str, nodes: Sequence[str] = ()) -> Endpoint:
    return build.endpoint(address, zones=zones, nodes=nodes)


def test_conditions() -> None:
    ends = (build.endpoint("10.0.0.2", ready=False), build.draining("10.0.0.3"), build.dead("10.0.0.4"))
    assert usage(build.service(), build.slice("10.0.0.1", *ends)) == {
        "10.0.0.1": ("yes", None),
        "10.0.0.2": ("no", "not ready"),
        "10.0.0.3": ("no", "terminating"),
        "10.0.0.4": ("no", "terminating, and serves no more"),
    }
    assert usage(build.service(), build.slice(*ends))["10.0.0.3"] == ("yes", "terminating, but nobody is ready")


@pytest.mark.parametrize(
    ("endpoints", "zone", "expected"),
    [
        ((hinted("10.0.0.1", "a"), hinted("10.0.0.2", "b", "c")), "a", ("no", "topology hint: for zone b, c")),
        ((hinted("10.0.0.1", "a"), hinted("10.0.0.2", "b")), "c", ("yes", None)),
        (
            (hinted("10.0.0.1", "a", nodes=["n1"]), hinted("10.0.0.2", "a", nodes=["n2"])),
            "a",
            ("no", "topology hint: for n2"),
        ),
        (
            (hinted("10.0.0.1", "a", nodes=["n3"]), hinted("10.0.0.2", "b", nodes=["n2"])),
            "a",
            ("no", "topology hint: for zone b"),
        ),
    ],
)
def test_hints(endpoints: Sequence[Endpoint], zone: str, expected: tuple[str, str | None]) -> None:
    assert usage(build.service(), build.slice(*endpoints), zone=zone)["10.0.0.2"] == expected


def test_traffic_policy_local() -> None:
    ends = build.slice("10.0.0.1@n1", "10.0.0.2@n2", "10.0.0.3")
    inside = usage(build.service(internalTrafficPolicy="Local"), ends)
    assert inside == {
        "10.0.0.1": ("yes", None),
        "10.0.0.2": ("no", "on n2, and internalTrafficPolicy is Local"),
        "10.0.0.3": ("no", "on no node that is known, and internalTrafficPolicy is Local"),
    }
    outside = build.service(type="LoadBalancer", externalTrafficPolicy="Local", lb=("1.2.3.4",))
    assert usage(outside, ends)["10.0.0.2"] == (
        "in part",
        "not for clients outside: on n2, and externalTrafficPolicy is Local",
    )
    both = build.service(
        type="LoadBalancer", internalTrafficPolicy="Local", externalTrafficPolicy="Local", lb=("1.2.3.4",)
    )
    assert usage(both, ends)["10.0.0.2"] == (
        "in part",
        "not at the cluster IP: on n2, and internalTrafficPolicy is Local; "
        "not for clients outside: on n2, and externalTrafficPolicy is Local",
    )


def test_a_local_endpoint_that_a_hint_leaves_out_is_used_where_only_local_ones_are() -> None:
    service = build.service(type="LoadBalancer", externalTrafficPolicy="Local", lb=("1.2.3.4",))
    ends = build.slice(hinted("10.0.0.1@n1", "b"), hinted("10.0.0.2@n2", "a"))
    assert usage(service, ends, zone="a") == {
        "10.0.0.1": (
            "in part",
            "not at the cluster IP or for pods and this node at other addresses: topology hint: for zone b",
        ),
        "10.0.0.2": ("in part", "not for clients outside: on n2, and externalTrafficPolicy is Local"),
    }


def test_duplicates() -> None:
    twice = usage(build.service(), build.slice("10.0.0.1", index=1), build.slice("10.0.0.1", index=2))
    assert twice == {
        "10.0.0.1": ("yes", None),
        "10.0.0.1'": ("no", "duplicate: slice svc1-1 has it too, and that one counts"),
    }
    local_wins = usage(build.service(), build.slice("10.0.0.1", index=1), build.slice("10.0.0.1@n1", index=2))
    assert local_wins["10.0.0.1'"] == ("yes", None)


def test_a_weight_of_nothing() -> None:
    weights = {"percale.io/strategy": "wrr", "percale.io/weights": "10.0.0.2=0, *=1"}
    assert usage(build.service(annotations=weights), build.slice("10.0.0.1", "10.0.0.2")) == {
        "10.0.0.1": ("yes", None),
        "10.0.0.2": ("no", "its weight is 0"),
    }


def test_plain_endpoints_count_where_nobody_wrote_slices() -> None:
    address = EndpointAddress(ip="192.0.2.7")
    subset = EndpointSubset(addresses=(address,), ports=(EndpointPort(name="p80", port=5432),))
    plain = Endpoints(metadata=ObjectMeta(name="svc1", namespace="ns1"), subsets=(subset,))
    assert usage(build.service(), plain) == {"192.0.2.7": ("yes", None)}
    assert usage(build.service(), plain, build.slice("10.0.0.1")) == {"10.0.0.1": ("yes", None)}
    assert usage(build.service(selector={"a": "b"}), plain) == {}


def test_only_its_own_port_and_family() -> None:
    others = build.slice("10.0.0.9", index=2, ports=[("other", 80, "TCP"), ("p80", 80, "UDP"), ("p80", None, "TCP")])
    six = build.slice("fd00:10::1", index=3, family="IPv6")
    assert usage(build.service(), build.slice("10.0.0.1"), others, six) == {"10.0.0.1": ("yes", None)}


ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"])
BITS = st.sampled_from([None, True, False])


@st.composite
def an_endpoint(draw: st.DrawFn) -> Endpoint:
    return build.endpoint(
        draw(ADDRESSES) + draw(st.sampled_from(["", "@n1", "@n2"])),
        ready=draw(BITS),
        serving=draw(BITS),
        terminating=draw(BITS),
        nodes=draw(st.sampled_from([(), ("n1",), ("n2",)])),
        zones=draw(st.sampled_from([(), ("a",), ("b",)])),
    )


SLICES = st.lists(st.lists(an_endpoint(), max_size=4), max_size=3)
LOCAL = st.sampled_from(["Cluster", "Local"])


@given(SLICES, LOCAL, LOCAL)
def test_what_is_told_is_what_the_table_chose(parts: list[list[Endpoint]], inside: str, outside: str) -> None:
    service = build.service(
        type="LoadBalancer", internalTrafficPolicy=inside, externalTrafficPolicy=outside, lb=("1.2.3.4",)
    )
    slices = [build.slice(*ends, index=index) for index, ends in enumerate(parts)]
    objects: list[Object] = [build.node(zone="a"), service, *slices]
    table = build.table(*objects)
    port: ResolvedPort = table.services[service.key].ports[0]
    found = endpoints_of(port, slices_of(service, objects, "n1"), table)
    for user, slots in users_of(port).items():
        chosen = set() if isinstance(slots, str) else set(port.records(slots))
        assert {each.record for each in found if user in each.users} == chosen
    assert len(found) == sum(map(len, parts))
    users: set[User] = {"cluster IP", "this node", "outside"}
    for each in found:
        assert each.used == ("yes" if set(each.users) == users else "in part" if each.users else "no")
        assert (each.used == "yes") or each.reason


# The whole of it


def shown(service: Service, *objects: EndpointSlice, **config: Any) -> list[str]:
    everything = (build.node(), service, *objects)
    return list(lines(view(service, build.table(*everything, **config), everything)))


def test_who_gets_where() -> None:
    service = build.service(
        "svc1",
        build.port(nodePort=30080),
        type="LoadBalancer",
        externalTrafficPolicy="Local",
        healthCheckNodePort=31000,
        loadBalancerSourceRanges=("10.0.0.0/8",),
        lb=("1.2.3.4",),
        sessionAffinity="ClientIP",
    )
    assert shown(service, build.slice("10.0.0.1@n1", "10.0.0.2@n2")) == [
        "Service ns1/svc1 as n1 sees it: LoadBalancer, strategy random, ClientIP affinity of 10800 s",
        "",
        "p80: 80/TCP, IPv4",
        "  cluster IP              172.30.0.41:80",
        "  load balancer address   1.2.3.4:80, for 10.0.0.0/8 only",
        "  node port               30080 at 192.168.0.2",
        "",
        "  FROM        CLUSTER IP                 OTHER ADDRESSES",
        "  a pod       2 endpoints, source kept   2 endpoints, source kept",
        "  this node   2 endpoints, masqueraded   2 endpoints, masqueraded",
        "  outside     2 endpoints, masqueraded   1 endpoint, source kept",
        "",
        "  ENDPOINT      NODE   POD   USED      WHY",
        "  10.0.0.1:80   n1     -     yes",
        "  10.0.0.2:80   n2     -     in part   not for clients outside: on n2, and externalTrafficPolicy is Local",
        "",
        "health check at node port 31000: 200, 1 ready endpoint on this node",
    ]


def test_nobody_there() -> None:
    said = shown(build.service(internalTrafficPolicy="Local"), build.slice("10.0.0.2@n2"))
    assert [each.split()[-1] for each in said if each.startswith("  a pod")] == ["dropped"]
    said = shown(build.service())
    assert [each.split()[-1] for each in said if each.startswith("  a pod")] == ["refused"]
    assert said[-1] == "  no endpoints"


def test_masquerade_all() -> None:
    said = shown(build.service(), build.slice("10.0.0.1"), masquerade_all=True)
    assert "  a pod       1 endpoint, masqueraded" in said


def test_problems_are_told() -> None:
    said = shown(build.service(annotations={"percale.io/strategy": "best"}), build.slice("10.0.0.1"))
    assert said[-2] == "problems"
    assert 'unknown strategy "best"' in said[-1]


def test_json_has_it_all() -> None:
    service = build.service()
    everything = (build.node(), service, build.slice("10.0.0.1", build.endpoint("10.0.0.2", ready=False)))
    seen = view(service, build.table(*everything), everything)
    first, second = service_document(seen, {("TCP", b"\x0a\0\0\x01\0\x50"): 3}).ports[0].endpoints
    assert (first.endpoint, first.used, first.connections) == ("10.0.0.1:80", "yes", 3)
    assert (second.users, second.reason, second.connections) == ((), "not ready", 0)
    assert service_document(seen).ports[0].endpoints[0].connections is UNSET


@pytest.mark.parametrize(
    ("service", "unproxied_reason"),
    [
        (build.service(type="ExternalName", externalName="db.example.com", ip=None), "a name for db.example.com"),
        (build.service(ip="None"), "headless: its name leads to the pods themselves"),
        (build.service(labels={HEADLESS_LABEL: ""}), "headless: its name leads to the pods themselves"),
        (build.service(labels={PROXY_NAME_LABEL: "other"}), "another proxy's: other"),
        (build.service(ip=None), "without cluster IP or ports"),
    ],
)
def test_what_is_not_ours_says_why(service: Service, unproxied_reason: str) -> None:
    everything = (build.node(), service, build.slice("10.0.0.1"))
    seen = view(service, build.table(*everything), everything)
    assert (seen.ports, seen.unproxied_reason) == ((), unproxied_reason)
    assert list(lines(seen)) == [f"Service ns1/svc1 as n1 sees it: {service.spec.type}, {unproxied_reason}"]
    assert row(seen).cells[2:] == [unproxied_reason.partition(":")[0], "-", "-", "-", "-"]


def test_a_line_of_the_list() -> None:
    service = build.service(
        "svc1",
        build.port(nodePort=30080),
        build.port(53, "dns", protocol="UDP"),
        type="NodePort",
        clusterIPs=("172.30.0.41", "fd00:172::41"),
        externalIPs=("1.1.1.1",),
        sessionAffinity="ClientIP",
    )
    ends = build.slice("10.0.0.1", "10.0.0.2", build.draining("10.0.0.3"))
    everything = (service, ends, build.slice("fd00:10::1", index=2, family="IPv6"))
    cells = row(view(service, build.table(*everything), everything)).cells
    assert cells == [
        "ns1/svc1",
        "NodePort",
        "172.30.0.41, 1.1.1.1, fd00:172::41",
        "80:30080/TCP, 53/UDP",
        "random",
        "10800 s",
        "2/3",
    ]
