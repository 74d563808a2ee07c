"""A change of a table in parts, for when the kernel does not take it whole: it is too large, or some of it is refused. Pure.

    1 new sets ─▶ 2 what they hold ─▶ 3 chains ─▶ 4 elements ─▶ 5 chains and sets that go

Each part can be made by itself once those of the steps before are: nothing refers to what is not there, and what packets meet
in between is for each destination what it was or what it will be. Where elements only come, those that lead packets come last;
where they only go, first; else all of one destination are one part, and only one that is too large by itself is made key by key:
what is new, what is another, the way to it, what goes. `table.py` puts as many parts into a transaction as it holds.
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
from percale.render.nft.objects import SIZES, Chain, Edit, Elements, Field, Rule, SetShape, Verdict, joined
from percale.render.nft.table_state import cut

_TOGETHER = 2048
"""Elements of a part; it is parted further where it is refused."""
_DROP = Verdict("drop")
_ORDER: dict[Field, int] = {"ipv4_addr": 0, "ipv6_addr": 0, "inet_proto": 1, "inet_service": 2}
"""Fields that say where a packet goes, in their order in a key."""


class Refused(NamedTuple):
    """A part of a change that the kernel does not take."""

    part: Edit
    error: KernelError


TAKES_NOTHING = frozenset({errno.EPERM, errno.EBADF})
"""Refusals that are none of a part of a change."""


def make_in_parts(
    change: Edit, known: Mapping[str, SetShape], make: Callable[[Edit], None], judging: Iterable[str]
) -> list[Refused]:
    """Bring a change that cannot be made whole in as few edits as `make` takes; what it had to leave out.

    `known` are the sets of before, `judging` the maps that let nobody through whose verdict is left out. Raises KernelError.
    """
    refused: list[Refused] = []
    shapes = {**known, **{shape.name: shape for shape in change.put_sets}}

    def bring(parts: Sequence[Edit]) -> None:
        try:
            make(merged(parts))
        except KernelError as error:
            if error.errno in TAKES_NOTHING:
                raise
            if len(parts) > 1:
                middle = len(parts) // 2
                bring(parts[:middle])
                bring(parts[middle:])
            elif len(finer := _by_destination(parts[0].remove, parts[0].put, shapes)) > 1 or (
                error.errno == errno.EMSGSIZE and len(finer := _by_key(parts[0], shapes)) > 1
            ):
                bring(finer)
            else:
                refused.append(Refused(parts[0], error))
                with suppress(KernelError):
                    make(closed(parts[0], judging))

    for step in steps(change, known):
        if step:
            bring(step)
    return refused


def merged(parts: Iterable[Edit]) -> Edit:
    """Parts in their order as one edit."""
    each = list(parts)
    return Edit(
        put_sets=tuple(chained.from_iterable(part.put_sets for part in each)),
        remove=tuple(joined(chained.from_iterable(part.remove for part in each))),
        put_chains=tuple(chained.from_iterable(part.put_chains for part in each)),
        put=tuple(joined(chained.from_iterable(part.put for part in each))),
        remove_chains=tuple(chained.from_iterable(part.remove_chains for part in each)),
        remove_sets=tuple(chained.from_iterable(part.remove_sets for part in each)),
    )


def steps(edit: Edit, known: Mapping[str, SetShape]) -> Iterator[list[Edit]]:
    """The edit's parts, step by step; `known` are the sets of before."""
    anew = {shape.name for shape in edit.put_sets} & set(edit.remove_sets)
    new = {shape.name: shape for shape in edit.put_sets if shape.name not in anew}
    shapes = {**known, **{shape.name: shape for shape in edit.put_sets}}
    fills = [each for each in edit.put if each.set in new and each.verdict is None]
    put = [each for each in edit.put if each.set not in anew and not (each.set in new and each.verdict is None)]
    remove = [each for each in edit.remove if each.set not in anew]
    yield [Edit(put_sets=(shape,)) for shape in new.values()]
    yield [Edit(put=(some,)) for each in fills for some in _portions(each, new[each.set], _TOGETHER)]
    yield _chains(edit, anew)
    if put and remove:
        yield _by_destination(remove, put, shapes)
    else:
        for leading in (False, True):
            some = [each for each in put if (each.verdict is not None) is leading]
            yield [Edit(put=(part,)) for each in some for part in _portions(each, shapes[each.set], _TOGETHER)]
        for leading in (True, False):
            some = [each for each in remove if (shapes[each.set].data == "verdict") is leading]
            yield [Edit(remove=(part,)) for each in some for part in _portions(each, shapes[each.set], _TOGETHER)]
    sets = tuple(name for name in edit.remove_sets if name not in anew)
    yield [Edit(remove_chains=_going(edit), remove_sets=sets)]


def _going(edit: Edit) -> tuple[str, ...]:
    """The chains that go for good."""
    put = {chain.name for chain in edit.put_chains}
    return tuple(name for name in edit.remove_chains if name not in put)


def size_of(edit: Edit, known: Mapping[str, SetShape]) -> int:
    """Bytes of its elements in a batch, about; nearly all of a large one."""
    shapes = {**known, **{shape.name: shape for shape in edit.put_sets}}
    return sum(
        len(each.keys)
        // shapes[each.set].key_size
        * row_of(shapes[each.set], data=data, verdict=each.verdict).pattern.size
        for changes, data in ((edit.put, True), (edit.remove, False))
        for each in changes
        if each.set in shapes
    )


def closed(part: Edit, judging: Iterable[str]) -> Edit:
    """Instead of a part that the kernel refuses: its chains drop everything, and so do its elements of the maps `judging`."""
    maps = frozenset(judging)
    verdicts = [each for each in part.put if each.set in maps and each.verdict is not None]
    return Edit(
        remove=tuple(each for each in part.remove if each.set in maps),
        put_chains=tuple(_dropping(chain.name) for chain in part.put_chains),
        put=tuple(replace(each, verdict=_DROP) for each in verdicts),
    )


def _dropping(name: str) -> Chain:
    return Chain(name, (Rule((), _DROP, "in place of rules that the kernel does not take"),))


def _chains(edit: Edit, anew: set[str]) -> list[Edit]:
    """Each after those that it leads to. Sets that are made anew are one part with all chains: the old ones look into them."""
    by_name = {chain.name: chain for chain in edit.put_chains}
    ordered: dict[str, Chain] = {}

    def visit(chain: Chain) -> None:
        for rule in chain.rules:
            callee = by_name.get(rule.verdict.chain or "") if rule.verdict is not None else None
            if callee is not None and callee.name not in ordered:
                visit(callee)
        ordered.setdefault(chain.name, chain)

    for chain in edit.put_chains:
        visit(chain)
    hooked = set(edit.remove_chains)
    parts = [
        Edit(put_chains=(chain,), remove_chains=(name,) if name in hooked else ()) for name, chain in ordered.items()
    ]
    if not anew:
        return parts
    again = Edit(
        put_sets=tuple(shape for shape in edit.put_sets if shape.name in anew),
        put_chains=tuple(map(_dropping, _going(edit))),
        put=tuple(each for each in edit.put if each.set in anew),
        remove_sets=tuple(anew),
    )
    return [merged([*parts, again])]


def _by_destination(remove: Sequence[Elements], put: Sequence[Elements], shapes: Mapping[str, SetShape]) -> list[Edit]:
    """A destination goes from what it was to what it will be in one part, in all sets that begin with it."""
    return _grouped(remove, put, shapes, _destination_size)


def _by_key(part: Edit, shapes: Mapping[str, SetShape]) -> list[Edit]:
    """Of one destination, so that the way to it never leads to a key that is not there."""

    def step(one: Edit) -> int:
        if any(shapes[each.set].data == "verdict" for each in (*one.remove, *one.put)):
            return 2
        return 3 if not one.put else 1 if one.remove else 0

    return sorted(_grouped(part.remove, part.put, shapes, lambda shape: shape.key_size), key=step)


def _grouped(
    remove: Sequence[Elements],
    put: Sequence[Elements],
    shapes: Mapping[str, SetShape],
    alike: Callable[[SetShape], int],
) -> list[Edit]:
    """Elements whose keys begin alike are one part."""
    leaving: defaultdict[bytes, list[Elements]] = defaultdict(list)
    coming: defaultdict[bytes, list[Elements]] = defaultdict(list)
    for changes, by_destination in ((remove, leaving), (put, coming)):
        for elements in changes:
            size = alike(shapes[elements.set])
            for each in _portions(elements, shapes[elements.set], 1):
                by_destination[each.keys[:size]].append(each)
    return [
        Edit(remove=tuple(joined(leaving[each])), put=tuple(joined(coming[each])))
        for each in dict.fromkeys((*leaving, *coming))
    ]


def _destination_size(shape: SetShape) -> int:
    """Bytes at the beginning of a key: an address, a protocol and a port, as far as it has them."""
    size, last = 0, -1
    for field in shape.key:
        if _ORDER.get(field, -1) <= last:
            break
        last = _ORDER[field]
        size += SIZES[field]
    return size


def _portions(elements: Elements, shape: SetShape, count: int) -> Iterator[Elements]:
    keys = cut(elements.keys, shape.key_size * count)
    data = cut(elements.data, shape.data_size * count) if elements.data else [b""] * len(keys)
    for some, values in zip(keys, data, strict=True):
        yield Elements(elements.set, some, values, elements.verdict)
