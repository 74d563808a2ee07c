"""Set elements as nfnetlink attributes, both ways; pure. `static_tables.py` queries a set's shape and sends the result.

A set's shape decides how an element is written: a plain key; an interval as a start and an exclusive end, two elements; or,
in a set of concatenated intervals, a key and an inclusive end. Each field of a concatenation is padded to four bytes.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterable, Iterator
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    summarize_address_range,
)
from typing import Any, TypeAlias

from msgspec import Struct

from percale.kernel.netlink.ifinfo import mac_bytes, mac_text
from percale.kernel.netlink.socket import attribute, attributes, nested, number, string, u32_network
from percale.render.objects import Family, IPAddress, IPNetwork

Part: TypeAlias = str | int | IPAddress | IPNetwork
Match: TypeAlias = tuple[Part, ...]

ANONYMOUS, CONSTANT, INTERVAL, MAP, TIMEOUT, DYNAMIC = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
_NOT_OURS_TO_FILL = ANONYMOUS | CONSTANT | MAP | TIMEOUT | DYNAMIC

_SET_NAME, _SET_FLAGS, _SET_KEY_TYPE, _SET_KEY_LENGTH = 2, 3, 4, 5
_ELEMENT_KEY, _ELEMENT_FLAGS, _ELEMENT_KEY_END = 1, 3, 10
_DATA_VALUE = 1
_LIST_ELEMENT = 1
_INTERVAL_END = 0x1
_CATCH_ALL = 0x2
_TYPE_BITS = 6


class Field(Struct, frozen=True):
    """One of nftables' data types: its size in bytes, and its values as bytes."""

    name: str
    size: int
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Part]


def _address(part: IPAddress | IPNetwork) -> bytes:
    return (part.network_address if isinstance(part, IPv4Network | IPv6Network) else part).packed


def _integer(name: str, size: int, order: Any = "big") -> Field:
    return Field(name, size, lambda part: part.to_bytes(size, order), lambda data: int.from_bytes(data, order))


_INTEGER = 4
_FIELDS: dict[int, Field] = {
    _INTEGER: _integer("integer", 0),
    7: Field("ipv4_addr", 4, _address, IPv4Address),
    8: Field("ipv6_addr", 16, _address, IPv6Address),
    9: Field("ether_addr", 6, mac_bytes, mac_text),
    12: _integer("inet_proto", 1),
    13: _integer("inet_service", 2),
    19: _integer("mark", 4, sys.byteorder),
    20: _integer("iface_index", 4, sys.byteorder),
    41: Field("ifname", 16, lambda part: part.encode().ljust(16, b"\0"), string),
}
"""By nft's number of the type, six bits of a set's key type each. An integer is any bits: what the others leave of the key."""


class Shape(Struct, frozen=True):
    """The layout of a set's elements."""

    family: Family
    name: str
    fields: tuple[Field, ...]
    flags: int

    @property
    def interval(self) -> bool:
        return bool(self.flags & INTERVAL)

    @property
    def ours_to_fill(self) -> bool:
        """False for anonymous sets, maps, and packet-filled sets."""
        return not self.flags & _NOT_OURS_TO_FILL


def decode_shape(family: Family, found: dict[int, bytes]) -> Shape:
    """A set's shape from the attributes of NFT_MSG_NEWSET. Raises OSError for an unknown key type."""
    flags = int.from_bytes(found.get(_SET_FLAGS, b""), "big")
    name = string(found[_SET_NAME])
    rest = int.from_bytes(found[_SET_KEY_TYPE], "big")
    kinds: list[int] = []
    while rest:
        kinds.insert(0, rest & ((1 << _TYPE_BITS) - 1))
        rest >>= _TYPE_BITS
    unknown = [kind for kind in kinds if kind not in _FIELDS]
    if unknown and not flags & _NOT_OURS_TO_FILL:
        raise OSError(errno.EOPNOTSUPP, f"set {name}: no encoding for nft's data type number {unknown[0]}")
    fields = () if unknown else tuple(_FIELDS[kind] for kind in kinds)
    if _INTEGER in kinds and fields:
        left = int.from_bytes(found[_SET_KEY_LENGTH], "big") - sum(field.size + 3 & ~3 for field in fields)
        fields = tuple(field if field.size else _integer(field.name, left) for field in fields)
    return Shape(family, name, fields, flags)


def encode(shape: Shape, match: Match) -> bytes:
    """The element as list entries of a NEWSETELEM or DELSETELEM message. Raises OSError when it does not fit the set."""
    if len(match) != len(shape.fields):
        raise OSError(errno.EINVAL, f"set {shape.name} has {len(shape.fields)} fields, the element {len(match)}")
    try:
        first = _key(shape, match)
        if not shape.interval:
            return _entry(first)
        last = _key(shape, [_last(part) for part in match])
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        spelled = " . ".join(field.name for field in shape.fields)
        raise OSError(errno.EINVAL, f"set {shape.name} is of type {spelled}; {match} does not fit") from error
    if len(match) > 1:
        return _entry(first, end=last)
    beyond = int.from_bytes(last, "big") + 1
    if beyond >> (8 * len(last)):
        return _entry(first)  # up to the end of all addresses: an open interval
    return _entry(first) + _entry(beyond.to_bytes(len(last), "big"), flags=_INTERVAL_END)


def _key(shape: Shape, match: Iterable[Part]) -> bytes:
    parts = []
    for field, part in zip(shape.fields, match, strict=True):
        data = field.encode(part)
        if len(data) != field.size:
            raise ValueError(part)
        parts.append(data + bytes(-len(data) % 4) if len(shape.fields) > 1 else data)
    return b"".join(parts)


def _last(part: Part) -> Part:
    """The last value of a network, or the value itself."""
    return part.broadcast_address if isinstance(part, IPv4Network | IPv6Network) else part


def _entry(key: bytes, *, end: bytes | None = None, flags: int = 0) -> bytes:
    parts = [nested(_ELEMENT_KEY, attribute(_DATA_VALUE, key))]
    if flags:
        parts.append(u32_network(_ELEMENT_FLAGS, flags))
    if end is not None:
        parts.append(nested(_ELEMENT_KEY_END, attribute(_DATA_VALUE, end)))
    return nested(_LIST_ELEMENT, *parts)


class Raw(Struct, frozen=True, order=True):
    """A list entry of a dump; of equal keys the end comes before the next start."""

    key: bytes
    starts: bool = True
    end: bytes | None = None


def decode_entry(entry: bytes) -> Raw | None:
    """One list entry; None for the catch-all element."""
    found = attributes(entry)
    flags = number(found[_ELEMENT_FLAGS][::-1]) if _ELEMENT_FLAGS in found else 0
    if flags & _CATCH_ALL:
        return None
    end = attributes(found[_ELEMENT_KEY_END])[_DATA_VALUE] if _ELEMENT_KEY_END in found else None
    return Raw(attributes(found[_ELEMENT_KEY])[_DATA_VALUE], not flags & _INTERVAL_END, end)


def decode(shape: Shape, entries: Iterable[Raw]) -> Iterator[Match]:
    """The elements of a set from its entries; an interval that is no network becomes several networks."""
    if not shape.interval:
        yield from (tuple(_parts(shape, raw.key)) for raw in entries)
    elif len(shape.fields) > 1:
        yield from (_joined(shape, raw) for raw in entries)
    else:
        yield from _intervals(shape, sorted(entries))


def _parts(shape: Shape, key: bytes) -> Iterator[Part]:
    offset = 0
    for field in shape.fields:
        yield field.decode(key[offset : offset + field.size])
        offset += (field.size + 3) & ~3


def _joined(shape: Shape, raw: Raw) -> Match:
    firsts = _parts(shape, raw.key)
    lasts = _parts(shape, raw.end or raw.key)
    return tuple(_network(first, last) for first, last in zip(firsts, lasts, strict=True))


def _network(first: Part, last: Part) -> Part:
    """The one network from `first` to `last`; what is no network is its first value."""
    if (
        first == last
        or not isinstance(first, IPv4Address | IPv6Address)
        or not isinstance(last, IPv4Address | IPv6Address)
    ):
        return first
    return next(iter(_networks(first, last)))


def _networks(first: IPAddress, last: IPAddress) -> Iterator[IPNetwork]:
    yield from summarize_address_range(first, last)


def _intervals(shape: Shape, ordered: list[Raw]) -> Iterator[Match]:
    field = shape.fields[0]
    for position, raw in enumerate(ordered):
        if not raw.starts:
            continue
        following = ordered[position + 1] if position + 1 < len(ordered) else None
        size = 8 * field.size
        beyond = int.from_bytes(following.key, "big") if following is not None else 1 << size
        first = field.decode(raw.key)
        last = field.decode((beyond - 1).to_bytes(field.size, "big"))
        if isinstance(first, IPv4Address | IPv6Address) and isinstance(last, IPv4Address | IPv6Address):
            yield from ((network,) for network in _networks(first, last))
        else:
            yield (first,)
