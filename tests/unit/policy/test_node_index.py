"""What nodes have in the pod network is theirs by their leases: the tunnel's address and the bridge's."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from tests import builders
from tests.builders import cluster_policy

from percale.explain.flow_ends import outside
from percale.model.clusternetworkpolicy import ClusterNetworkPolicy
from percale.model.meta import Object
from percale.model.networkpolicy import NetworkPolicy
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.subnet_lease import SubnetLease
from percale.policy.evaluator import Evaluator, PolicyDelta
from percale.policy.verdict import Flow

POD = "10.244.1.7"


def lease(number: int, node: str | None = None) -> SubnetLease:
    subnet = f"fd00:244:0:{number}::/64"
    return builders.lease(number, node=node or f"n{number}", ipv6Subnet=subnet, publicIP=None)


def node(number: int, *addresses: str) -> Node:
    return builders.node(f"n{number}", *addresses, labels={"number": str(number)})


def pod(address: str = POD, name: str = "p") -> Pod:
    return builders.pod(name, address, namespace="x")


def denying(**spec: Any) -> NetworkPolicy:
    return builders.policy("deny", namespace="x", policyTypes=["Ingress", "Egress"], **spec)


def only_to(nodes: dict[str, Any]) -> ClusterNetworkPolicy:
    accept = {"action": "Accept", "to": [{"nodes": nodes}]}
    return cluster_policy("out", egress=[accept, {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}])


def allowed(evaluator: Evaluator, source: str, destination: str) -> bool:
    client, server = (evaluator.flow_end(ip_address(each).packed) for each in (source, destination))
    return evaluator.evaluate(Flow(client, server, "TCP", 80)).allowed


def world(*objects: Object) -> Evaluator:
    return Evaluator([pod(), node(1, "192.168.0.1"), node(2, "192.168.0.2"), lease(1), lease(2), *objects])


@pytest.mark.parametrize(("own", "other"), [("10.244.1.0", "10.244.2.0"), ("10.244.1.1", "10.244.2.1")])
def test_a_pod_and_its_own_node_reach_each_other_by_them(own: str, other: str) -> None:
    evaluator = world(denying())
    assert allowed(evaluator, own, POD)
    assert allowed(evaluator, POD, own)
    assert not allowed(evaluator, other, POD)
    assert not allowed(evaluator, POD, other)


@pytest.mark.parametrize("peer", [{"namespaceSelector": {}}, {"podSelector": {}}])
def test_no_selector_of_pods_means_them_and_a_block_does(peer: dict[str, Any]) -> None:
    assert not allowed(world(denying(ingress=[{"from": [peer]}])), "10.244.2.0", POD)
    block = {"ipBlock": {"cidr": "10.244.2.0/32"}}
    assert allowed(world(denying(ingress=[{"from": [peer, block]}])), "10.244.2.0", POD)


def test_nodes_means_them_by_the_nodes_labels() -> None:
    evaluator = world(only_to({"matchLabels": {"number": "2"}}))
    for address in ("192.168.0.2", "10.244.2.0", "10.244.2.1"):
        assert allowed(evaluator, POD, address)
    assert not allowed(evaluator, POD, "10.244.3.0")
    assert not allowed(evaluator, POD, "10.244.2.2")


def test_a_node_that_no_object_describes_has_no_labels_to_be_meant_by() -> None:
    evaluator = world(only_to({}), lease(3))
    assert allowed(evaluator, POD, "10.244.1.0")
    assert allowed(evaluator, POD, "10.244.2.0")
    assert not allowed(evaluator, POD, "10.244.3.0")
    assert evaluator.flow_end(ip_address("10.244.3.0").packed).node == "n3"


def test_a_lease_may_change_hands_and_go() -> None:
    evaluator = world()
    tunnel = ip_address("fd00:244:0:2::").packed
    assert evaluator.put(lease(2)) == PolicyDelta()
    assert evaluator.put(lease(2, "n1")).nodes
    assert evaluator.flow_end(tunnel).node == "n1"
    assert evaluator.remove(SubnetLease, lease(2).key).nodes
    assert evaluator.flow_end(tunnel).node is None
    assert not evaluator.remove(SubnetLease, lease(2).key)


def test_a_pod_that_has_one_all_the_same_is_a_pod() -> None:
    assert world(pod("10.244.2.1", "q")).flow_end(ip_address("10.244.2.1").packed).node is None


def test_what_a_node_object_says_counts_more_than_a_lease() -> None:
    evaluator = world(node(9, "10.244.1.0"))
    assert evaluator.flow_end(ip_address("10.244.1.0").packed).node == "n9"


def test_an_address_outside_that_stands_for_others_is_none_of_them() -> None:
    evaluator = world(denying(ingress=[{"from": [{"ipBlock": {"cidr": "10.244.2.0/24"}}]}]))
    samples = {str(ip_address(each.sample)) for each in outside([evaluator])}
    assert "10.244.2.0" not in samples
    assert "10.244.2.2" in samples


def test_a_lease_of_one_address() -> None:
    """The last one there is has no successor."""
    top = builders.lease(3, subnet="255.255.255.255/32", publicIP=None)
    assert list(Evaluator([top]).node_index.lease_addresses) == [b"\xff\xff\xff\xff"]
