"""Addresses of a node's blocks of IP pools."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path

import pytest

from percale.errors import SubnetFull
from percale.ipam.address_pool import AddressPool, Owner
from percale.model.addresses import IPAddress
from percale.model.subnet_lease import NodeSubnets

V4 = NodeSubnets(IPv4Network("10.244.2.0/24"))
DUAL = NodeSubnets(IPv4Network("10.244.2.0/24"), IPv6Network("fd00:0:0:2::/64"))
BLOCK, NEXT = IPv4Network("10.244.130.0/30"), IPv4Network("10.244.130.4/30")


def owner(number: int) -> Owner:
    return Owner(f"c{number}", "eth0")


def addresses(*texts: str) -> tuple[IPAddress, ...]:
    return tuple(ip_address(text) for text in texts)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "addresses"


def test_addresses_of_blocks(path: Path) -> None:
    pool = AddressPool(path, "n2", DUAL, [BLOCK])
    assert pool.allocate(owner(1)) == addresses("10.244.2.2", "fd00:0:0:2::2")
    within = {4: [BLOCK]}
    # The first two are where a tunnel and a bridge have theirs in a subnet.
    given = [pool.allocate(owner(number), within=within)[0] for number in (2, 3)]
    assert given == list(addresses("10.244.130.2", "10.244.130.3"))
    assert not pool.has_room([BLOCK], lambda _: False)
    with pytest.raises(SubnetFull, match=r"10\.244\.130\.0/30 is full \(2 of 2\)"):
        pool.allocate(owner(4), within=within)
    pool.add_block(NEXT)
    assert pool.allocate(owner(4), within={4: [BLOCK, NEXT]})[0] == ip_address("10.244.130.4")
    assert not pool.remove_block(NEXT)
    pool.release(owner(4))
    assert pool.remove_block(NEXT)
    assert pool.blocks == (BLOCK,)
    pool.close()


def test_reserved_addresses_are_for_those_who_ask(path: Path) -> None:
    pool = AddressPool(path, "n2", V4, [NEXT])
    reserved = addresses("10.244.130.4", "10.244.130.5")
    given = pool.allocate(owner(1), within={4: [NEXT]}, reserved=reserved.__contains__)
    assert given == addresses("10.244.130.6")
    assert pool.allocate(owner(2), wanted=reserved[:1], reserved=reserved.__contains__) == reserved[:1]
    pool.close()


def test_the_order_of_reuse_in_a_block_outlives_the_agent(path: Path) -> None:
    pool = AddressPool(path, "n2", V4, [NEXT])
    within = {4: [NEXT]}
    first, second = (pool.allocate(owner(number), within=within)[0] for number in (1, 2))
    pool.release(owner(2))
    pool.release(owner(1))
    pool.close()
    pool = AddressPool(path, "n2", V4, [NEXT])
    later = [pool.allocate(owner(number), within=within)[0] for number in range(3, 7)]
    assert later == [first + 2, first + 3, second, first]
    pool.close()
