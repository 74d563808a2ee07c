"""Encodes a transaction of a table of ours as one nfnetlink batch; pure. Sent by `table.py`.

    new chains ─▶ old rules ─▶ old elements ─▶ what is recreated ─▶ sets ─▶ rules ─▶ elements ─▶ old sets, old chains
                  (delete)     (delete)        (delete)                                         (delete)

In this order nothing refers to what does not exist yet, and nothing still refers to what is deleted. No flag requires that
something is new: a chain that is put may exist, and the kernel itself reports a wrong element.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Mapping

from msgspec import Struct, field

from percale.errors import KernelError
from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import Request, attribute, nested, text, u32_network
from percale.kernel.nftables import bulk_elements, rule_codec, set_codec
from percale.kernel.nftables.event_subscriptions import SUBSYSTEM
from percale.kernel.nftables.messages import (
    CHAIN_NAME,
    DELCHAIN,
    DELRULE,
    DELSET,
    DELSETELEM,
    DELTABLE,
    LIST_ELEMENTS,
    LIST_SET,
    NEWCHAIN,
    NEWOBJECT,
    NEWRULE,
    NEWSET,
    NEWSETELEM,
    NEWTABLE,
    OBJECT_NAME,
    RULE_CHAIN,
    RULE_EXPRESSIONS,
    RULE_USERDATA,
    hook_of,
    table_header,
)
from percale.kernel.nftables.set_codec import SET_NAME
from percale.render.nft.objects import POLICY_TABLE, Chain, ElementBatch, SetSpec, TableName, Transaction
from percale.render.nft.table_state import refused_by

_APPEND = 0x800
_TEXT = "static text"
_FIRST_TEXT_SET = 1 << 20
"""The first set id of the static text's sets, beyond those of any transaction."""


class BaseChain(Struct, frozen=True):
    """A chain of the static text, as attributes."""

    hook: bytes
    rules: tuple[bytes, ...]


class BaseSet(Struct, frozen=True):
    """A set of the static text, as attributes; `elements` are those that the text gives it."""

    spec: bytes
    elements: tuple[bytes, ...]


class BaseTable(Struct, frozen=True):
    """The static text's parts as the kernel dumps them: enough to compare and to recreate them."""

    table: bytes
    chains: Mapping[str, BaseChain]
    sets: Mapping[str, BaseSet]
    counters: Mapping[str, bytes] = {}
    """Named counters as attributes, at zero."""


class Batch(Struct, frozen=True):
    """The messages in order, and the part of the transaction that each belongs to, for error messages."""

    table: TableName
    requests: list[Request] = field(default_factory=list)
    concerns: list[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes, headers of messages included."""
        return sum(len(request.body) + 20 for request in self.requests)

    def add(self, concern: str, kind: int, body: bytes, flags: int = 0) -> None:
        """One message about the table."""
        self.requests.append(Request(SUBSYSTEM << 8 | kind, flags, table_header(self.table) + body))
        self.concerns.append(concern)


def encode_table(
    base: BaseTable, snapshot: Transaction, known: Mapping[str, SetSpec], table: TableName = POLICY_TABLE
) -> Batch:
    """Create or replace the whole table; `known` are the text's sets that transactions fill."""
    out = Batch(table)
    out.add(_TEXT, NEWTABLE, b"", netlink.CREATE)
    out.add(_TEXT, DELTABLE, b"")
    out.add(_TEXT, NEWTABLE, base.table, netlink.CREATE)
    for name, counter in base.counters.items():
        out.add(_TEXT, NEWOBJECT, text(OBJECT_NAME, name) + counter, netlink.CREATE)
    for name, chain in base.chains.items():
        out.add(_TEXT, NEWCHAIN, text(CHAIN_NAME, name) + chain.hook, netlink.CREATE)
    for number, (name, made) in enumerate(base.sets.items(), _FIRST_TEXT_SET):
        out.add(_TEXT, NEWSET, made.spec + u32_network(set_codec.SET_ID, number), netlink.CREATE)
        if made.elements:
            out.add(_TEXT, NEWSETELEM, text(LIST_SET, name) + nested(LIST_ELEMENTS, *made.elements), netlink.CREATE)
    for name, chain in base.chains.items():
        for rule in chain.rules:
            out.add(_TEXT, NEWRULE, text(RULE_CHAIN, name) + rule, netlink.CREATE | _APPEND)
    edited = encode_transaction(snapshot, known, table)
    return Batch(table, out.requests + edited.requests, out.concerns + edited.concerns)


def encode_transaction(
    transaction: Transaction, known: Mapping[str, SetSpec], table: TableName = POLICY_TABLE
) -> Batch:
    """The whole transaction; `known` are the existing sets. Raises KernelError for elements that do not fit their set."""
    out = Batch(table)
    going_sets, going_chains = set(transaction.remove_sets), set(transaction.remove_chains)
    anew_sets = {spec.name for spec in transaction.put_sets} & going_sets
    anew_chains = {chain.name for chain in transaction.put_chains} & going_chains
    for chain in transaction.put_chains:
        if chain.name not in anew_chains:
            _make_chain(out, chain.name)
            _flush(out, chain.name)
    for name in transaction.remove_chains:
        _flush(out, name)
    for elements in transaction.remove:
        _change_elements(out, known, elements, put=False)
    _remove(out, (name for name in transaction.remove_sets if name in anew_sets), DELSET, SET_NAME, "set")
    for name in anew_chains:
        _remove(out, iter((name,)), DELCHAIN, CHAIN_NAME, "chain")
        _make_chain(out, name)
    for number, spec in enumerate(transaction.put_sets, 1):
        out.add(f"set {spec.name}", NEWSET, set_codec.encode(spec, number), netlink.CREATE)
    for chain in transaction.put_chains:
        _fill_chain(out, chain)
    now = {**known, **{spec.name: spec for spec in transaction.put_sets}}
    for elements in transaction.put:
        _change_elements(out, now, elements, put=True)
    _remove(out, (name for name in transaction.remove_sets if name not in anew_sets), DELSET, SET_NAME, "set")
    _remove(out, (name for name in transaction.remove_chains if name not in anew_chains), DELCHAIN, CHAIN_NAME, "chain")
    return out


def _make_chain(out: Batch, name: str) -> None:
    out.add(f"chain {name}", NEWCHAIN, text(CHAIN_NAME, name) + hook_of(name), netlink.CREATE)


def _flush(out: Batch, name: str) -> None:
    out.add(f"chain {name}", DELRULE, text(RULE_CHAIN, name))


def _remove(out: Batch, names: Iterator[str], kind: int, attribute_name: int, what: str) -> None:
    for name in names:
        out.add(f"{what} {name}", kind, text(attribute_name, name))


def _fill_chain(out: Batch, chain: Chain) -> None:
    where = text(RULE_CHAIN, chain.name)
    for rule in chain.rules:
        expressions = rule_codec.encode(rule)
        comment = rule_codec.encode_comment(rule.comment)
        out.add(
            f"chain {chain.name}, rule {rule.comment!r}",
            NEWRULE,
            where + nested(RULE_EXPRESSIONS, expressions) + attribute(RULE_USERDATA, comment),
            netlink.CREATE | _APPEND,
        )


def _change_elements(out: Batch, known: Mapping[str, SetSpec], elements: ElementBatch, *, put: bool) -> None:
    where = text(LIST_SET, elements.set)
    spec = known.get(elements.set)
    concern = f"set {elements.set}"
    if spec is None:
        raise refused_by(out.table, errno.ENOENT, concern)
    try:
        for portion in bulk_elements.lists(spec, elements, data=put):
            body = b"".join((where, struct.pack("=HH", 4 + len(portion), LIST_ELEMENTS | netlink.NESTED), portion))
            out.add(concern, NEWSETELEM if put else DELSETELEM, body, netlink.CREATE if put else 0)
    except OSError as error:
        raise KernelError.from_os(error, where=f"table {out.table}, {concern}") from error
