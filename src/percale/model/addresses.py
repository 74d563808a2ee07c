"""Addresses and networks as manifests spell them, checked once where they are decoded."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, TypeAlias

import msgspec

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

PortNumber: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65535)]

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_is_dotted_quad = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}", re.ASCII).fullmatch
"""A fifth of the time of `ip_address`, and every pod's address is checked."""


def check_address(text: str) -> None:
    """Raises ValueError, which the decoder turns into an error with the field's path."""
    if _is_dotted_quad(text):
        return
    try:
        ip_address(text)
    except ValueError:
        raise ValueError(f'"{text}" is not an IP address') from None


def check_network(text: str) -> None:
    """Raises ValueError. Host bits are allowed, as Kubernetes allows them, but the prefix length must be there."""
    try:
        ip_network(text if "/" in text else "", strict=False)
    except ValueError:
        raise ValueError(f'"{text}" is not a network in CIDR form, such as 10.0.0.0/8') from None


def parse_network(text: str) -> Network:
    """A checked CIDR as a network; host bits are masked off."""
    return ip_network(text, strict=False)


def packed(text: str) -> bytes:
    """A checked address as 4 or 16 bytes in network order."""
    return ip_address(text).packed if ":" in text else bytes(map(int, text.split(".")))
