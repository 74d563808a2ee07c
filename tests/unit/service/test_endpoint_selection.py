"""Which endpoints a node uses: conditions, hints, locality, duplicates. As kube-proxy's topology tables, and more."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

import pytest
from tests.unit.service.build import build

from percale.model.endpoints import Endpoint, EndpointSlice
from percale.model.ip_family import Family
from percale.service.endpoint_selection import Selection, candidates, select
from percale.service.endpoint_slices import DRAINING, LOCAL, READY, facts_of_slice
from percale.service.service_ports import format_endpoint


def chosen(*slices: EndpointSlice, zone: str = "", port: str = "p80") -> tuple[str, str, bool]:
    """(the cluster's endpoints, those of n1, whether any is anywhere)."""
    facts = [each for entry in slices if (each := facts_of_slice(entry, "n1")) is not None]
    choice: Selection = select(candidates(facts, Family.IPV4, port, "TCP"), "n1", zone)
    cluster, local = (
        " ".join(format_endpoint(each[:-2], int.from_bytes(each[-2:])).removesuffix(":80") for each in records)
        for records in (choice.cluster, choice.local)
    )
    return cluster, local, choice.anywhere


def hinted(address: str, *zones: str, ready: bool = True, nodes: Sequence[str] = ()) -> Endpoint:
    return build.endpoint(address, ready=ready, zones=zones, nodes=nodes)


THREE_ZONES = (hinted("10.0.0.3", "a"), hinted("10.0.0.4", "b"), hinted("10.0.0.5", "c"), hinted("10.0.0.6", "a"))
ALL = "10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6"


@pytest.mark.parametrize(
    ("what", "endpoints", "zone", "cluster"),
    [
        ("own zone", THREE_ZONES, "a", "10.0.0.3 10.0.0.6"),
        ("the node has no zone", THREE_ZONES, "", ALL),
        ("nobody is meant for the zone", THREE_ZONES, "d", ALL),
        ("one has no hint", (*THREE_ZONES[:3], "10.0.0.6"), "a", ALL),
        (
            "one that is not ready is not used",
            (*THREE_ZONES[:3], hinted("10.0.0.6", "a", ready=False)),
            "a",
            "10.0.0.3",
        ),
        (
            "one that is not ready needs no hint",
            (*THREE_ZONES[:3], build.endpoint("10.0.0.6", ready=False)),
            "a",
            "10.0.0.3",
        ),
        (
            "only unready ones in the zone",
            (
                hinted("10.0.0.3", "a", ready=False),
                hinted("10.0.0.4", "b"),
                hinted("10.0.0.5", "c"),
                hinted("10.0.0.6", "a", ready=False),
            ),
            "a",
            "10.0.0.4 10.0.0.5",
        ),
        (
            "several zones in a hint",
            (hinted("10.0.0.3", "a", "b", "c"), hinted("10.0.0.4", "b", "c"), hinted("10.0.0.5", "b", "d")),
            "c",
            "10.0.0.3 10.0.0.4",
        ),
        (
            "own node before own zone",
            (hinted("10.0.0.3", "a", nodes=["n1"]), hinted("10.0.0.4", "a", nodes=["n2"])),
            "a",
            "10.0.0.3",
        ),
        (
            "nobody is meant for the node: the zone",
            (hinted("10.0.0.3", "a", nodes=["n2"]), hinted("10.0.0.4", "b", nodes=["n3"])),
            "a",
            "10.0.0.3",
        ),
        (
            "a node hint is missing: the zone",
            (hinted("10.0.0.3", "a", nodes=["n1"]), hinted("10.0.0.4", "a"), hinted("10.0.0.5", "b")),
            "a",
            "10.0.0.3 10.0.0.4",
        ),
        (
            "node hints alone, not for this node",
            (hinted("10.0.0.3", nodes=["n2"]), hinted("10.0.0.4", nodes=["n3"])),
            "a",
            "10.0.0.3 10.0.0.4",
        ),
    ],
)
def test_hints(what: str, endpoints: Sequence[Endpoint | str], zone: str, cluster: str) -> None:
    assert chosen(build.slice(*endpoints), zone=zone)[0] == cluster, what


def test_the_local_set_ignores_hints() -> None:
    endpoints = (
        hinted("10.0.0.3@n1", "a"),
        hinted("10.0.0.4@n1", "b"),
        hinted("10.0.0.5", "b"),
        hinted("10.0.0.6", "a"),
    )
    assert chosen(build.slice(*endpoints), zone="a") == ("10.0.0.3 10.0.0.6", "10.0.0.3 10.0.0.4", True)


@pytest.mark.parametrize(
    ("what", "endpoints", "cluster", "local", "anywhere"),
    [
        ("none", (), "", "", False),
        ("ready ones", ("10.0.0.1@n1", "10.0.0.2@n2"), "10.0.0.1 10.0.0.2", "10.0.0.1", True),
        ("remote ones only", ("10.0.0.1@n2", "10.0.0.2"), "10.0.0.1 10.0.0.2", "", True),
        (
            "those that end are not used while others are ready",
            ("10.0.0.1@n1", build.draining("10.0.0.2@n1"), build.dead("10.0.0.3@n1"), "10.0.0.4@n2"),
            "10.0.0.1 10.0.0.4",
            "10.0.0.1",
            True,
        ),
        (
            "all end: those that still serve",
            (build.draining("10.0.0.1@n1"), build.draining("10.0.0.2@n2"), build.dead("10.0.0.3@n1")),
            "10.0.0.1 10.0.0.2",
            "10.0.0.1",
            True,
        ),
        (
            "the two sets fall back on their own",
            (build.draining("10.0.0.1@n1"), build.dead("10.0.0.2@n1"), "10.0.0.3@n2"),
            "10.0.0.3",
            "10.0.0.1",
            True,
        ),
        ("serving is not enough", (build.endpoint("10.0.0.1@n1", ready=False, serving=True),), "", "", False),
        ("dead ones are none", (build.dead("10.0.0.1@n1"),), "", "", False),
        (
            "ready although it ends, as publishNotReadyAddresses says",
            (build.endpoint("10.0.0.1@n1", ready=True, serving=False, terminating=True),),
            "10.0.0.1",
            "10.0.0.1",
            True,
        ),
        (
            "serving is unknown: it serves",
            (build.endpoint("10.0.0.1@n1", ready=False, terminating=True),),
            "10.0.0.1",
            "10.0.0.1",
            True,
        ),
    ],
)
def test_conditions(what: str, endpoints: Sequence[Endpoint | str], cluster: str, local: str, anywhere: bool) -> None:
    assert chosen(build.slice(*endpoints)) == (cluster, local, anywhere), what


def test_those_that_end_are_used_whatever_their_hints() -> None:
    ending = build.endpoint("10.0.0.1@n2", ready=False, serving=True, terminating=True, zones=["b"])
    assert chosen(build.slice(ending), zone="a") == ("10.0.0.1", "", True)


def test_an_endpoint_in_two_slices_is_one_and_the_local_one_wins() -> None:
    remote, local = build.slice("10.0.0.1@n2", "10.0.0.2"), build.slice("10.0.0.1@n1", index=2)
    assert chosen(remote, local) == ("10.0.0.1 10.0.0.2", "10.0.0.1", True)
    assert chosen(local, remote) == ("10.0.0.1 10.0.0.2", "10.0.0.1", True)


def test_the_local_one_brings_its_own_hints_or_none() -> None:
    hinted_remote = build.slice(hinted("10.0.0.1@n2", "a"), hinted("10.0.0.2@n2", "b"))
    assert chosen(hinted_remote, zone="b")[0] == "10.0.0.2"
    assert chosen(hinted_remote, build.slice("10.0.0.1@n1", index=2), zone="b")[0] == "10.0.0.1 10.0.0.2"


def test_of_two_that_are_remote_the_first_counts() -> None:
    ready, not_ready = build.slice("10.0.0.1@n2"), build.slice(build.endpoint("10.0.0.1@n2", ready=False), index=2)
    assert chosen(ready, not_ready)[2] is True
    assert chosen(not_ready, ready)[2] is False


def test_an_endpoint_twice_in_one_slice() -> None:
    assert chosen(build.slice("10.0.0.1@n2", "10.0.0.1@n1", "10.0.0.1"))[:2] == ("10.0.0.1", "10.0.0.1")


def test_a_port_is_found_by_name_and_protocol_and_may_differ_in_each_slice() -> None:
    one = build.slice("10.0.0.1", ports=[("p80", 8080, "TCP"), ("p80", 53, "UDP"), ("other", 1, "TCP")])
    two = build.slice("10.0.0.1", "10.0.0.2", ports=[("p80", 9090, "TCP")], index=2)
    assert chosen(one, two)[0] == "10.0.0.1:8080 10.0.0.1:9090 10.0.0.2:9090"
    assert chosen(one, two, port="other")[0] == "10.0.0.1:1"
    assert chosen(one, two, port="")[2] is False


def test_a_port_without_a_name_or_a_number() -> None:
    assert chosen(build.slice("10.0.0.1", ports=[(None, 80, "TCP")]), port="")[0] == "10.0.0.1"
    assert chosen(build.slice("10.0.0.1", ports=[("p80", None, "TCP")])) == ("", "", False)


# Slices → states


def test_unknown_conditions() -> None:
    facts = facts_of_slice(build.slice("10.0.0.1", "10.0.0.2@n1"), "n1")
    assert facts is not None
    assert list(facts.states) == [READY, READY | LOCAL]
    assert facts.addresses == bytes((10, 0, 0, 1, 10, 0, 0, 2))


def test_ready_and_draining_are_two_things() -> None:
    facts = facts_of_slice(build.slice(build.endpoint("10.0.0.1", terminating=True)), "n1")
    assert facts is not None
    assert list(facts.states) == [READY | DRAINING]


@pytest.mark.parametrize(
    "entry",
    [
        build.slice("db.example.com", family="FQDN"),
        build.slice("10.0.0.1", service=""),
        build.slice("10.0.0.1", labels={"service.kubernetes.io/service-proxy-name": "other"}),
        build.slice("10.0.0.1", labels={"service.kubernetes.io/headless": ""}),
    ],
)
def test_slices_that_are_not_ours(entry: EndpointSlice) -> None:
    assert facts_of_slice(entry, "n1") is None


def test_only_the_first_address_counts() -> None:
    entry = build.slice(Endpoint(addresses=("10.0.0.1", "10.0.0.2")), Endpoint(addresses=()))
    facts = facts_of_slice(entry, "n1")
    assert facts is not None
    assert facts.addresses == bytes((10, 0, 0, 1))
    assert facts.problems == ()


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0",
        "10.0.0.256",
        "10.0.0.,",
        "10.0.0.1,2",
        "010.0.0.1",
        "10.0.0.1.,.10.0.0.2",
        "10.0.0.1.2",
        "a",
        "::1",
        "10..0.1",
        "",
        "1٠.0.0.1",
        "-1.0.0.1",
    ],
)
def test_an_address_that_is_none_is_reported_and_the_others_are_used(text: str) -> None:
    facts = facts_of_slice(build.slice("10.0.0.1", Endpoint(addresses=(text,), nodeName="n1"), "10.0.0.3@n2"), "n1")
    assert facts is not None
    assert facts.addresses == bytes((10, 0, 0, 1, 10, 0, 0, 3))
    assert facts.nodes == (None, "n2")
    assert facts.problems == (f'EndpointSlice ns1/svc1-1: endpoints[1].addresses[0]: "{text}" is not an IPv4 address',)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.0.0.0", "means all addresses"),
        ("127.0.0.53", "is a loopback address"),
        ("169.254.169.254", "is a link-local address"),
        ("224.0.0.1", "is an address of many hosts"),
        ("255.255.255.255", "is an address of many hosts"),
        ("::", "means all addresses"),
        ("::1", "is a loopback address"),
        ("fe80::1", "is a link-local address"),
        ("ff02::1", "is an address of many hosts"),
    ],
)
def test_an_address_that_no_pod_can_have_is_reported_and_the_others_are_used(text: str, why: str) -> None:
    family, good = ("IPv6", "fd00::1") if ":" in text else ("IPv4", "169.253.0.1")
    facts = facts_of_slice(build.slice(good, text, family=family), "n1")
    assert facts is not None
    assert facts.addresses == ip_address(good).packed
    assert facts.problems == (f"EndpointSlice ns1/svc1-1: endpoints[1].addresses[0]: {text} {why}",)


def test_ipv6() -> None:
    facts = facts_of_slice(build.slice("fd00::1", "10.0.0.1", family="IPv6"), "n1")
    assert facts is not None
    assert (facts.family, len(facts.addresses), len(facts.problems)) == (6, 16, 1)
