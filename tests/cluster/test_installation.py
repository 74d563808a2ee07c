"""The image that scripts/image makes, as the service account and with the rights that deploy/percale.yaml gives it."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.kubernetes_cluster import RIGHTS, KubernetesCluster
from tests.cluster.test_store import CRD
from tests.kernel.agent.cluster import Node
from tests.waiting import until

from percale.model.bgp import BGPConfiguration, BGPFilter, BGPPeer
from percale.model.clusternetworkpolicy import ClusterNetworkPolicy
from percale.model.ip_pool import AddressBlock, IPPool, IPReservation
from percale.model.meta import Object

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "deploy/percale.yaml"
ACCOUNT = "percale:percale"


def blob(layout: Path, descriptor: dict[str, Any]) -> Path:
    return layout / "blobs" / str(descriptor["digest"]).replace(":", "/")


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its root file system, for this machine's architecture. `make test-cluster` makes it, where there is a network."""
    archive = ROOT / "dist/percale.tar"
    assert archive.exists(), "type: make image"
    directory = tmp_path_factory.mktemp("image")
    layout, root = directory / "layout", directory / "root"
    with tarfile.open(archive) as packed:
        packed.extractall(layout, filter="tar")
    document = json.loads((layout / "index.json").read_text())
    while "manifests" in document:
        document = json.loads(blob(layout, document["manifests"][0]).read_text())
    for layer in document["layers"]:
        with tarfile.open(blob(layout, layer)) as packed:
            packed.extractall(root, filter="tar")
    return root


@pytest.fixture
def installed(kubernetes: KubernetesCluster, image: Path, tmp_path: Path) -> Iterator[KubernetesCluster]:
    """All objects of the manifest are applied; nobody makes pods of the DaemonSet but `container`."""
    kubernetes.server.kubectl("delete", "clusterrolebinding,clusterrole", "percale")
    kubernetes.server.kubectl("apply", "-f", str(MANIFEST))
    subprocess.run(["mount", "--make-shared", "/run"], check=True)
    yield kubernetes
    subprocess.run(["mount", "--make-private", "/run"], check=True)


def container(kubernetes: KubernetesCluster, image: Path, number: int) -> Node:
    """A node whose agent is a container of the image."""
    kubernetes.register(number, f"10.244.{number}.0/24")
    node = kubernetes.cluster.node(number, store="kubernetes:")
    account = node.directory / "account"
    account.mkdir()
    namespace, name = ACCOUNT.split(":")
    (account / "token").write_text(kubernetes.server.kubectl("create", "token", name, "--namespace", namespace))
    shutil.copy(kubernetes.server.authority.certificate, account / "ca.crt")
    inside = ("unshare", "--mount", "--propagation=slave", str(Path(__file__).with_name("container.sh")))
    node.program = (*inside, str(image), str(account), str(node.directory), kubernetes.server.host)
    return node


def test_agents_of_the_image_make_a_network(installed: KubernetesCluster, image: Path) -> None:
    one, two = container(installed, image, 1).start(), container(installed, image, 2).start()
    a, b = installed.pod(one, "a"), installed.pod(two, "b")
    until(lambda: a.reaches(b.addresses[0]), "pods reach each other")
    device = one.ip("route", "get", a.addresses[0]).split()[2]
    one.stop()
    one.ip("link", "delete", device)
    one.start()
    until(lambda: a.reaches(b.addresses[0]), "a namespace made after the first agent's start is seen by the next one")


def crd(kind: type[Object]) -> dict[str, Any]:
    """That installs this kind, without its schema."""
    group, version = kind.API_VERSION.split("/")
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.PLURAL}.{group}"},
        "spec": {
            "group": group,
            "scope": "Cluster",
            "names": {"plural": kind.PLURAL, "kind": kind.KIND},
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        },
    }


def test_the_role_has_the_rights_that_an_agent_uses_and_no_others(installed: KubernetesCluster, image: Path) -> None:
    kinds: list[type[Object]] = [BGPConfiguration, BGPPeer, BGPFilter, IPPool, IPReservation, AddressBlock]
    installed.apply(CRD, *map(crd, kinds))
    installed.server.kubectl("wait", "--for=condition=Established", f"crd/{IPPool.PLURAL}.{IPPool.api_group()}")
    pool = {"metadata": {"name": "p"}, "spec": {"cidr": "10.244.200.0/24"}}
    installed.apply({"apiVersion": IPPool.API_VERSION, "kind": "IPPool", **pool})
    installed.cluster.network = {"Network": "10.244.0.0/16", "Backend": {"Type": "bgp"}}
    node = container(installed, image, 1)
    node.settings["ipPools"] = True
    node.start()
    node.pod("unknown-to-the-server")

    def told(strategy: str) -> bool:
        return strategy in str(installed.get("events")["items"])

    for strategy in ("fastest", "nearest"):
        metadata = {"name": "odd", "namespace": "default", "annotations": {"percale.io/strategy": strategy}}
        spec = {"clusterIP": "10.96.0.77", "ports": [{"port": 80}]}
        installed.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})
        until(partial(told, strategy), "the Event is written, and again")
    kinds.append(ClusterNetworkPolicy)
    wanted = {(kind.api_group(), kind.PLURAL, "watch") for kind in kinds}
    until(lambda: wanted <= installed.server.requests(ACCOUNT))
    assert node.stop() == 0
    done = node.percale("agent", "--cleanup", "--config", str(node.write_config()))
    assert "gave back 10.244.1.0-24" in done.stdout, done.stdout + done.stderr
    allowed = {
        (group, resource, verb)
        for rule in RIGHTS
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert installed.server.requests(ACCOUNT) == allowed
