"""Reads a table of ours as values: the part of the static text, and the part of transactions. Called by `table.py`.

nfnetlink dumps ─┬─▶ BaseTable    the text's chains with their rules, sets, counters: compared with a fresh load of the text
                 └─▶ TableState   set specs, elements, chains of rules (`render/nft/table_state.py`)
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from msgspec import Struct

from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import attribute, attribute_list, attributes, nested, string, text
from percale.kernel.nftables import bulk_elements, rule_codec, set_codec
from percale.kernel.nftables.batch import BaseChain, BaseSet, BaseTable
from percale.kernel.nftables.event_subscriptions import SUBSYSTEM
from percale.kernel.nftables.messages import (
    CHAIN_HOOK,
    CHAIN_NAME,
    CHAIN_POLICY,
    CHAIN_TYPE,
    GETCHAIN,
    GETOBJECT,
    GETRULE,
    GETSET,
    GETSETELEM,
    GETTABLE,
    LIST_ELEMENTS,
    LIST_SET,
    OBJECT_DATA,
    OBJECT_NAME,
    OBJECT_TYPE,
    OBJECT_USERDATA,
    RULE_CHAIN,
    RULE_EXPRESSIONS,
    RULE_USERDATA,
    TABLE_FLAGS,
    TABLE_OF_ANYTHING,
    TABLE_USERDATA,
    header,
    hook_of,
    table_header,
)
from percale.render.nft.objects import POLICY_TABLE, Rule, SetSpec, TableName
from percale.render.nft.table_state import SetState, TableState, Value

_SET_HANDLE, _SET_BACKEND, _SET_COUNT = 16, 19, 20
_READINGS, _PAUSE = 20, 0.01
"""While the kernel still resizes a hash table for many new elements, in the background, a dump omits some."""
_STRANGE = b"holds what cannot be edited"


class TableDump(Struct, frozen=True):
    base: BaseTable
    state: TableState


def read_table(
    socket: netlink.Socket,
    filled: Mapping[str, SetSpec],
    expected_base: BaseTable | None = None,
    table: TableName = POLICY_TABLE,
) -> TableDump | None:
    """The table; None without one. Raises OSError.

    `filled` are the text's sets that transactions fill. The text's other parts are known from `expected_base`, which is read
    from a table loaded from the text alone, and is how they are written: for every nft.
    """
    found = _table(socket, table)
    if found is None:
        return None
    text_chains, chains = _read_chains(socket, expected_base, table)
    text_sets, sets = _read_sets(socket, filled, expected_base, table)
    base_chains = frozenset(text_chains if expected_base is None else expected_base.chains)
    return TableDump(
        BaseTable(found, text_chains, text_sets, dict(_counters(socket, table))),
        TableState(frozenset(filled), base_chains, sets, chains, table),
    )


def _read_chains(
    socket: netlink.Socket, expected_base: BaseTable | None, table: TableName
) -> tuple[dict[str, BaseChain], dict[str, tuple[Rule | None, ...] | None]]:
    """The text's chains, and all others."""
    of_text: dict[str, BaseChain] = {}
    others: dict[str, tuple[Rule | None, ...] | None] = {}
    in_chain = _rules(socket, table)
    for name, hook in _chains(socket, table):
        rules = in_chain.get(name, ())
        if expected_base is None or name in expected_base.chains:
            of_text[name] = BaseChain(hook, tuple(_canonical_rule(code, userdata) for code, userdata in rules))
        else:
            own = hook == hook_of(name)
            others[name] = tuple(rule_codec.decode(code, userdata) for code, userdata in rules) if own else None
    return of_text, others


def _read_sets(
    socket: netlink.Socket, filled: Mapping[str, SetSpec], expected_base: BaseTable | None, table: TableName
) -> tuple[dict[str, BaseSet], dict[str, SetState]]:
    """The text's sets, and those that transactions fill; anonymous sets belong to the text."""
    of_text: dict[str, BaseSet] = {}
    sets: dict[str, SetState] = {}
    for name, actual in _sets(socket, table):
        described = set_codec.for_every_nft(actual) if expected_base is None else actual
        anonymous = bool(set_codec.flags_of(described) & set_codec.ANONYMOUS)
        if name not in filled and (anonymous or expected_base is None or name in expected_base.sets):
            of_text[name] = BaseSet(
                _stable_attributes(described), tuple(sorted(_constant_elements(socket, table, name, described)))
            )
            continue
        state = sets[name] = _set_state(socket, table, name, described, filled.get(name))
        if name in filled:
            of_text[name] = BaseSet(_stable_attributes(described), (_STRANGE,) if state.spec is None else ())
    return of_text, sets


def _stable_attributes(described: Mapping[int, bytes]) -> bytes:
    """A set's attributes, without those that always differ."""
    changing = (_SET_HANDLE, _SET_BACKEND, _SET_COUNT)
    return b"".join(attribute(kind, value) for kind, value in sorted(described.items()) if kind not in changing)


def _canonical_rule(code: bytes, userdata: bytes) -> bytes:
    return attribute(RULE_EXPRESSIONS, rule_codec.canonical(code)) + (
        attribute(RULE_USERDATA, userdata) if userdata else b""
    )


def _dump(socket: netlink.Socket, kind: int, table: TableName, body: bytes | None = None) -> Iterator[dict[int, bytes]]:
    """The attributes of everything of a kind in the table."""
    for message in socket.dump(SUBSYSTEM << 8 | kind, body or header(table.family)):
        found = attributes(message.body, 4)
        if string(found.get(TABLE_OF_ANYTHING, b"")) == table.name:
            yield found


def _table(socket: netlink.Socket, table: TableName) -> bytes | None:
    """The table's own attributes."""
    for found in _dump(socket, GETTABLE, table):
        return b"".join(attribute(kind, found[kind]) for kind in (TABLE_FLAGS, TABLE_USERDATA) if kind in found)
    return None


def _chains(socket: netlink.Socket, table: TableName) -> Iterator[tuple[str, bytes]]:
    """Names and hooks; empty for chains that are reached by jump or goto."""
    for found in _dump(socket, GETCHAIN, table):
        hook = b"".join(
            attribute(kind, found[kind]) for kind in (CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE) if kind in found
        )
        yield string(found[CHAIN_NAME]), hook


def _rules(socket: netlink.Socket, table: TableName) -> dict[str, list[tuple[bytes, bytes]]]:
    """Expressions and user data in order, by chain."""
    by_chain: dict[str, list[tuple[bytes, bytes]]] = {}
    for found in _dump(socket, GETRULE, table, table_header(table)):
        code, said = found.get(RULE_EXPRESSIONS, b""), found.get(RULE_USERDATA, b"")
        by_chain.setdefault(string(found[RULE_CHAIN]), []).append((code, said))
    return by_chain


def _counters(socket: netlink.Socket, table: TableName) -> Iterator[tuple[str, bytes]]:
    """Name and attributes, without the counted values."""
    for found in _dump(socket, GETOBJECT, table, table_header(table)):
        kinds = (OBJECT_TYPE, OBJECT_USERDATA)
        constant = b"".join(attribute(kind, found[kind]) for kind in kinds if kind in found)
        yield string(found[OBJECT_NAME]), constant + nested(OBJECT_DATA)


def _sets(socket: netlink.Socket, table: TableName) -> Iterator[tuple[str, dict[int, bytes]]]:
    for found in _dump(socket, GETSET, table, table_header(table)):
        yield string(found[set_codec.SET_NAME]), found


def _portions(socket: netlink.Socket, table: TableName, name: str) -> Iterator[bytes]:
    body = table_header(table) + text(LIST_SET, name)
    for message in socket.dump(SUBSYSTEM << 8 | GETSETELEM, body):
        yield attributes(message.body, 4).get(LIST_ELEMENTS, b"")


def read_elements(socket: netlink.Socket, table: TableName, spec: SetSpec) -> Mapping[bytes, Value]:
    """A set's current elements, also of packet-filled ones. Raises OSError."""
    return bulk_elements.read(spec, _portions(socket, table, spec.name))


def _constant_elements(
    socket: netlink.Socket, table: TableName, name: str, described: Mapping[int, bytes]
) -> Iterator[bytes]:
    """The elements that the text gives a set, unless packets fill it."""
    if not set_codec.flags_of(described) & (set_codec.TIMEOUT | set_codec.DYNAMIC):
        for portion in _portions(socket, table, name):
            yield from (attribute(kind, entry) for kind, entry in attribute_list(portion))


def _set_state(
    socket: netlink.Socket, table: TableName, name: str, described: dict[int, bytes], known: SetSpec | None
) -> SetState:
    spec = set_codec.decode(name, described, known)
    if spec is None or spec.timeout is not None:
        return SetState(spec, {})
    whole = int.from_bytes(described.get(_SET_COUNT, b""), "big")
    if spec.interval and len(spec.key) == 1:
        whole = 0  # starts and ends are counted
    try:
        for _ in range(_READINGS):
            contents = bulk_elements.read(spec, _portions(socket, table, name))
            if len(contents) >= whole:
                break
            time.sleep(_PAUSE)
    except bulk_elements.CatchAllElementError:
        return SetState(None, {})
    return SetState(spec, contents)
