"""The strategy `mh`: a table of slots in which the loss of an endpoint moves hardly any client but its own. See `strategies`.

A slot belongs to the endpoint that draws the highest number for it (rendezvous hashing), but no endpoint takes many more than
its share: then the slot goes to the next one. Maglev's own table of that size moves 7 % more than it must; this one 3 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import shake_128
from heapq import heappush, heappushpop

from percale.service.endpoint_selection import Record

SLOTS = 1021
_SPARE = 8
"""Slots that an endpoint may have above an equal share: fewer, and one loss moves more of the others; more, and loads differ."""


def consistent_slots(records: Sequence[Record]) -> tuple[Record, ...]:
    """The endpoint of each slot: the same on every node and in every run."""
    return _slots(tuple(records))


@lru_cache(maxsize=64)
def _slots(records: tuple[Record, ...]) -> tuple[Record, ...]:
    """Kept, for a Service that changes has most of its ports as they were."""
    import numpy as np  # noqa: PLC0415 -- 70 ms, and most have no such service

    if not records:
        return ()
    most = -(-SLOTS // len(records)) + _SPARE
    drawn = b"".join(shake_128(record).digest(4 * SLOTS) for record in records)
    numbers = np.frombuffer(drawn, ">u4").reshape(len(records), SLOTS).astype(np.uint64)
    # With the endpoint in the low half, so that no two are equal; a row for each slot.
    draws = np.ascontiguousarray((numbers << 32 | np.arange(len(records), dtype=np.uint64)[:, None]).T)
    held: list[list[tuple[int, int]]] = [[] for _ in records]
    pending = list(enumerate(draws.max(axis=1).tolist()))
    while pending:
        slot, draw = pending.pop()
        holder = held[draw & 0xFFFF_FFFF]
        if len(holder) < most:
            heappush(holder, (draw, slot))
        else:
            refused, slot = heappushpop(holder, (draw, slot))
            others = draws[slot]
            pending.append((slot, int(others[others < refused].max())))
    owners = {slot: record for record, slots in zip(records, held, strict=True) for _, slot in slots}
    return tuple(owners[slot] for slot in range(SLOTS))
