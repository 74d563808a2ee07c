"""Addresses and networks in manifests, checked once when they are decoded."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Annotated, Any, TypeAlias

import msgspec

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network
IPInterface: TypeAlias = IPv4Interface | IPv6Interface

PortNumber: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65535)]

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
is_dotted_quad = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}", re.ASCII).fullmatch
"""A fifth of the time of `ip_address`, and every pod's address is checked."""

_has_prefix_length = re.compile(r"[^/%]+/[0-9]{1,3}", re.ASCII).fullmatch


_is_port = re.compile(r"[0-9]{1,5}", re.ASCII).fullmatch


def port_number(text: str) -> int | None:
    """A port number of 1 to 65535 in decimal digits; None for any other text."""
    number = int(text) if _is_port(text) else 0
    return number if 0 < number <= 65535 else None


def check_address(text: str) -> None:
    """Raises ValueError, which the decoder turns into an error with the field's path."""
    if is_dotted_quad(text):
        return
    try:
        ip_address(text)
    except ValueError:
        raise ValueError(f'"{text}" is not an IP address') from None


def is_address(text: str) -> bool:
    """Of either family."""
    try:
        check_address(text)
    except ValueError:
        return False
    return True


def is_network(text: str) -> bool:
    """A CIDR as Go reads it: the prefix length is there and decimal (no netmask), and no zone; host bits are allowed."""
    if not _has_prefix_length(text):
        return False
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def check_network(text: str) -> None:
    """Raises ValueError."""
    if not is_network(text):
        raise ValueError(f'"{text}" is not a network in CIDR form, such as 10.0.0.0/8')


def parse_network(text: str) -> IPNetwork:
    """A checked CIDR as a network; host bits are masked off."""
    return ip_network(text, strict=False)


@lru_cache(maxsize=10_000)
def parsed(kind: Any, text: str) -> Any:
    """`kind(text)`, remembered: an agent that starts decodes each lease for several readers. Raises ValueError."""
    return kind(text)


def packed(text: str) -> bytes:
    """A checked address as 4 or 16 bytes in network order."""
    return ip_address(text).packed if ":" in text else bytes(map(int, text.split(".")))
