"""A node's subnet where Kubernetes assigns it, at any moment."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from tests.fake_api_server import FakeApiServer, Request

from percale.agent.network.subnet_manager import claim
from percale.errors import AddressRefused, StoreUnavailable
from percale.ipam.subnet_lease import Claimant
from percale.model.netconf import network_config
from percale.model.subnet_lease import NodeSubnets, SubnetLeaseSpec
from percale.store.kubernetes.cluster_access import ClusterAccess
from percale.store.kubernetes.store import KubernetesStore

NODES = "/api/v1/nodes"
NETWORK = network_config({"Network": "10.244.0.0/16"}, "test")


def claimant(name: str = "n1", address: str = "192.0.2.1") -> Claimant:
    def spec(subnets: NodeSubnets) -> SubnetLeaseSpec:
        return SubnetLeaseSpec(node=name, subnet=subnets.ipv4, publicIP=IPv4Address(address), backendType="host-gw")

    return Claimant(name, f"machine of {name}", (IPv4Address(address),), spec)


def node(name: str, cidr: str | None) -> dict[str, object]:
    return {"metadata": {"name": name}, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]} if cidr is not None else {}}


@pytest.mark.usefixtures("loopback")
async def test_a_pod_cidr_that_comes_while_the_agent_claims_is_taken_at_the_next_attempt() -> None:
    async with FakeApiServer().running() as server:
        store = KubernetesStore(ClusterAccess(server=server.url, token="secret"))
        server.write(NODES, node("n1", None))

        def assign(request: Request) -> None:
            if server.asked("list", "nodes"):  # it has read the Node without one
                server.faults.clear()
                server.write(NODES, node("n1", "10.244.7.0/24"))

        server.faults.append(assign)
        with pytest.raises(StoreUnavailable, match=r"the podCIDR is 10.244.7.0/24 now"):
            await claim(store, NETWORK, claimant())
        held = await claim(store, NETWORK, claimant())
        assert str(held.lease.spec.subnets) == "10.244.7.0/24"
        await store.close()


@pytest.mark.usefixtures("loopback")
async def test_the_pod_cidr_of_another_node_is_refused() -> None:
    async with FakeApiServer().running() as server:
        store = KubernetesStore(ClusterAccess(server=server.url, token="secret"))
        for name in ("n1", "n2"):
            server.write(NODES, node(name, "10.244.7.0/24"))
        await claim(store, NETWORK, claimant())
        with pytest.raises(AddressRefused, match=r"overlaps 10.244.7.0/24 of node n1"):
            await claim(store, NETWORK, claimant("n2", "192.0.2.2"))
        await store.close()
