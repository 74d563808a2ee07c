"""Elements of the tables `ip`, `ip6` and `bridge percale`: what pods, peers and the node itself declare of them. Pure.

    declare("pod/…"), declare("peer/…"), declare("node") ─▶ DeclaredElements ─▶ Transaction ─▶ the kernel's table

`base_chains.py` has the tables' text, `agent/network/network_tables.py` applies the transactions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, NamedTuple, TypeAlias

from msgspec import Struct

from percale.model.addresses import IPAddress, IPNetwork
from percale.render.nft.objects import SIZES, ElementBatch, Field, SetSpec, TableFamily, Transaction

Part: TypeAlias = str | int | IPAddress | IPNetwork


class Element(Struct, frozen=True):
    """One element of a set.

    `match` is its key, one part per field of the set's type: a device name, a MAC, an address, a network (an interval), or an
    integer (a port, an address as bits).
    """

    family: TableFamily
    set: str
    match: tuple[Part, ...]


class _Key(NamedTuple):
    set: str
    packed: bytes


class DeclaredElements:
    """One table's elements, by the sources that declare them; several sources may declare the same one."""

    def __init__(self, specs: Iterable[SetSpec]) -> None:
        """`specs` are the table's sets."""
        self._specs = {spec.name: spec for spec in specs}
        self._by_source: dict[str, frozenset[_Key]] = {}
        self._sources: Counter[_Key] = Counter()
        """How many declare it."""
        self._taken: set[_Key] = set()
        """As of the last `changes`."""
        self._changed: set[_Key] = set()
        """Declared or withdrawn since."""

    def declare(self, source: str, elements: Iterable[Element]) -> bool:
        """Replace all elements of this source; whether that changes any. Raises ValueError for one that no set can hold."""
        now = frozenset(_Key(each.set, pack(self._specs[each.set], each.match)) for each in elements)
        before = self._by_source.pop(source, frozenset())
        if now:
            self._by_source[source] = now
        if now == before:
            return False
        for key in now - before:
            self._sources[key] += 1
        for key in before - now:
            self._sources[key] -= 1
            if not self._sources[key]:
                del self._sources[key]
        self._changed |= now ^ before
        return True

    def changes(self) -> Transaction:
        """What has changed since the last call."""
        changed, self._changed = self._changed, set()
        new = {key for key in changed if key in self._sources and key not in self._taken}
        gone = {key for key in changed if key not in self._sources and key in self._taken}
        self._taken |= new
        self._taken -= gone
        return Transaction(remove=tuple(_batches(gone)), put=tuple(_batches(new)))

    def snapshot(self) -> Transaction:
        """All of them, as of the last `changes`."""
        return Transaction(put=tuple(_batches(self._taken)))

    def holds(self, source: str, elements: ElementBatch) -> bool:
        """Whether one of these is the source's."""
        size = self._specs[elements.set].key_size
        keys = (elements.packed_keys[start : start + size] for start in range(0, len(elements.packed_keys), size))
        declared = self._by_source.get(source, frozenset())
        return any(_Key(elements.set, key) in declared for key in keys)


def _batches(keys: Iterable[_Key]) -> Iterator[ElementBatch]:
    by_set: defaultdict[str, list[bytes]] = defaultdict(list)
    for name, packed in sorted(keys):
        by_set[name].append(packed)
    return (ElementBatch(name, b"".join(packed)) for name, packed in by_set.items())


def pack(spec: SetSpec, match: tuple[Part, ...]) -> bytes:
    """The key of an element, which of an interval is its first and its last value. Raises ValueError."""
    try:
        if not spec.interval:
            return _pack(spec.key, match)
        return _pack(spec.key, map(_first, match)) + _pack(spec.key, map(_last, match))
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"set {spec.name} is of type {' . '.join(spec.key)}; {match} does not fit") from error


def _pack(fields: tuple[Field, ...], parts: Iterable[Part]) -> bytes:
    return b"".join(_padded(field, _PACKED[field](part)) for field, part in zip(fields, parts, strict=True))


def _padded(field: Field, value: bytes) -> bytes:
    if len(value) > SIZES[field]:
        raise ValueError(value)
    return value.ljust(SIZES[field], b"\0")


def _first(part: Part) -> Part:
    return part.network_address if isinstance(part, IPv4Network | IPv6Network) else part


def _last(part: Part) -> Part:
    return part.broadcast_address if isinstance(part, IPv4Network | IPv6Network) else part


def _address(version: type[IPAddress]) -> Callable[[Any], bytes]:
    def packed(part: Any) -> bytes:
        if not isinstance(part, version):
            raise TypeError(part)
        return bytes(part.packed)

    return packed


_PACKED: dict[Field, Callable[[Any], bytes]] = {
    "ipv4_addr": _address(IPv4Address),
    "ipv6_addr": _address(IPv6Address),
    "ether_addr": lambda part: bytes.fromhex(part.replace(":", "")),
    "ifname": lambda part: part.encode(),
    "inet_proto": lambda part: part.to_bytes(1, "big"),
    "inet_service": lambda part: part.to_bytes(2, "big"),
    "bits32": lambda part: part.to_bytes(4, "big"),
    "bits128": lambda part: part.to_bytes(16, "big"),
}
