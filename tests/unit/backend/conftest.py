"""A node, its peers, and what lies between them."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface, ip_network
from typing import Any

import pytest
from msgspec.structs import replace
from tests.builders import lease

from percale.backend.protocol import LocalFamily, LocalNode
from percale.kernel.protocol import Interface
from percale.model.ip_family import Family
from percale.model.subnet_lease import SubnetLease

ETH0 = Interface(
    "eth0",
    2,
    "02:00:00:00:00:01",
    1500,
    up=True,
    carrier=True,
    addresses=(ip_interface("192.0.2.1/24"), ip_interface("2001:db8::1/64")),
)
V4 = LocalFamily(IPv4Network("10.244.1.0/24"), ETH0, IPv4Address("192.0.2.1"))
V6 = LocalFamily(IPv6Network("fd00:0:0:1::/64"), ETH0, IPv6Address("2001:db8::1"))
NODE = LocalNode(
    name="n1",
    families={Family.IPV4: V4, Family.IPV6: V6},
    on_link=frozenset({ip_network("192.0.2.0/24"), ip_network("2001:db8::/64")}),
)


def altered(node: LocalNode, family: Family, **changes: Any) -> LocalNode:
    """The node with another subnet, interface or public address of this family."""
    return replace(node, families={**node.families, family: replace(node.families[family], **changes)})


@pytest.fixture
def node() -> LocalNode:
    """n1, dual stack, on 192.0.2.0/24 and 2001:db8::/64."""
    return NODE


@pytest.fixture
def node_v4() -> LocalNode:
    """The same with IPv4 alone."""
    return replace(NODE, families={Family.IPV4: V4})


@pytest.fixture
def node_v6() -> LocalNode:
    """The same with IPv6 alone."""
    return replace(NODE, families={Family.IPV6: V6})


@pytest.fixture
def peer() -> Callable[..., SubnetLease]:
    """The lease of node `number`, dual stack and vxlan unless told otherwise."""

    def make(number: int, **changes: Any) -> SubnetLease:
        fields: dict[str, Any] = {
            "ipv6Subnet": f"fd00:0:0:{number:x}::/64",
            "publicIP": f"192.0.2.{number}",
            "publicIPv6": f"2001:db8::{number:x}",
            "backendType": "vxlan",
            "backendData": {"VNI": 1, "VtepMAC": f"02:00:00:00:04:{number:02x}"},
            "backendV6Data": {"VNI": 1, "VtepMAC": f"02:00:00:00:06:{number:02x}"},
        }
        return lease(number, **{**fields, **changes})

    return make
