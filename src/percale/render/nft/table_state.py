"""What a table of ours holds as a value: transactions are applied to it as the kernel does, and `diff` makes one.

    kernel ─▶ TableState ──────┐
                               ├─ diff() ─▶ the Transaction that makes the table what it should be
    snapshot: Transaction ─────┘

`kernel/nftables/table.py` compares, `fake_table.py` holds one.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise, repeat
from typing import NamedTuple, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from percale.errors import KernelError
from percale.render.nft.objects import (
    POLICY_TABLE,
    Chain,
    Dnat,
    ElementBatch,
    InSet,
    MapUpdate,
    Rule,
    SetSpec,
    TableName,
    Transaction,
    Verdict,
)

Value: TypeAlias = bytes | Verdict | None
"""What an element's key leads to: data, a verdict, or nothing."""

Contents: TypeAlias = dict[bytes, Value]


class SetState(NamedTuple):
    """A set with its elements by key; `spec` None: of a sort that is never ours, its elements do not matter."""

    spec: SetSpec | None
    elements: Contents


class TableState(Struct, frozen=True):
    """The table but for the rules of the static text; never changed."""

    base_sets: frozenset[str] = frozenset()
    """The text's sets that transactions fill."""
    base_chains: frozenset[str] = frozenset()
    """The text's chains, which are no part of `chains`."""
    sets: Mapping[str, SetState] = field(default_factory=dict)
    chains: Mapping[str, tuple[Rule | None, ...] | None] = field(default_factory=dict)
    """Rules in order, None for one that we never write; None for a chain with another hook than ours."""
    table: TableName = POLICY_TABLE

    @classmethod
    def bare(cls, specs: Iterable[SetSpec], chains: Iterable[str] = (), table: TableName = POLICY_TABLE) -> TableState:
        """What the static text alone holds, with these sets and chains."""
        sets = {spec.name: SetState(spec, {}) for spec in specs}
        return cls(frozenset(sets), frozenset(chains), sets, table=table)

    def apply(self, transaction: Transaction) -> TableState:
        """With this transaction. Raises KernelError as the kernel would, which then changes nothing."""
        return _Draft(self).apply(transaction)


class _Draft:
    """A table in the middle of a transaction."""

    def __init__(self, state: TableState) -> None:
        self._state = state
        self._sets = dict(state.sets)
        self._chains = dict(state.chains)
        self._copied: set[str] = set()

    def apply(self, transaction: Transaction) -> TableState:
        chains, sets = set(transaction.remove_chains), set(transaction.remove_sets)
        recreated = (
            chains & {chain.name for chain in transaction.put_chains},
            sets & {spec.name for spec in transaction.put_sets},
        )
        for chain in transaction.put_chains:
            self._chains[chain.name] = ()
        for name in transaction.remove_chains:
            self._ask_for_chain(name)
            self._chains[name] = ()
        for elements in transaction.remove:
            self._remove(elements)
        for name in transaction.remove_sets:
            if name in recreated[1]:
                self._drop_set(name)
        for spec in transaction.put_sets:
            self._put_set(spec)
        for chain in transaction.put_chains:
            self._put_chain(chain)
        for elements in transaction.put:
            self._put(elements)
        for name in transaction.remove_sets:
            if name not in recreated[1]:
                self._drop_set(name)
        for name in transaction.remove_chains:
            if name not in recreated[0]:
                self._drop_chain(name)
        return replace(self._state, sets=self._sets, chains=self._chains)

    def _set(self, name: str) -> SetState:
        if name not in self._sets:
            raise refused_by(self._state.table, errno.ENOENT, f"set {name}")
        return self._sets[name]

    def _ask_for_chain(self, name: str) -> None:
        if name not in self._chains and name not in self._state.base_chains:
            raise refused_by(self._state.table, errno.ENOENT, f"chain {name}")

    def _contents(self, elements: ElementBatch) -> tuple[SetSpec, Contents]:
        """The set's elements, free to be changed."""
        spec, contents = self._set(elements.set)
        if spec is None or len(elements.packed_keys) % spec.key_size:
            raise refused_by(self._state.table, errno.EINVAL, f"set {elements.set}")
        if elements.set not in self._copied:
            self._copied.add(elements.set)
            contents = dict(contents)
            self._sets[elements.set] = SetState(spec, contents)
        return spec, contents

    def _remove(self, elements: ElementBatch) -> None:
        spec, contents = self._contents(elements)
        for key in chunks(elements.packed_keys, spec.key_size):
            if key not in contents:
                raise refused_by(self._state.table, errno.ENOENT, f"set {elements.set}")
            del contents[key]

    def _put(self, elements: ElementBatch) -> None:
        spec, contents = self._contents(elements)
        if elements.verdict is not None and elements.verdict.chain is not None:
            self._ask_for_chain(elements.verdict.chain)
        new: Contents = {}
        for keys, values in _portions(self._state.table, spec, elements):
            new.update(zip(keys, values, strict=True))
        for key in contents.keys() & new.keys():
            if contents[key] != new[key]:
                raise refused_by(self._state.table, errno.EEXIST, f"set {elements.set}")
        contents.update(new)
        if spec.interval and len(spec.key) == 1 and _overlapping(contents, spec.field_key_size):
            raise refused_by(self._state.table, errno.EEXIST, f"set {elements.set}")

    def _put_set(self, spec: SetSpec) -> None:
        known = self._sets.get(spec.name)
        if known is None:
            self._sets[spec.name] = SetState(spec, {})
        elif known.spec is None or replace(known.spec, comment=spec.comment) != spec:
            raise refused_by(self._state.table, errno.EEXIST, f"set {spec.name}")

    def _put_chain(self, chain: Chain) -> None:
        for rule in chain.rules:
            for name in _sets_of(rule):
                self._set(name)
            if rule.verdict is not None and rule.verdict.chain is not None:
                self._ask_for_chain(rule.verdict.chain)
        self._chains[chain.name] = chain.rules

    def _drop_set(self, name: str) -> None:
        self._set(name)
        if name in self._state.base_sets or any(name in _sets_of(rule) for rule in self._rules()):
            raise refused_by(self._state.table, errno.EBUSY, f"set {name}")
        del self._sets[name]
        self._copied.discard(name)

    def _drop_chain(self, name: str) -> None:
        self._ask_for_chain(name)
        if any(rule.verdict and rule.verdict.chain == name for rule in self._rules()) or name in self._led_to():
            raise refused_by(self._state.table, errno.EBUSY, f"chain {name}")
        del self._chains[name]

    def _rules(self) -> Iterator[Rule]:
        for rules in self._chains.values():
            yield from (rule for rule in rules or () if rule is not None)

    def _led_to(self) -> set[str | None]:
        """The chains that elements lead to."""
        return {
            value.chain
            for spec, contents in self._sets.values()
            if spec is None or spec.data == "verdict"
            for value in contents.values()
            if isinstance(value, Verdict)
        }


def diff(state: TableState, snapshot: Transaction, *, keep_stale: bool = False) -> Transaction:
    """What makes `state` exactly what `snapshot` makes of the static text alone; empty when it is that already.

    With `keep_stale` the elements that the snapshot does not have remain.
    """
    wanted = {name: state.sets[name].spec for name in state.base_sets} | {spec.name: spec for spec in snapshot.put_sets}
    recreated = {name for name, spec in wanted.items() if name in state.sets and state.sets[name].spec != spec}
    left = {
        name: dict(known.elements) for name, known in state.sets.items() if name in wanted and name not in recreated
    }
    missing: dict[str, Contents] = {}
    replaced: dict[str, Contents] = {}
    for elements in snapshot.put:
        old, spec = left.get(elements.set, {}), wanted.get(elements.set)
        if spec is None:
            raise refused_by(state.table, errno.ENOENT, f"set {elements.set}")
        for keys, values in _portions(state.table, spec, elements):
            found = [*map(old.pop, keys, repeat(_ABSENT))]
            if found == values:
                continue
            for key, was, value in zip(keys, found, values, strict=True):
                if was != value:
                    missing.setdefault(elements.set, {})[key] = value
                    if was != _ABSENT:
                        replaced.setdefault(elements.set, {})[key] = was
    chains = {chain.name for chain in snapshot.put_chains}
    hooked = {name for name, rules in state.chains.items() if rules is None}
    return Transaction(
        put_sets=tuple(spec for name, spec in wanted.items() if spec and (name not in state.sets or name in recreated)),
        remove=tuple(
            each
            for name, stale in left.items()
            for each in _packed(wanted[name], {**({} if keep_stale else stale), **replaced.get(name, {})})
        ),
        put_chains=tuple(
            chain
            for chain in snapshot.put_chains
            if state.chains.get(chain.name) != chain.rules
            or any(not recreated.isdisjoint(_sets_of(rule)) for rule in chain.rules)
        ),
        put=tuple(each for name, new in missing.items() for each in _packed(wanted[name], new, data=True)),
        remove_chains=tuple(sorted((state.chains.keys() - chains) | (hooked & chains))),
        remove_sets=tuple(sorted((state.sets.keys() - wanted.keys()) | recreated)),
    )


_ABSENT = Verdict("drop", "\0")
"""Equal to no element's value."""


def refused_by(table: TableName, number: int, what: str) -> KernelError:
    """The kernel's refusal of a part of a transaction."""
    return KernelError(_WORDS[number], errno=number, where=f"table {table}, {what}")


_WORDS = {
    errno.ENOENT: "No such file or directory",
    errno.EEXIST: "File exists",
    errno.EBUSY: "Device or resource busy",
    errno.EINVAL: "Invalid argument",
}


def chunks(packed: bytes, size: int) -> list[bytes]:
    """Pieces of equal size."""
    return [packed[start : start + size] for start in range(0, len(packed), size)]


def _portions(table: TableName, spec: SetSpec, elements: ElementBatch) -> Iterator[tuple[list[bytes], list[Value]]]:
    """Keys and their values, not all at once: there may be very many. Raises KernelError."""
    step, width = spec.key_size * _PORTION, spec.data_size * _PORTION
    if (spec.data == "verdict") != (elements.verdict is not None):
        raise refused_by(table, errno.EINVAL, f"set {elements.set}")
    if len(elements.data) * spec.key_size != len(elements.packed_keys) * spec.data_size:
        raise refused_by(table, errno.EINVAL, f"set {elements.set}")
    for number, start in enumerate(range(0, len(elements.packed_keys), step)):
        keys = chunks(elements.packed_keys[start : start + step], spec.key_size)
        data = elements.data[number * width : (number + 1) * width]
        yield keys, [*chunks(data, spec.data_size)] if width else [elements.verdict] * len(keys)


_PORTION = 4096


def _packed(spec: SetSpec | None, contents: Contents, *, data: bool = False) -> Iterator[ElementBatch]:
    """The elements; those of a verdict map one by one verdict, unless they go."""
    if not contents or spec is None:
        return
    if not data or not spec.data:
        yield ElementBatch(spec.name, b"".join(contents))
    elif isinstance(spec.data, tuple):
        yield ElementBatch(
            spec.name, b"".join(contents), b"".join(v for v in contents.values() if isinstance(v, bytes))
        )
    else:
        by_verdict: dict[Verdict, list[bytes]] = {}
        for key, value in contents.items():
            assert isinstance(value, Verdict)
            by_verdict.setdefault(value, []).append(key)
        for verdict, keys in by_verdict.items():
            yield ElementBatch(spec.name, b"".join(keys), verdict=verdict)


def _sets_of(rule: Rule) -> Iterator[str]:
    """The sets and maps that the rule names."""
    yield from (match.set for match in rule.matches if isinstance(match, InSet))
    yield from (statement.map for statement in rule.statements if isinstance(statement, Dnat | MapUpdate))


def _overlapping(contents: Contents, size: int) -> bool:
    """Do two of these intervals have a value in common?"""
    ordered = sorted(contents)
    return any(one[size:] >= other[:size] for one, other in pairwise(ordered))
