"""Names of ends and ports, as people type them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from tests import builders

from percale.errors import BadInput, NotFound
from percale.explain.end_names import (
    MachineName,
    Name,
    PodName,
    ServiceName,
    WorkloadName,
    first_pod,
    parse_name,
    split_port,
    suggest_end,
)
from percale.explain.pod_owners import owners
from percale.model.meta import Object, ObjectKey
from percale.model.pod import Pod


def pod(name: str, owner: str, kind: str = "ReplicaSet", *, phase: str = "Running", **fields: Any) -> Pod:
    labels = {"pod-template-hash": "abc"} if kind == "ReplicaSet" else {}
    return builders.pod(name, owner=f"{kind}/{owner}", labels=labels, status={"phase": phase}, **fields)


PODS: tuple[Object, ...] = (
    pod("web-abc-2", "web-abc"),
    pod("web-abc-1", "web-abc", phase="Pending"),
    pod("web-abc-0", "web-abc", namespace="shop"),
    pod("db-0", "db", "StatefulSet"),
    pod("log-x", "log", "DaemonSet", namespace="shop"),
)


def first(text: str, namespace: str | None = None) -> ObjectKey:
    name = parse_name(text, namespace)
    assert isinstance(name, WorkloadName)
    return first_pod(PODS, name)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("deploy/web", ObjectKey("default", "web-abc-2")),
        ("deployment/shop/web", ObjectKey("shop", "web-abc-0")),
        ("sts/db", ObjectKey("default", "db-0")),
        ("ds/shop/log", ObjectKey("shop", "log-x")),
    ],
)
def test_the_first_pod_of_a_workload(text: str, key: ObjectKey) -> None:
    assert first(text) == key
    assert first("deploy/web", "shop") == ObjectKey("shop", "web-abc-0")


def test_nobody() -> None:
    with pytest.raises(NotFound) as caught:
        first("ds/log")
    assert str(caught.value) == "there is no pod of daemonset default/log; did you mean ds/shop/log?"
    with pytest.raises(NotFound) as caught:
        first("deploy/shop/wbe")
    assert str(caught.value) == "there is no pod of deployment shop/wbe; did you mean deploy/shop/web?"
    with pytest.raises(NotFound) as caught:
        first("sts/web")
    assert str(caught.value) == "there is no pod of statefulset default/web; did you mean deployment/default/web?"
    with pytest.raises(NotFound) as caught:
        first("sts/qqq")
    assert str(caught.value) == "there is no pod of statefulset default/qqq; there are sts/default/db"


MACHINES = ["node/node1", "node/node2", "external/outside"]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        (ObjectKey("default", "node1"), "did you mean node/node1?"),
        (ObjectKey("default", "node7"), "there are external/outside, node/node1, node/node2"),
        (
            ObjectKey("empty", "b"),
            "there are default/db-0, default/web-abc-1, default/web-abc-2, shop/log-x, shop/web-abc-0",
        ),
        (ObjectKey("default", "web"), "did you mean deploy/default/web or svc/shop/web?"),
        (ObjectKey("other", "log"), "did you mean ds/shop/log?"),
        (ObjectKey("default", "we"), "did you mean default/web-abc-1?"),
        (ObjectKey("shop", "lgo"), "did you mean ds/shop/log?"),
        (ObjectKey("elsewhere", "logg"), "did you mean ds/shop/log?"),
        (ObjectKey("shop", "web-abc-2"), "did you mean default/web-abc-2?"),
        (ObjectKey("shop", "qqqqqq"), "there are shop/log-x, shop/web-abc-0"),
        (
            ObjectKey("none", "qqqqqq"),
            "there are default/db-0, default/web-abc-1, default/web-abc-2, shop/log-x, shop/web-abc-0",
        ),
    ],
)
def test_a_pod_that_is_not_there(key: ObjectKey, hint: str) -> None:
    assert suggest_end(key, owners(PODS), MACHINES, [ObjectKey("shop", "web")]) == hint
    assert "svc/" not in suggest_end(key, owners(PODS), MACHINES)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("web", PodName(ObjectKey("ns", "web"), is_bare=True)),
        ("shop/web", PodName(ObjectKey("shop", "web"), is_bare=False)),
        ("pod/web", PodName(ObjectKey("ns", "web"), is_bare=False)),
        ("po/shop/web", PodName(ObjectKey("shop", "web"), is_bare=False)),
        ("svc/web", ServiceName(ObjectKey("ns", "web"))),
        ("service/shop/web", ServiceName(ObjectKey("shop", "web"))),
        ("deploy/web", WorkloadName("deploy", "Deployment", ObjectKey("ns", "web"))),
        ("sts/shop/web", WorkloadName("sts", "StatefulSet", ObjectKey("shop", "web"))),
        ("node/n1", MachineName("node", "n1")),
        ("external/outside", MachineName("external", "outside")),
        ("10.1.2.3", ip_address("10.1.2.3")),
        ("[fd00::1]", ip_address("fd00::1")),
        ("fd00::1", ip_address("fd00::1")),
    ],
)
def test_a_name_as_people_type_it(text: str, name: Name) -> None:
    assert parse_name(text, "ns") == name


@pytest.mark.parametrize("text", ["", "/", "a/", "/a", "a/b/c", "node/a/b", "deploy/a/b/c", "svc/", "a//b"])
def test_what_names_nothing(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_name(text)
    assert "write NS/POD, deploy/NS/NAME, svc/NS/NAME, node/NAME" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "port", "both"),
    [
        ("web", "80", ("web", "80")),
        ("web:80", None, ("web", "80")),
        ("svc/shop/web:http/tcp", None, ("svc/shop/web", "http/tcp")),
        ("10.0.0.1:53/udp", None, ("10.0.0.1", "53/udp")),
        ("[fd00::1]:80", None, ("[fd00::1]", "80")),
        ("fd00::1", "80", ("fd00::1", "80")),
    ],
)
def test_a_port_beside_or_behind(text: str, port: str | None, both: tuple[str, str]) -> None:
    assert split_port(text, port) == both


@pytest.mark.parametrize(("text", "port"), [("web", None), ("web:80", "80"), ("fd00::1", None), ("fd00::1:80", None)])
def test_no_port_or_two(text: str, port: str | None) -> None:
    with pytest.raises(BadInput):
        split_port(text, port)
