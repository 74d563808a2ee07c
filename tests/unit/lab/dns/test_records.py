"""Names by Kubernetes' DNS specification 1.1."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
import pytest
from tests import builders

from percale.lab.dns.records import Zone
from percale.model.endpoints import Endpoint, EndpointSlice

service = partial(builders.service, namespace="shop")


def endpoints(name: str, *found: dict[str, Any], ports: Sequence[Any] = ()) -> EndpointSlice:
    family = "IPv6" if ":" in found[0]["addresses"][0] else "IPv4"
    return builders.endpoint_slice(name, *found, namespace="shop", ports=ports, family=family)


WEB = service(
    "web",
    clusterIP="10.96.0.7",
    clusterIPs=["10.96.0.7", "fd00:96::7"],
    ports=[{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}],
)
DB = service("db", clusterIP="None", ports=[{"name": "sql", "port": 5432}])
OUTSIDE = service("outside", type="ExternalName", externalName="DB.Example.org")
SQL = [{"name": "sql", "port": 5432, "protocol": "TCP"}]
DB_ENDPOINTS = endpoints(
    "db",
    {"addresses": ["10.244.1.2"], "hostname": "db-0"},
    {"addresses": ["10.244.1.3"]},
    {"addresses": ["10.244.1.4"], "hostname": "db-2", "conditions": {"ready": False}},
    ports=SQL,
)
ZONE = Zone([WEB, DB, OUTSIDE], [DB_ENDPOINTS])


def data(name: str, kind: str, zone: Zone = ZONE) -> list[str]:
    answer = zone.lookup(name, kind)
    assert answer.known
    return sorted(record.data for record in answer.records)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("dns-version.cluster.local.", "TXT", ['"1.1.0"']),
        ("web.shop.svc.cluster.local.", "A", ["10.96.0.7"]),
        ("WEB.shop.svc.Cluster.Local.", "A", ["10.96.0.7"]),
        ("web.shop.svc.cluster.local.", "AAAA", ["fd00:96::7"]),
        ("_http._tcp.web.shop.svc.cluster.local.", "SRV", ["0 100 80 web.shop.svc.cluster.local."]),
        ("_dns._udp.web.shop.svc.cluster.local.", "SRV", ["0 100 53 web.shop.svc.cluster.local."]),
        ("7.0.96.10.in-addr.arpa.", "PTR", ["web.shop.svc.cluster.local."]),
        ("db.shop.svc.cluster.local.", "A", ["10.244.1.2", "10.244.1.3"]),
        ("db-0.db.shop.svc.cluster.local.", "A", ["10.244.1.2"]),
        ("10-244-1-3.db.shop.svc.cluster.local.", "A", ["10.244.1.3"]),
        (
            "_sql._tcp.db.shop.svc.cluster.local.",
            "SRV",
            ["0 100 5432 10-244-1-3.db.shop.svc.cluster.local.", "0 100 5432 db-0.db.shop.svc.cluster.local."],
        ),
        ("2.1.244.10.in-addr.arpa.", "PTR", ["db-0.db.shop.svc.cluster.local."]),
        ("outside.shop.svc.cluster.local.", "A", ["db.example.org."]),
        ("outside.shop.svc.cluster.local.", "CNAME", ["db.example.org."]),
    ],
)
def test_a_name_has_these_records(name: str, kind: str, expected: list[str]) -> None:
    assert data(name, kind) == expected


@pytest.mark.parametrize(
    "name",
    ["nobody.shop.svc.cluster.local.", "db-2.db.shop.svc.cluster.local.", "_http._udp.web.shop.svc.cluster.local."],
)
def test_a_name_that_is_not_there_is_not_known(name: str) -> None:
    assert not ZONE.lookup(name, "A").known


def test_a_name_with_names_below_it_is_known_and_has_no_records() -> None:
    assert data("shop.svc.cluster.local.", "A") == []
    assert data("web.shop.svc.cluster.local.", "SRV") == []


def test_a_headless_service_without_ready_endpoints_is_known() -> None:
    assert data("db.shop.svc.cluster.local.", "A", Zone([DB], [])) == []


def test_endpoints_that_are_not_ready_are_published_when_the_service_says_so() -> None:
    loose = msgspec.structs.replace(DB, spec=msgspec.structs.replace(DB.spec, publishNotReadyAddresses=True))
    assert data("db-2.db.shop.svc.cluster.local.", "A", Zone([loose], [DB_ENDPOINTS])) == ["10.244.1.4"]


def test_it_covers_its_own_zone_and_its_reverse_names_alone() -> None:
    assert ZONE.is_authoritative_for("anything.cluster.local.")
    assert ZONE.is_authoritative_for("2.1.244.10.in-addr.arpa.")
    assert not ZONE.is_authoritative_for("db.example.org.")
    assert not ZONE.is_authoritative_for("9.9.9.9.in-addr.arpa.")


def test_dual_stack_endpoints_have_both() -> None:
    six = endpoints("db", {"addresses": ["fd00::2"], "hostname": "db-0"}, ports=SQL)
    zone = Zone([DB], [DB_ENDPOINTS, six])
    assert data("db-0.db.shop.svc.cluster.local.", "A", zone) == ["10.244.1.2"]
    assert data("db-0.db.shop.svc.cluster.local.", "AAAA", zone) == ["fd00::2"]


def test_what_is_no_address_has_no_record_and_the_others_have() -> None:
    odd = msgspec.structs.replace(WEB, spec=msgspec.structs.replace(WEB.spec, clusterIPs=("10.96.0.7", "ten")))
    assert data("web.shop.svc.cluster.local.", "A", Zone([odd], [])) == ["10.96.0.7"]
    slice_ = msgspec.structs.replace(
        DB_ENDPOINTS, endpoints=(Endpoint(addresses=("db.example.org",)), Endpoint(addresses=("10.244.1.9",)))
    )
    assert data("db.shop.svc.cluster.local.", "A", Zone([DB], [slice_])) == ["10.244.1.9"]
