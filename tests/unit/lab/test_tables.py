"""Columns as kubectl prints them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from percale.errors import LabError
from percale.lab.kinds import full_name, kind_of, plural
from percale.lab.tables import Surroundings, age, rows
from percale.model.clusternetworkpolicy import ClusterNetworkPolicy
from percale.model.condition import Condition
from percale.model.ingress import Ingress
from percale.model.meta import ObjectMeta
from percale.model.networkpolicy import NetworkPolicy
from percale.model.pod import Container, Pod, PodIP, PodSpec, PodStatus

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
AROUND = Surroundings(pods={}, agents={}, subnets={}, now=NOW)


def pod(name: str, *, born: str = "2026-01-01T11:59:00Z", **status: object) -> Pod:
    return Pod(
        metadata=ObjectMeta(name=name, namespace="shop", creationTimestamp=born),
        spec=PodSpec(containers=(Container(name="a"), Container(name="b")), nodeName="n1"),
        status=PodStatus(**status),  # type: ignore[arg-type]
    )


READY = pod(
    "up", podIPs=(PodIP(ip="10.0.0.2"), PodIP(ip="fd00::2")), conditions=(Condition(type="Ready", status="True"),)
)
WAITING = pod("down", conditions=(Condition(type="Ready", status="False", message="no address is free"),))


def test_wide_shows_address_and_node_and_namespaces_when_there_are_several() -> None:
    assert rows([READY], AROUND, wide=False, namespaces=False) == [
        ["NAME", "READY", "STATUS", "AGE"],
        ["up", "2/2", "Running", "60s"],
    ]
    assert rows([READY], AROUND, wide=True, namespaces=True) == [
        ["NAMESPACE", "NAME", "READY", "STATUS", "AGE", "IP", "NODE"],
        ["shop", "up", "2/2", "Running", "60s", "10.0.0.2,fd00::2", "n1"],
    ]


def test_a_reason_has_a_column_when_there_is_one() -> None:
    head, up, down = rows([READY, WAITING], AROUND, wide=False, namespaces=False)
    assert head[-1] == "REASON"
    assert up[-1] == ""
    assert down == ["down", "0/2", "ContainerCreating", "60s", "no address is free"]


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
    assert plural(Ingress) == "ingresses"
    assert full_name(READY) == "pod/up"
    with pytest.raises(LabError, match="there is no kind 'podz'; did you mean pod"):
        kind_of("podz")
