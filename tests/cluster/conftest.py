"""Worlds of nodes whose objects are a real API server's or etcd's, at the switch between them."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster import api_server
from tests.cluster.cnitool import STATE
from tests.cluster.flannel import NETWORKS, EtcdWorld, KubernetesWorld, World
from tests.cluster.kubernetes_cluster import RIGHTS, KubernetesCluster
from tests.etcd_server import EtcdServer
from tests.kernel.agent.cluster import NETNS, Cluster, etcd_of, sh


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="percale-") as directory:
        world = Cluster(Path(directory))
        try:
            world.open()
            sh("switch", "ip", "link", "set", "lo", "up")
            yield world
        finally:
            world.close()


@pytest.fixture
def kubernetes(cluster: Cluster) -> Iterator[KubernetesCluster]:
    directory = cluster.directory / "kubernetes"
    directory.mkdir()
    with api_server.running(directory, "192.168.0.254", ("nsenter", f"--net={NETNS / 'switch'}")) as server:
        world = KubernetesCluster(cluster, server)
        world.allow(*RIGHTS)
        yield world


@pytest.fixture
def etcd_at_switch(cluster: Cluster) -> Iterator[EtcdServer]:
    with etcd_of(cluster) as server:
        yield server


@pytest.fixture
def cni_state() -> Iterator[None]:
    """/var/lib/cni is this test's alone."""
    STATE.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(STATE)], check=True)
    yield
    subprocess.run(["umount", str(STATE)], check=True)


@pytest.fixture
def world(request: pytest.FixtureRequest, cni_state: None) -> Iterator[World]:
    """Parametrized by store, families and backend, as in `etcd-ipv4-vxlan`."""
    store, families, backend = request.param.split("-", 2)
    network = {**NETWORKS[families], "Backend": {"Type": backend}}
    made: World
    if store == "etcd":
        made = EtcdWorld(request.getfixturevalue("cluster"), network, request.getfixturevalue("etcd_at_switch"))
    else:
        made = KubernetesWorld(request.getfixturevalue("kubernetes"), network)
    yield made
    made.close()
