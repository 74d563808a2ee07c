"""struct ifinfomsg, and what every message about a device shares. Used by `link.py` and the codecs of `link_kinds`."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import TypeAlias

from percale.kernel.netlink.socket import attribute, text, u32

HEADER = struct.Struct("=BxHiII")

IFF_UP = 0x1
IFF_NOARP = 0x80
IFF_LOWER_UP = 0x10000

ADDRESS, NAME, MTU, NAMESPACE_DESCRIPTOR = 1, 3, 4, 28

NameOf: TypeAlias = Callable[[int], str | None]
"""The name of the device with this index, None when it is not known here."""
IndexOf: TypeAlias = Callable[[str], int]
"""The index of the device of this name. Raises OSError (ENODEV)."""


def header(index: int, up: bool | None = None, arp: bool | None = None) -> bytes:
    """Settings that are None are left as they are."""
    flags = (IFF_UP if up else 0) | (IFF_NOARP if arp is False else 0)
    mask = (IFF_UP if up is not None else 0) | (IFF_NOARP if arp is not None else 0)
    return HEADER.pack(socket.AF_UNSPEC, 0, index, flags, mask)


def new_device(name: str, mac: str | None, mtu: int | None) -> list[bytes]:
    """The attributes that a new device of any kind is given."""
    body = [text(NAME, name)]
    if mtu is not None:
        body.append(u32(MTU, mtu))
    if mac is not None:
        body.append(attribute(ADDRESS, mac_bytes(mac)))
    return body


def mac_bytes(mac: str) -> bytes:
    """`02:…` as six bytes."""
    return bytes.fromhex(mac.replace(":", ""))


def mac_text(payload: bytes) -> str:
    """Six bytes as `02:…`."""
    return payload.hex(":")
