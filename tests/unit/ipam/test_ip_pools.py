"""Which pool a pod's address is from, and which blocks of it are free."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percale.errors import AddressRefused
from percale.ipam.ip_pools import (
    PodRequest,
    Pool,
    chosen_pools,
    free_blocks,
    pool_of,
    tunnel_mode_problem,
    usable_pools,
)
from percale.model.backend_options import BgpOptions, IpipOptions, VxlanOptions
from percale.model.ip_family import Family
from percale.model.ip_pool import IPPoolSpec
from percale.model.manifest.decoders import converted

NETWORKS = (ip_network("10.244.0.0/16"), ip_network("fd00:244::/48"))
KEY = "cni.projectcalico.org/ipv4pools"


def pool(name: str, cidr: str = "10.244.128.0/24", **spec: Any) -> Pool:
    return Pool.of(name, converted({"cidr": cidr, **spec}, IPPoolSpec))


def request(
    pod: Mapping[str, str] | None = None,
    namespace: Mapping[str, str] | None = None,
    *,
    namespace_labels: Mapping[str, str] | None = None,
    node_labels: Mapping[str, str] | None = None,
) -> PodRequest:
    return PodRequest("ns/p", pod or {}, namespace or {}, namespace_labels or {}, node_labels or {})


POOLS = (
    pool("all"),
    pool("manual", "10.244.129.0/24", assignmentMode="Manual"),
    pool("off", "10.244.130.0/24", disabled=True),
    pool("rack", "10.244.131.0/24", nodeSelector='rack == "1"'),
    pool("shop", "10.244.132.0/24", namespaceSelector='team == "shop"'),
    pool("tunnels", "10.244.133.0/24", allowedUses=["Tunnel"]),
    pool("six", "fd00:244:0:8000::/112"),
)


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (request(), ["all"]),
        (request(node_labels={"rack": "1"}), ["all", "rack"]),
        (request(namespace_labels={"team": "shop"}), ["all", "shop"]),
        (request({KEY: '["manual"]'}), ["manual"]),
        (request({KEY: '["10.244.131.0/24", "shop"]'}), ["rack", "shop"]),
        (request({KEY: '["shop", "rack", "10.244.132.0/24", "shop"]'}), ["shop", "rack"]),
        (request(namespace={KEY: '["rack"]'}), ["rack"]),
        (request({KEY: '["shop"]'}, {KEY: '["rack"]'}), ["shop"]),
    ],
)
def test_the_pools_of_a_pod(asked: PodRequest, names: list[str]) -> None:
    found = chosen_pools(POOLS, Family.IPV4, asked)
    assert found is not None
    assert [each.name for each in found] == names


def test_without_a_pool_it_is_the_nodes_subnet() -> None:
    assert chosen_pools((POOLS[1], POOLS[2], POOLS[5]), Family.IPV4, request()) is None
    assert chosen_pools(POOLS[:6], Family.IPV6, request()) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("manual", "is not a list of pools"),
        ("[]", "is not a list of pools"),
        ('{"a": 1}', "is not a list of pools"),
        (json.dumps(["nosuch"]), "there is no IP pool nosuch of this family"),
        (json.dumps(["six"]), "there is no IP pool six of this family"),
        (json.dumps(["off"]), "IP pool off is disabled, or not for workloads"),
        (json.dumps(["tunnels"]), "IP pool tunnels is disabled, or not for workloads"),
    ],
)
def test_a_pod_that_asks_for_what_is_not_there(text: str, words: str) -> None:
    with pytest.raises(AddressRefused, match=f"annotation {KEY} of pod ns/p: {words}"):
        chosen_pools(POOLS, Family.IPV4, request({KEY: text}))
    with pytest.raises(AddressRefused, match=f"annotation {KEY} of the namespace of pod ns/p: {words}"):
        chosen_pools(POOLS, Family.IPV4, request(namespace={KEY: text}))


def test_pools_that_cannot_be_used_are_named() -> None:
    specs = {
        name: IPPoolSpec(cidr=cidr)
        for name, cidr in (
            ("a", "10.244.128.0/20"),
            ("b", "10.244.130.0/24"),
            ("c", "192.0.2.0/24"),
            ("d", "10.244.1.0/24"),
        )
    }
    found, left_out = usable_pools(specs, NETWORKS, lambda network: network == ip_network("10.244.1.0/24"))
    assert [each.name for each in found] == ["a"]
    assert left_out == (
        "IPPool b: 10.244.130.0/24 overlaps IPPool a",
        "IPPool c: 192.0.2.0/24 is not in the pod network",
        "IPPool d: 10.244.1.0/24 overlaps the nodes' own subnets",
    )


@given(
    taken=st.lists(st.tuples(st.integers(0, 255), st.integers(20, 32)), max_size=8),
    size=st.integers(26, 32),
    node=st.text(max_size=3),
)
def test_free_blocks_are_all_that_overlap_nothing(taken: list[tuple[int, int]], size: int, node: str) -> None:
    mine = pool("p", "10.244.128.0/25", blockSize=size)
    networks = [IPv4Network((0x0AF48000 - 64 + offset, length), strict=False) for offset, length in taken]
    found = list(free_blocks(mine, networks, node))
    wanted = {
        each
        for each in ip_network("10.244.128.0/25").subnets(new_prefix=size)
        if not any(each.overlaps(other) for other in networks)
    }
    assert len(found) == len(set(found))
    assert set(found) == wanted


def test_the_pool_and_the_block_of_an_address() -> None:
    four, six = pools = (pool("p", blockSize=28), pool("q", "fd00:244:0:8000::/112"))
    for each, address, block in (
        (four, "10.244.128.77", "10.244.128.64/28"),
        (six, "fd00:244:0:8000::7f", "fd00:244:0:8000::40/122"),
    ):
        assert pool_of(pools, ip_address(address)) is each
        assert each.block_of(ip_address(address)) == ip_network(block)
    assert pool_of(pools, ip_address("10.244.1.1")) is None


def test_a_mode_that_is_not_the_backends_is_named() -> None:
    def problem(backend: str, options: Any, **spec: Any) -> str | None:
        return tunnel_mode_problem(converted({"cidr": "10.0.0.0/24", **spec}, IPPoolSpec), backend, options)

    assert problem("vxlan", VxlanOptions(), vxlanMode="Always", ipipMode="Never") is None
    assert problem("vxlan", VxlanOptions(direct_routing=True), vxlanMode="CrossSubnet") is None
    assert problem("ipip", IpipOptions(), ipipMode="Always") is None
    assert problem("bgp", BgpOptions(), ipipMode="Never", vxlanMode="Never") is None
    assert problem("bgp", BgpOptions()) is None
    assert problem("bgp", BgpOptions(), ipipMode="Always") == (
        "spec.ipipMode Always has no effect: Backend.Type bgp of net-conf.json makes it Never"
    )
    assert problem("vxlan", VxlanOptions(), vxlanMode="CrossSubnet") == (
        "spec.vxlanMode CrossSubnet has no effect: Backend.Type vxlan of net-conf.json makes it Always"
    )
