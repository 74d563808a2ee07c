"""Node subnets as arithmetic."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percale.errors import AddressRefused
from percale.ipam.subnet_plan import candidate_count, first_overlap, fitting, free_candidates, from_pod_cidrs
from percale.model.netconf import NetworkConfig, network_config
from percale.model.subnet_lease import NodeSubnets

V4 = network_config({"Network": "10.244.0.0/16", "SubnetMin": "10.244.2.0", "SubnetMax": "10.244.9.0"})
V6 = network_config({"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd00::/48"})
DUAL = network_config({"Network": "10.244.0.0/20", "EnableIPv6": True, "IPv6Network": "fd00::/48"})


def free(config: NetworkConfig, *taken: str) -> list[str]:
    return [str(subnets) for subnets in islice(free_candidates(config, map(ip_network, taken)), 20)]


def pair(v4: str | None = None, v6: str | None = None) -> NodeSubnets:
    return NodeSubnets(IPv4Network(v4) if v4 else None, IPv6Network(v6) if v6 else None)


def test_candidates_go_from_subnet_min_to_subnet_max() -> None:
    assert free(V4) == [f"10.244.{number}.0/24" for number in range(2, 10)]


def test_taken_ones_are_left_out() -> None:
    assert free(V4, "10.244.2.0/24", "10.244.4.0/24") == [f"10.244.{n}.0/24" for n in (3, 5, 6, 7, 8, 9)]


def test_a_taken_subnet_of_another_size_blocks_all_that_it_overlaps() -> None:
    assert free(V4, "10.244.4.0/22", "10.244.9.128/25", "10.0.0.0/24", "fd00::/64") == [
        "10.244.2.0/24",
        "10.244.3.0/24",
        "10.244.8.0/24",
    ]


def test_a_subnet_that_reaches_over_both_ends_leaves_nothing() -> None:
    assert free(V4, "10.0.0.0/8") == []


def test_dual_stack_pairs_by_number() -> None:
    assert free(DUAL)[:2] == ["10.244.1.0/24 and fd00:0:0:1::/64", "10.244.2.0/24 and fd00:0:0:2::/64"]
    assert candidate_count(DUAL) == 15
    assert free(DUAL, "10.244.1.0/24", "fd00:0:0:2::/64")[0] == "10.244.3.0/24 and fd00:0:0:3::/64"


def test_large_ipv6_networks_are_not_enumerated() -> None:
    huge = network_config({"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd00::/8", "IPv6SubnetLen": 120})
    assert free(huge, "fd00::/9")[0] == "fd80::/120"
    assert str(next(free_candidates(huge, [], 2**111))) == "fd80::100/120"


@given(st.lists(st.tuples(st.integers(0, 31), st.integers(22, 27)), max_size=6), st.integers(0, 7))
def test_free_candidates_are_exactly_those_without_overlap(places: list[tuple[int, int]], start: int) -> None:
    taken = [ip_network((f"10.244.{third}.0", length), strict=False) for third, length in places]
    expected = [
        subnet
        for subnet in (IPv4Network(f"10.244.{number}.0/24") for number in range(2, 10))
        if not any(subnet.overlaps(other) for other in taken if isinstance(other, IPv4Network))
    ]
    assert [subnets.ipv4 for subnets in free_candidates(V4, taken)] == expected
    first = IPv4Network(f"10.244.{2 + start}.0/24")
    rotated = [each for each in expected if each >= first] + [each for each in expected if each < first]
    assert [subnets.ipv4 for subnets in free_candidates(V4, taken, start)] == rotated


def test_fitting_keeps_what_still_fits() -> None:
    assert fitting(V4, pair("10.244.5.0/24")) == pair("10.244.5.0/24")
    assert fitting(V6, pair(v6="fd00:0:0:7::/64")) == pair(v6="fd00:0:0:7::/64")


@pytest.mark.parametrize("subnet", ["10.244.1.0/24", "10.244.10.0/24", "10.244.4.0/25", "10.9.4.0/24"])
def test_fitting_refuses_what_the_configuration_no_longer_has(subnet: str) -> None:
    assert fitting(V4, pair(subnet)) is None


def test_fitting_completes_and_cuts_a_pair() -> None:
    assert fitting(DUAL, pair("10.244.3.0/24")) == pair("10.244.3.0/24", "fd00:0:0:3::/64")
    assert fitting(V4, pair("10.244.3.0/24", "fd00:0:0:3::/64")) == pair("10.244.3.0/24")


def test_fitting_keeps_a_pair_that_flannel_numbered() -> None:
    assert fitting(DUAL, pair("10.244.3.0/24", "fd00:0:0:4::/64")) == pair("10.244.3.0/24", "fd00:0:0:4::/64")
    assert fitting(DUAL, pair("10.244.3.0/24", "fd01:0:0:4::/64")) is None
    assert fitting(DUAL, pair("10.244.3.0/25", "fd00:0:0:4::/64")) is None
    assert fitting(DUAL, pair(v6="fd00:0:0:99::/64")) is None


def test_pod_cidrs_of_the_configured_families() -> None:
    assert from_pod_cidrs(DUAL, "n1", ["fd00:0:0:9::/64", "10.244.3.0/26"]) == pair("10.244.3.0/26", "fd00:0:0:9::/64")
    assert from_pod_cidrs(V4, "n1", ["10.244.200.0/24", "fd00::/64"]) == pair("10.244.200.0/24")


@pytest.mark.parametrize(
    ("cidrs", "what"),
    [
        (["10.9.0.0/24"], "node n1: podCIDR 10.9.0.0/24 is not a node's part of Network 10.244.0.0/16"),
        (["10.0.0.0/8"], "is not a node's part"),
        (["10.244.3.0/31"], "is not a node's part"),
        (["fd00::/64"], "node n1: spec.podCIDRs has no subnet for 10.244.0.0/16"),
        (["10.244.3.1/24"], 'podCIDR "10.244.3.1/24" is not a network'),
        (["10.244.3.0/24", "10.244.4.0/24"], "two IPv4 podCIDRs, 10.244.3.0/24 and 10.244.4.0/24"),
    ],
)
def test_pod_cidrs_that_cannot_be(cidrs: list[str], what: str) -> None:
    with pytest.raises(AddressRefused) as caught:
        from_pod_cidrs(V4, "n1", cidrs)
    assert what in str(caught.value)


def test_clash_names_the_pair() -> None:
    nets: list[Any] = [ip_network("10.0.0.0/24"), ip_network("fd00::/64")]
    assert first_overlap(nets, [ip_network("10.0.1.0/24"), ip_network("fd00::/48")]) == (
        nets[1],
        ip_network("fd00::/48"),
    )
    assert first_overlap(nets, [ip_network("10.0.1.0/24")]) is None
