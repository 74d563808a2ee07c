"""`deploy/web` means its first pod."""

from __future__ import annotations

from typing import Any

import pytest
from tests import builders

from percale.errors import NotFound
from percale.explain.why.targets import first_pod
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


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("deploy/web", ObjectKey("default", "web-abc-2")),
        ("deployment/shop/web", ObjectKey("shop", "web-abc-0")),
        ("sts/db", ObjectKey("default", "db-0")),
        ("ds/shop/log", ObjectKey("shop", "log-x")),
        ("db-0", None),
        ("shop/web", None),
        ("node/n1", None),
    ],
)
def test_whom_it_means(text: str, key: ObjectKey | None) -> None:
    assert first_pod(PODS, text) == key


def test_nobody() -> None:
    with pytest.raises(NotFound) as caught:
        first_pod(PODS, "ds/log")
    assert str(caught.value) == "there is no pod of daemonset default/log; did you mean ds/shop/log?"
    with pytest.raises(NotFound) as caught:
        first_pod(PODS, "sts/web")
    assert str(caught.value) == "there is no pod of statefulset default/web"
