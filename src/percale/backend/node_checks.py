"""What backends have in common of `Backend.check`. Called by them."""

from __future__ import annotations

from collections.abc import Mapping

from percale.backend.protocol import LocalNode
from percale.errors import BadConfig
from percale.model.ip_family import Family

LEAST_MTU = {Family.IPV4: 576, Family.IPV6: 1280}
"""Bytes that pods' packets of this version may have at least (RFC 791, RFC 8200)."""


def require_own_addresses(backend: str, node: LocalNode) -> None:
    """Peers send to the public address without a tunnel: it must be this node's own. Raises BadConfig."""
    for family in node.families.values():
        address = family.public_ip
        if address is not None and all(address != mine.ip for mine in family.interface.addresses):
            raise BadConfig(
                f"{backend}: public address {address} is not an address of {family.interface.name}",
                where=f"node {node.name}",
                hint="leave out --public-ip, choose the interface with --iface, or use vxlan",
            )


def require_mtu_of_families(backend: str, node: LocalNode, mtus: Mapping[Family, int]) -> None:
    """Each tunnel, whose MTU is an option, must leave room for the smallest packet of its family. Raises BadConfig."""
    for family, mtu in mtus.items():
        device = node.families[family].interface.name
        if mtu < LEAST_MTU[family]:
            raise BadConfig(
                f"{backend} leaves IPv{family} packets {mtu} bytes of {device}'s MTU, but they need {LEAST_MTU[family]}",
                where=f"node {node.name}",
                hint=f"raise the MTU of {device}, or Backend.MTU",
            )


def require_mtu(backend: str, node: LocalNode, mtu: int) -> None:
    """The tunnel, which carries IPv4 alone, must leave room for the smallest packet. Raises BadConfig."""
    least, device = LEAST_MTU[Family.IPV4], node.interface.name
    if mtu < least:
        raise BadConfig(
            f"{backend} leaves packets {mtu} bytes of {device}'s MTU, but they need {least}",
            where=f"node {node.name}",
            hint=f"raise the MTU of {device}",
        )
