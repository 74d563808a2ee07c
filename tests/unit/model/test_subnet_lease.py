"""A lease's pairs of fields, by family."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from percale.model.ip_family import Family
from percale.model.subnet_lease import LeasedFamily, NodeSubnets, SubnetLeaseSpec, make_lease

V4 = LeasedFamily(Family.IPV4, IPv4Network("10.5.52.0/24"), IPv4Address("192.0.2.1"), {"VNI": 1})
V6 = LeasedFamily(Family.IPV6, IPv6Network("fd00::/64"), IPv6Address("2001:db8::1"), None)


def absent(family: Family) -> LeasedFamily:
    return LeasedFamily(family, None, None, None)


@pytest.mark.parametrize(
    ("given", "families"),
    [
        ([V4, V6], (V4, V6)),
        ([V6, V4], (V4, V6)),
        ([V4], (V4, absent(Family.IPV6))),
        ([V6], (absent(Family.IPV4), V6)),
        ([], (absent(Family.IPV4), absent(Family.IPV6))),
    ],
)
def test_families_there_and_back(given: list[LeasedFamily], families: tuple[LeasedFamily, LeasedFamily]) -> None:
    spec = SubnetLeaseSpec.of("n1", "vxlan", given)
    assert (spec.node, spec.backendType, spec.families) == ("n1", "vxlan", families)
    assert list(spec.subnets) == [each.subnet for each in families if each.subnet is not None]
    assert list(spec.public_ips) == [each.public_ip for each in families if each.public_ip is not None]


def test_a_lease_is_named_by_its_subnets() -> None:
    names = [make_lease(SubnetLeaseSpec.of("n1", "vxlan", given)).metadata.name for given in ([V4], [V6], [V4, V6])]
    assert names == ["10.5.52.0-24", "fd00---64", "10.5.52.0-24&fd00---64"]


def test_a_nodes_subnets() -> None:
    subnets = NodeSubnets(V4.subnet, None)
    assert (subnets.ipv4, subnets.ipv6, str(subnets)) == (V4.subnet, None, "10.5.52.0/24")
    assert str(NodeSubnets(V4.subnet, V6.subnet)) == "10.5.52.0/24 and fd00::/64"
    assert (str(NodeSubnets()), bool(NodeSubnets(None, None))) == ("no subnet", False)


def test_a_family_by_its_version() -> None:
    v4, v6 = Family(4), Family(6)
    assert (v4.nft, v6.nft, v4.kubernetes, v6.kubernetes, f"IPv{v6}") == ("ip", "ip6", "IPv4", "IPv6", "IPv6")
    assert (v4.size, v6.size, Family.of_packed(bytes(4)), Family.of_packed(bytes(16))) == (4, 16, v4, v6)
    assert [str(family.everything) for family in Family] == ["0.0.0.0/0", "::/0"]
