"""Splits a transaction that the kernel rejects as a whole: it is too large, or some of it is invalid. Pure.

    1 new sets ─▶ 2 their elements ─▶ 3 chains ─▶ 4 elements ─▶ 5 chains and sets to delete

Each part can be applied once the earlier steps are: nothing refers to what does not exist, and for each destination packets
meet either the old or the new state. Where elements are only added, those with verdicts are added last; where they are only
deleted, first; else all of one destination form one part, and only one that is too large by itself is applied key by key: new
keys, changed ones, the verdict that leads to them, deleted ones. `table.py` puts as many parts into a transaction as fit.
"""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain as chained
from typing import NamedTuple

from msgspec.structs import replace

from percale.errors import KernelError
from percale.kernel.nftables.bulk_elements import row_of
from percale.render.nft.objects import (
    INPUT_CHAIN,
    SIZES,
    Chain,
    ElementBatch,
    Field,
    Rule,
    SetSpec,
    Transaction,
    Verdict,
    joined,
)
from percale.render.nft.table_state import chunks

_TOGETHER = 2048
"""Elements of a part, which is split further where it is rejected."""
_DROP = Verdict("drop")
_ORDER: dict[Field, int] = {"ipv4_addr": 0, "ipv6_addr": 0, "inet_proto": 1, "inet_service": 2}
"""Fields of a packet's destination, in their order in a key."""


class Refused(NamedTuple):
    """A part of a transaction that the kernel rejects."""

    part: Transaction
    error: KernelError


TAKES_NOTHING = frozenset({errno.EPERM, errno.EBADF})
"""Errors that do not depend on the transaction's content."""


def apply_in_portions(
    change: Transaction, known: Mapping[str, SetSpec], apply: Callable[[Transaction], None], class_maps: Iterable[str]
) -> list[Refused]:
    """Apply a transaction that fails as a whole in as few parts as `apply` accepts; returns what was left out.

    `known` are the existing sets; in the maps `class_maps` an element that is left out drops instead. Raises KernelError.
    """
    refused: list[Refused] = []
    specs = {**known, **{spec.name: spec for spec in change.put_sets}}

    def apply_parts(parts: Sequence[Transaction]) -> None:
        try:
            apply(merged(parts))
        except KernelError as error:
            if error.errno in TAKES_NOTHING:
                raise
            if len(parts) > 1:
                middle = len(parts) // 2
                apply_parts(parts[:middle])
                apply_parts(parts[middle:])
            elif len(finer := _by_destination(parts[0].remove, parts[0].put, specs)) > 1 or (
                error.errno == errno.EMSGSIZE and len(finer := _by_key(parts[0], specs)) > 1
            ):
                apply_parts(finer)
            else:
                refused.append(Refused(parts[0], error))
                with suppress(KernelError):
                    apply(closed(parts[0], class_maps))

    for step in steps(change, known):
        if step:
            apply_parts(step)
    return refused


def merged(parts: Iterable[Transaction]) -> Transaction:
    """Parts in their order as one transaction."""
    each = list(parts)
    return Transaction(
        put_sets=tuple(chained.from_iterable(part.put_sets for part in each)),
        remove=tuple(joined(chained.from_iterable(part.remove for part in each))),
        put_chains=tuple(chained.from_iterable(part.put_chains for part in each)),
        put=tuple(joined(chained.from_iterable(part.put for part in each))),
        remove_chains=tuple(chained.from_iterable(part.remove_chains for part in each)),
        remove_sets=tuple(chained.from_iterable(part.remove_sets for part in each)),
    )


def steps(transaction: Transaction, known: Mapping[str, SetSpec]) -> Iterator[list[Transaction]]:
    """The transaction's parts, step by step; `known` are the existing sets."""
    recreated = {spec.name for spec in transaction.put_sets} & set(transaction.remove_sets)
    new = {spec.name: spec for spec in transaction.put_sets if spec.name not in recreated}
    specs = {**known, **{spec.name: spec for spec in transaction.put_sets}}
    fills = [each for each in transaction.put if each.set in new and each.verdict is None]
    put = [
        each for each in transaction.put if each.set not in recreated and not (each.set in new and each.verdict is None)
    ]
    remove = [each for each in transaction.remove if each.set not in recreated]
    yield [Transaction(put_sets=(spec,)) for spec in new.values()]
    yield [Transaction(put=(some,)) for each in fills for some in _portions(each, new[each.set], _TOGETHER)]
    yield _chains(transaction, recreated)
    if put and remove:
        yield _by_destination(remove, put, specs)
    else:
        for leading in (False, True):
            some = [each for each in put if (each.verdict is not None) is leading]
            yield [Transaction(put=(part,)) for each in some for part in _portions(each, specs[each.set], _TOGETHER)]
        for leading in (True, False):
            some = [each for each in remove if (specs[each.set].data == "verdict") is leading]
            yield [Transaction(remove=(part,)) for each in some for part in _portions(each, specs[each.set], _TOGETHER)]
    sets = tuple(name for name in transaction.remove_sets if name not in recreated)
    yield [Transaction(remove_chains=_going(transaction), remove_sets=sets)]


def _going(transaction: Transaction) -> tuple[str, ...]:
    """The chains to delete for good."""
    put = {chain.name for chain in transaction.put_chains}
    return tuple(name for name in transaction.remove_chains if name not in put)


def size_of(transaction: Transaction, known: Mapping[str, SetSpec]) -> int:
    """Bytes of its elements in a batch, approximately; nearly all of a large one."""
    specs = {**known, **{spec.name: spec for spec in transaction.put_sets}}
    return sum(
        len(each.packed_keys)
        // specs[each.set].key_size
        * row_of(specs[each.set], data=data, verdict=each.verdict).size
        for changes, data in ((transaction.put, True), (transaction.remove, False))
        for each in changes
        if each.set in specs
    )


def closed(part: Transaction, class_maps: Iterable[str]) -> Transaction:
    """The replacement of a rejected part: its chains drop everything, and so do its elements of the maps `class_maps`."""
    maps = frozenset(class_maps)
    verdicts = [each for each in part.put if each.set in maps and each.verdict is not None]
    return Transaction(
        remove=tuple(each for each in part.remove if each.set in maps),
        put_chains=tuple(_dropping(chain.name for chain in part.put_chains)),
        put=tuple(replace(each, verdict=_DROP) for each in verdicts),
    )


def _dropping(names: Iterable[str]) -> Iterator[Chain]:
    """All but the one that every packet to the node itself passes."""
    rule = Rule((), _DROP, "in place of rules that the kernel does not take")
    return (Chain(name, (rule,)) for name in names if name != INPUT_CHAIN)


def _chains(transaction: Transaction, recreated: set[str]) -> list[Transaction]:
    """Each after its callees. Recreated sets are one part with all chains, for the old chains refer to them."""
    by_name = {chain.name: chain for chain in transaction.put_chains}
    ordered: dict[str, Chain] = {}

    def visit(chain: Chain) -> None:
        for rule in chain.rules:
            callee = by_name.get(rule.verdict.chain or "") if rule.verdict is not None else None
            if callee is not None and callee.name not in ordered:
                visit(callee)
        ordered.setdefault(chain.name, chain)

    for chain in transaction.put_chains:
        visit(chain)
    hooked = set(transaction.remove_chains)
    parts = [
        Transaction(put_chains=(chain,), remove_chains=(name,) if name in hooked else ())
        for name, chain in ordered.items()
    ]
    if not recreated:
        return parts
    again = Transaction(
        put_sets=tuple(spec for spec in transaction.put_sets if spec.name in recreated),
        put_chains=tuple(_dropping(_going(transaction))),
        put=tuple(each for each in transaction.put if each.set in recreated),
        remove_sets=tuple(recreated),
    )
    return [merged([*parts, again])]


def _by_destination(
    remove: Sequence[ElementBatch], put: Sequence[ElementBatch], specs: Mapping[str, SetSpec]
) -> list[Transaction]:
    """One part per destination, with all sets whose keys begin with it, so that it changes at once."""
    return _grouped(remove, put, specs, _destination_size)


def _by_key(part: Transaction, specs: Mapping[str, SetSpec]) -> list[Transaction]:
    """Of one destination, ordered so that its verdict never leads to a missing key."""

    def step(one: Transaction) -> int:
        if any(specs[each.set].data == "verdict" for each in (*one.remove, *one.put)):
            return 2
        return 3 if not one.put else 1 if one.remove else 0

    return sorted(_grouped(part.remove, part.put, specs, lambda spec: spec.key_size), key=step)


def _grouped(
    remove: Sequence[ElementBatch],
    put: Sequence[ElementBatch],
    specs: Mapping[str, SetSpec],
    alike: Callable[[SetSpec], int],
) -> list[Transaction]:
    """ElementBatch whose keys begin alike are one part."""
    leaving: defaultdict[bytes, list[ElementBatch]] = defaultdict(list)
    coming: defaultdict[bytes, list[ElementBatch]] = defaultdict(list)
    for changes, by_destination in ((remove, leaving), (put, coming)):
        for elements in changes:
            size = alike(specs[elements.set])
            for each in _portions(elements, specs[elements.set], 1):
                by_destination[each.packed_keys[:size]].append(each)
    return [
        Transaction(remove=tuple(joined(leaving[each])), put=tuple(joined(coming[each])))
        for each in dict.fromkeys((*leaving, *coming))
    ]


def _destination_size(spec: SetSpec) -> int:
    """Bytes at the beginning of a key: an address, a protocol and a port, as far as it has them."""
    size, last = 0, -1
    for field in spec.key:
        if _ORDER.get(field, -1) <= last:
            break
        last = _ORDER[field]
        size += SIZES[field]
    return size


def _portions(elements: ElementBatch, spec: SetSpec, count: int) -> Iterator[ElementBatch]:
    keys = chunks(elements.packed_keys, spec.key_size * count)
    data = chunks(elements.data, spec.data_size * count) if elements.data else [b""] * len(keys)
    for some, values in zip(keys, data, strict=True):
        yield ElementBatch(elements.set, some, values, elements.verdict)
