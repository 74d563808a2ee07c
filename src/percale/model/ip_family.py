"""The two address families, in place of a pair of everything."""

from __future__ import annotations

from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal, TypeAlias

from percale.model.addresses import IPAddress, IPNetwork

FamilyName: TypeAlias = Literal["IPv4", "IPv6"]


class Family(IntEnum):
    """By IP version: `Family(address.version)`, `f"IPv{family}"`. IPv4 comes first wherever both are listed."""

    IPV4 = 4
    IPV6 = 6

    @classmethod
    def of_packed(cls, address: bytes) -> Family:
        """The family of an address as bytes."""
        return cls.IPV4 if len(address) == 4 else cls.IPV6

    @property
    def size(self) -> int:
        """Bytes of an address."""
        return 4 if self is Family.IPV4 else 16

    @property
    def address_type(self) -> type[IPAddress]:
        """Of `ipaddress`."""
        return IPv4Address if self is Family.IPV4 else IPv6Address

    @property
    def network_type(self) -> type[IPNetwork]:
        """Of `ipaddress`."""
        return IPv4Network if self is Family.IPV4 else IPv6Network

    @property
    def everything(self) -> IPNetwork:
        """The default route's destination."""
        return self.network_type((0, 0))

    @property
    def kubernetes(self) -> FamilyName:
        """Kubernetes' name, in `ipFamilies` and `addressType`."""
        return "IPv4" if self is Family.IPV4 else "IPv6"

    @property
    def nft(self) -> Literal["ip", "ip6"]:
        """nftables' name, of tables and in expressions."""
        return "ip" if self is Family.IPV4 else "ip6"

    @property
    def nft_address(self) -> Literal["ipv4_addr", "ipv6_addr"]:
        """nftables' type of an address."""
        return "ipv4_addr" if self is Family.IPV4 else "ipv6_addr"
