"""Columns as kubectl prints them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tests import builders

from percale.errors import BadInput
from percale.model.clusternetworkpolicy import ClusterNetworkPolicy
from percale.model.endpoints import Endpoints
from percale.model.ingress import Ingress
from percale.model.networkpolicy import NetworkPolicy
from percale.model.pod import Pod
from percale.objects.columns import ColumnContext, age, rows
from percale.objects.kind_names import full_name, kind_of

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
AROUND = ColumnContext(subnets={}, now=NOW)


CONTAINERS = [{"name": "a"}, {"name": "b"}]


def pod(name: str, *addresses: str, born: str = "2026-01-01T11:59:00Z", **fields: Any) -> Pod:
    meta = {"creationTimestamp": born}
    return builders.pod(name, *addresses, namespace="shop", containers=CONTAINERS, meta=meta, **fields)


READY = pod("up", "10.0.0.2", "fd00::2", ready=True)
WAITING = pod("down", status={"conditions": [{"type": "Ready", "status": "False", "message": "no address is free"}]})


def test_wide_shows_address_and_node_and_namespaces_when_there_are_several() -> None:
    assert rows([READY], AROUND, wide=False, namespaces=False) == [
        ["NAME", "READY", "STATUS", "RESTARTS", "AGE"],
        ["up", "2/2", "Running", "0", "60s"],
    ]
    assert rows([READY], AROUND, wide=True, namespaces=True) == [
        ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE"],
        ["shop", "up", "2/2", "Running", "0", "60s", "10.0.0.2,fd00::2", "n1"],
    ]


def test_a_reason_has_a_column_when_there_is_one() -> None:
    head, up, down = rows([READY, WAITING], AROUND, wide=False, namespaces=False)
    assert head[-1] == "REASON"
    assert up[-1] == ""
    assert down == ["down", "0/2", "ContainerCreating", "0", "60s", "no address is free"]


@pytest.mark.parametrize(
    ("born", "text"),
    [
        ("2026-01-01T11:59:52Z", "8s"),
        ("2026-01-01T11:48:00Z", "12m"),
        ("2026-01-01T09:00:00Z", "3h"),
        ("2025-12-30T12:00:00Z", "2d"),
        ("2026-01-01T12:00:05Z", "0s"),
        ("", "<unknown>"),
    ],
)
def test_age(born: str, text: str) -> None:
    assert age(pod("p", born=born), NOW) == text


def test_words_for_kinds() -> None:
    assert kind_of("po") is kind_of("pods") is kind_of("Pod") is Pod
    assert kind_of("netpol") is kind_of("networkpolicies.networking.k8s.io") is NetworkPolicy
    assert kind_of("cnp") is kind_of("clusternetworkpolicies") is ClusterNetworkPolicy
    assert Ingress.PLURAL == "ingresses"
    assert full_name(READY) == "pod/up"
    with pytest.raises(BadInput, match="there is no kind 'podz'; did you mean pod"):
        kind_of("podz")


def test_services_and_what_is_behind_them() -> None:
    spec: dict[str, Any] = {
        "type": "LoadBalancer",
        "clusterIP": "10.96.1.1",
        "ports": [{"port": 80, "nodePort": 30080}, {"port": 53}],
    }
    waiting, given = builders.service(**spec), builders.service(**spec, ingress=["198.51.100.1"])
    outer = builders.service(type="ExternalName", externalName="db.example", ports=[])
    table = rows([waiting, given, outer], AROUND, wide=False, namespaces=False)
    assert table[0] == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]
    assert [row[1:5] for row in table[1:]] == [
        ["LoadBalancer", "10.96.1.1", "<pending>", "80:30080/TCP,53/TCP"],
        ["LoadBalancer", "10.96.1.1", "198.51.100.1", "80:30080/TCP,53/TCP"],
        ["ExternalName", "<none>", "db.example", "<none>"],
    ]


def test_slices_and_endpoints_show_three_of_many() -> None:
    full = builders.endpoint_slice("web", *(f"10.0.0.{number}" for number in range(1, 6)))
    empty = builders.endpoint_slice("web", family="IPv6", ports=[])
    head, one, other = rows([full, empty], AROUND, wide=False, namespaces=False)
    assert head == ["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"]
    assert one[1:4] == ["IPv4", "80", "10.0.0.1,10.0.0.2,10.0.0.3 + 2 more..."]
    assert other[1:4] == ["IPv6", "<unset>", "<unset>"]
    subsets = [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}]}]
    two = msgspec.convert({"metadata": READY.metadata, "subsets": subsets}, Endpoints)
    head, line, none = rows([two, Endpoints(metadata=READY.metadata)], AROUND, wide=False, namespaces=False)
    assert (head[1], line[1], none[1]) == ("ENDPOINTS", "10.0.0.1:80,[fd00::1]:80", "<none>")


def test_a_pod_in_its_grace_period_terminates() -> None:
    leaving = replace(READY, metadata=replace(READY.metadata, deletionTimestamp="2026-01-01T12:00:30Z"))
    assert rows([leaving], AROUND, wide=False, namespaces=False)[1][2] == "Terminating"
