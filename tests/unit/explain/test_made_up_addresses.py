"""Addresses of pods that have none yet: of their network where it is known, and nobody's by accident."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import builders
from tests.builders import policy

from percale.errors import BadInput
from percale.explain.made_up_addresses import MadeUpAddresses, dependent_rules
from percale.explain.pod_networks import ANYWHERE, NO_PODS, PodNetworks
from percale.model.pod import Pod
from percale.policy.kinds.network_policy import NetworkPolicyKind
from percale.policy.rule_terms import Block


def pod(node: str | None = None) -> Pod:
    return builders.pod("p", node=node)


def known(*networks: str, **by_node: str) -> PodNetworks:
    nodes = {node: tuple(map(ip_network, texts.split())) for node, texts in by_node.items()}
    return PodNetworks(tuple(map(ip_network, networks)), nodes)


def addresses(networks: PodNetworks, *blocks: Block, pods: Iterable[Pod] = (pod(),), taken: str = "") -> list[str]:
    made = MadeUpAddresses(networks, blocks, map(ip_address, taken.split()))
    return [address for each in pods for address in made.of(each)]


def test_of_the_nodes_network_and_of_each_family() -> None:
    nodes = known("10.42.0.0/16", "fd00::/56", n1="10.42.1.0/24 fd00:0:0:1::/64", n2="10.42.2.0/24")
    pods = [pod("n1"), pod("n2"), pod("n2"), pod("elsewhere"), pod()]
    assert addresses(nodes, pods=pods, taken="10.42.2.3") == [
        *("10.42.1.2", "fd00:0:0:1::2", "10.42.2.2", "10.42.2.4"),
        *("10.42.0.2", "fd00::2", "10.42.0.3", "fd00::3"),
    ]


def test_no_address_twice_and_none_that_a_node_has() -> None:
    overlapping = known("10.42.0.0/23", n1="10.42.1.0/24")
    found = addresses(overlapping, pods=[pod(), pod("n1")] * 250)
    assert len(set(found)) == 500
    assert not {"10.42.0.0", "10.42.0.1", "10.42.1.0", "10.42.1.1", "10.42.1.255"} & set(found)


def test_a_network_that_has_no_more() -> None:
    with pytest.raises(BadInput, match=r"pod default/p: more pods without an address than 10\.42\.0\.0/30 has free"):
        addresses(known("10.42.0.0/30"), pods=[pod()] * 2)


def test_of_the_largest_part_that_no_block_divides() -> None:
    block = Block("10.42.0.0/24")
    assert addresses(known("10.42.0.0/16"), block) == ["10.42.1.0"]
    assert addresses(known("10.42.0.0/16"), Block("0.0.0.0/0", ("10.42.0.0/24",))) == ["10.42.1.0"]


@pytest.mark.parametrize(
    ("blocks", "address"),
    [
        ([], "10.244.0.2"),
        ([Block("10.244.0.0/16")], "10.245.0.0"),
        ([Block("10.0.0.0/8")], "172.16.0.2"),
        ([Block("0.0.0.0/0")], "10.244.0.2"),
        ([Block("0.0.0.0/0", ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))], "10.244.0.2"),
        ([Block("0.0.0.0/0", ("172.16.0.0/12",)), Block("10.0.0.0/8")], "172.16.0.2"),
    ],
)
def test_of_an_unknown_network_where_the_fewest_blocks_mean_them(blocks: list[Block], address: str) -> None:
    assert addresses(PodNetworks(), *blocks) == [address]


NETWORKS = st.sampled_from(["10.0.0.0/8", "10.244.0.0/14", "10.244.0.0/16", "172.16.0.0/12", "192.168.0.0/16"])


@given(st.lists(NETWORKS, unique=True, max_size=5))
def test_no_block_means_them_by_accident(cidrs: list[str]) -> None:
    """Of places that no policy names there is always one."""
    (address,) = addresses(PodNetworks(), *map(Block, cidrs))
    assert not any(ip_address(address) in ip_network(cidr) for cidr in cidrs)


def test_where_a_pod_can_be() -> None:
    assert not any(each.overlaps(other) for each in ANYWHERE for other in NO_PODS)
    for text in ("1.0.0.0", "126.255.255.255", "169.255.0.0", "223.255.255.255", "10.0.0.1"):
        assert any(ip_address(text) in each for each in ANYWHERE)


@pytest.mark.parametrize(
    ("networks", "block", "depends"),
    [
        (PodNetworks(), {"cidr": "10.0.0.0/8"}, True),
        (PodNetworks(), {"cidr": "0.0.0.0/0"}, False),
        (PodNetworks(), {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}, False),
        (PodNetworks(), {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}, True),
        (known("10.42.0.0/16"), {"cidr": "10.0.0.0/8"}, False),
        (known("10.42.0.0/16"), {"cidr": "10.42.3.0/24"}, True),
        (known("10.42.0.0/16"), {"cidr": "0.0.0.0/0", "except": ["10.42.0.0/17", "10.42.128.0/17"]}, False),
        (known("10.42.0.0/16", "fd00::/56"), {"cidr": "10.0.0.0/8"}, False),
        (known("10.42.0.0/16", n1="10.42.3.0/24"), {"cidr": "10.42.3.0/24"}, False),
    ],
)
def test_rules_that_depend_on_the_address(networks: PodNetworks, block: dict[str, object], depends: bool) -> None:
    rules = NetworkPolicyKind().compile(policy(podSelector={}, ingress=[{"from": [{"ipBlock": block}]}, {}])).all_rules
    found = dependent_rules(rules, networks, [pod("n1")])
    assert list(map(str, found)) == (["np:default/policy#ingress[0]"] if depends else [])
