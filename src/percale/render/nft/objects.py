"""What our nft tables hold, as values: sets and maps, chains of rules, and transactions on them.

    TableSpec: name, static text, sets ─┐
    TableSection ─▶ Transaction ────────┴─▶ kernel/nftables/table.py ──▶ one nfnetlink batch

A table's base chains are static text (`base_chains.py`); all that changes with pods, peers, policies and services is a
transaction, which the kernel applies whole or not at all: no packet sees half of it. Elements are packed bytes, for there may
be 100,000 of them: the kernel layer frames them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.model.ip_family import Family
from percale.render.objects import OWNER

TableFamily: TypeAlias = Literal["ip", "ip6", "inet", "bridge", "netdev"]

Field: TypeAlias = Literal[
    "ipv4_addr",
    "ipv6_addr",
    "ether_addr",
    "ifname",
    "inet_proto",
    "inet_service",
    "mark",
    "integer",
    "bits32",
    "bits128",
]
"""An nft data type. In keys and data each takes its own size, network order, padded with zeros to a multiple of 4 bytes;
mark and integer are 4 bytes in host order. Bits are what nft calls an integer too: payload that it has no name for."""

SIZES: dict[Field, int] = {
    "ipv4_addr": 4,
    "ipv6_addr": 16,
    "ether_addr": 8,
    "ifname": 16,
    "inet_proto": 4,
    "inet_service": 4,
    "mark": 4,
    "integer": 4,
    "bits32": 4,
    "bits128": 16,
}
"""Bytes, padding included."""


class TableName(Struct, frozen=True):
    """One of our tables."""

    family: TableFamily
    name: str = OWNER

    def __str__(self) -> str:
        return f"{self.family} {self.name}"


POLICY_TABLE = TableName("inet")
"""Policies and host ports."""


class SetSpec(Struct, frozen=True):
    """A named set, or a map when it has `data`; with `interval` a key is two keys, the first and the last (both included)."""

    name: str
    key: tuple[Field, ...]
    interval: bool = False
    data: tuple[Field, ...] | Literal["verdict"] | None = None
    comment: str = ""
    timeout: int | None = None
    """Seconds; such a set is filled by packets (a rule's `MapUpdate`), and what it holds is no part of a snapshot."""

    @property
    def field_key_size(self) -> int:
        """Bytes of one key by itself: half of an interval."""
        return sum(SIZES[field] for field in self.key)

    @property
    def key_size(self) -> int:
        """Bytes of one element's key."""
        return self.field_key_size * (2 if self.interval else 1)

    @property
    def data_size(self) -> int:
        """Bytes of one element's data; 0 without, and of a verdict, which stands once for many elements."""
        return sum(SIZES[field] for field in self.data) if isinstance(self.data, tuple) else 0


class TableSpec(Struct, frozen=True):
    """What a table holds at least: its static text, which is the content of its braces, and the text's sets to fill."""

    name: TableName
    text: str
    sets: tuple[SetSpec, ...]


class Verdict(Struct, frozen=True, gc=False):
    """What happens to a packet. `chain` is where jump and goto lead."""

    code: Literal["accept", "drop", "return", "jump", "goto"]
    chain: str | None = None


class ElementBatch(Struct, frozen=True, gc=False):
    """Elements of one set, keys one after the other; of a map with their data likewise, or one verdict for them all."""

    set: str
    packed_keys: bytes
    data: bytes = b""
    verdict: Verdict | None = None


Operand: TypeAlias = Literal[
    "ip saddr", "ip daddr", "ip6 saddr", "ip6 daddr", "l4proto", "th sport", "th dport", "original dport"
]
"""What a rule looks at. The addresses imply their family: a packet of the other does not match. The original destination
port is the one before translation."""


class Equals(Struct, frozen=True):
    """The operand has this value (a protocol's or port's number)."""

    operand: Operand
    value: int


class Between(Struct, frozen=True):
    """The operand is in this range, both ends included."""

    operand: Operand
    first: int
    last: int


class InSet(Struct, frozen=True):
    """The operands together are a key of the set."""

    operands: tuple[Operand, ...]
    set: str


Match: TypeAlias = Equals | Between | InSet


class SlotExpr(Struct, frozen=True):
    """A number below `modulus` as the last part of a map's key: by chance, by turns, or by a hash of the source address."""

    by: Literal["random", "inc", "source"]
    modulus: int


class SetMark(Struct, frozen=True):
    """Set these bits of the packet's mark."""

    bits: int


class Dnat(Struct, frozen=True):
    """Destination NAT to the address and port that the map has for these operands; without such an element no match."""

    family: Family
    operands: tuple[Operand, ...]
    map: str
    slot: SlotExpr | None = None


class MapUpdate(Struct, frozen=True):
    """Put an element into a map with a timeout, or renew it."""

    map: str
    key: tuple[Operand, ...]
    data: tuple[Operand, ...]


Statement: TypeAlias = SetMark | Dnat | MapUpdate


class Rule(Struct, frozen=True):
    """All matches must hold; then the statements, then the verdict. The comment is what `nft list` and traces show."""

    matches: tuple[Match, ...]
    verdict: Verdict | None
    comment: str
    counter: bool = False
    statements: tuple[Statement, ...] = ()


INPUT_CHAIN = "own-node-input"
"""The one chain of transactions with a hook: input, of type filter, at priority filter; what it does not decide passes."""


class Chain(Struct, frozen=True):
    """A chain that is reached by jump or goto, or `INPUT_CHAIN`."""

    name: str
    rules: tuple[Rule, ...]


class Transaction(Struct, frozen=True):
    """One atomic change of the table.

    Sets are made first; then elements go, chains that are put get these rules instead of theirs, elements come; at last
    chains and sets that nothing refers to any more go. An element that is removed and put gets its new data; a
    set or chain that is removed and put is recreated. The transaction that makes everything from the static text alone
    is the table's snapshot.
    """

    put_sets: tuple[SetSpec, ...] = ()
    remove: tuple[ElementBatch, ...] = ()
    put_chains: tuple[Chain, ...] = ()
    put: tuple[ElementBatch, ...] = ()
    remove_chains: tuple[str, ...] = ()
    remove_sets: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(
            self.put_sets or self.remove or self.put_chains or self.put or self.remove_chains or self.remove_sets
        )


def joined(elements: Iterable[ElementBatch]) -> Iterator[ElementBatch]:
    """Those of one set, and of one verdict, as one."""
    keys: defaultdict[tuple[str, Verdict | None], list[bytes]] = defaultdict(list)
    data: defaultdict[tuple[str, Verdict | None], list[bytes]] = defaultdict(list)
    for each in elements:
        keys[each.set, each.verdict].append(each.packed_keys)
        data[each.set, each.verdict].append(each.data)
    for (name, verdict), parts in keys.items():
        yield ElementBatch(name, b"".join(parts), b"".join(data[name, verdict]), verdict)
