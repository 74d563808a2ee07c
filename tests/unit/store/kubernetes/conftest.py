"""A fake API server with a store on it, for the store's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.fake_api_server import FakeApiServer

from percale.store.kubernetes import list_watch
from percale.store.kubernetes.cluster_access import ClusterAccess
from percale.store.kubernetes.store import KubernetesStore

PODS, NODES, CONFIG_MAPS = "/api/v1/pods", "/api/v1/nodes", "/api/v1/configmaps"


@pytest.fixture
async def server(loopback: None) -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer().running() as running:
        yield running


@pytest.fixture
async def store(server: FakeApiServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubernetesStore]:
    """Impatient, so that tests of failures are quick."""
    monkeypatch.setattr(list_watch, "_FIRST_RETRY", 0.01)
    monkeypatch.setattr(list_watch, "_LONGEST_RETRY", 0.05)
    monkeypatch.setattr(list_watch, "ABSENT_RECHECK", 0.05)
    made = KubernetesStore(ClusterAccess(server=server.url, token="secret"))
    yield made
    await made.close()


def config_map(name: str, text: str = "1") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default"}, "data": {"x": text}}


def node(name: str = "n1", *cidrs: str, **annotations: str) -> dict[str, Any]:
    """`public_ip` stands for flannel's annotation."""
    prefix = "flannel.alpha.coreos.com/"
    given = {prefix + key.replace("_", "-"): text for key, text in annotations.items()}
    spec = {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)} if cidrs else {}
    return {"metadata": {"name": name, "annotations": given}, "spec": spec}
