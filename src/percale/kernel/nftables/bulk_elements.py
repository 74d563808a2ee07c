"""Elements as rows of nfnetlink attributes, both ways, by numpy; pure. Written for `batch.py`, read for `dump.py`.

All elements of a set look alike: the same attribute headers around keys and data of the same size. So a set's elements are
one array, a row each, of which most columns are constant. The kernel dumps the same rows, except for intervals of one field,
which are two elements: a start, and an end that is exclusive.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from percale.kernel.netlink.socket import attribute, attribute_list, attributes, u32_network
from percale.kernel.nftables.expressions import decode_verdict, encode_verdict
from percale.kernel.nftables.set_codec import true_size
from percale.render.nft.objects import ElementBatch, SetSpec, Verdict
from percale.render.nft.table_state import Value

Rows = npt.NDArray[np.uint8]

_LIST_ELEMENT = 1
_KEY, _DATA, _FLAGS, _KEY_END = 1, 2, 3, 10
_VALUE = 1
_INTERVAL_END, _CATCH_ALL = 0x1, 0x2

MOST_BYTES = 60_000
"""Of one list of elements: an attribute's length has 16 bits."""


class CatchAllElementError(ValueError):
    """The set has a catch-all element, which ours never have."""


class Row(Struct, frozen=True):
    """One element: its bytes, and which of them are the key's, its end's and the data's."""

    pattern: Rows
    key: slice
    end: slice | None
    data: slice | None

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """The columns that are equal in all rows."""
        mask = np.ones(self.pattern.size, dtype=bool)
        for part in (self.key, self.end, self.data):
            if part is not None:
                mask[part] = False
        return mask


@lru_cache(maxsize=256)
def row_of(spec: SetSpec, *, data: bool, verdict: Verdict | None = None) -> Row:
    """An element of this set; without `data` as in a deletion."""
    true = true_size(spec.key)
    parts = [attribute(_KEY, attribute(_VALUE, bytes(true)))]
    key, end, values = slice(12, 12 + true), None, None
    length = 4 + len(parts[0])
    if spec.interval and len(spec.key) > 1:
        parts.append(attribute(_KEY_END, attribute(_VALUE, bytes(true))))
        end = slice(length + 8, length + 8 + true)
        length += len(parts[-1])
    if data and isinstance(spec.data, tuple):
        true = true_size(spec.data)
        parts.append(attribute(_DATA, attribute(_VALUE, bytes(true))))
        values = slice(length + 8, length + 8 + true)
    elif data and verdict is not None:
        parts.append(attribute(_DATA, encode_verdict(verdict)))
    entry = attribute(_LIST_ELEMENT, b"".join(parts))
    if spec.interval and len(spec.key) == 1:
        beyond = len(entry) + 12
        end = slice(beyond, beyond + key.stop - key.start)
        closing = attribute(_KEY, attribute(_VALUE, bytes(key.stop - key.start)))
        entry += attribute(_LIST_ELEMENT, closing + u32_network(_FLAGS, _INTERVAL_END))
    return Row(np.frombuffer(entry, np.uint8), key, end, values)


# Writing


def lists(spec: SetSpec, elements: ElementBatch, *, data: bool) -> Iterator[bytes]:
    """The elements as list entries, in portions that fit an attribute. Raises OSError when they do not fit the set."""
    _check(spec, elements, data=data)
    if not elements.packed_keys:
        return
    row = row_of(spec, data=data, verdict=elements.verdict)
    keys = np.frombuffer(elements.packed_keys, np.uint8).reshape(-1, spec.key_size)
    rows = np.empty((len(keys), row.pattern.size), np.uint8)
    rows[:] = row.pattern
    width = row.key.stop - row.key.start
    rows[:, row.key] = keys[:, :width]
    if row.data is not None:
        values = np.frombuffer(elements.data, np.uint8).reshape(-1, spec.data_size)
        rows[:, row.data] = values[:, : row.data.stop - row.data.start]
    open_end = None
    if row.end is not None:
        size = spec.field_key_size
        last = keys[:, size : size + width]
        if len(spec.key) == 1:
            last, open_end = _following(last)
        rows[:, row.end] = last
    if open_end is not None and open_end.any():
        # An interval up to the very last value has no end element. A set has at most one.
        assert row.end is not None
        start = row.end.start - 12
        yield from (open_row[:start].tobytes() for open_row in rows[open_end])
        rows = rows[~open_end]
    portion = MOST_BYTES // row.pattern.size
    for first in range(0, len(rows), portion):
        yield rows[first : first + portion].tobytes()


def _check(spec: SetSpec, elements: ElementBatch, *, data: bool) -> None:
    count, rest = divmod(len(elements.packed_keys), spec.key_size)
    fits = not rest
    if data:
        fits &= len(elements.data) == count * spec.data_size and (spec.data == "verdict") == (
            elements.verdict is not None
        )
    if not fits:
        raise OSError(errno.EINVAL, "the elements do not fit the set")


def _following(values: Rows) -> tuple[Rows, npt.NDArray[np.bool_]]:
    """Each big-endian number plus one, and which of them were the largest there are."""
    following = values.copy()
    carry = np.ones(len(values), dtype=bool)
    for column in range(values.shape[1] - 1, -1, -1):
        following[:, column] += carry
        carry &= following[:, column] == 0
    return following, carry


# Reading


class _Entry(NamedTuple):
    """One list entry of a dump."""

    key: bytes
    starts: bool
    end: bytes | None
    value: Value


def read(spec: SetSpec, portions: Iterable[bytes]) -> dict[bytes, Value]:
    """The set's elements from the lists of a dump. Raises CatchAllElementError."""
    found: dict[bytes, Value] = {}
    singles: list[_Entry] = []
    intervals = spec.interval and len(spec.key) == 1
    row = None if intervals or spec.data == "verdict" else row_of(spec, data=True)
    for portion in portions:
        if row is None or not _read_rows(spec, row, portion, found):
            singles += map(_entry, (entry for _, entry in attribute_list(portion)))
    if intervals:
        singles = list(_joined(singles))
    for entry in singles:
        value = _padded(entry.value, spec.data_size) if isinstance(entry.value, bytes) else entry.value
        found[_whole_key(spec, entry)] = value
    return found


def _read_rows(spec: SetSpec, row: Row, portion: bytes, found: dict[bytes, Value]) -> bool:
    """Read a portion whose rows all have our format; False when one has not."""
    if len(portion) % row.pattern.size:
        return False
    rows = np.frombuffer(portion, np.uint8).reshape(-1, row.pattern.size)
    constant = row.constant
    if (rows[:, constant] != row.pattern[constant]).any():
        return False
    keys = np.zeros((len(rows), spec.key_size), np.uint8)
    keys[:, : row.key.stop - row.key.start] = rows[:, row.key]
    if row.end is not None:
        keys[:, spec.field_key_size :] = rows[:, row.end]
    if row.data is None:
        found.update(dict.fromkeys(_cut(keys)))
        return True
    values = np.zeros((len(rows), spec.data_size), np.uint8)
    values[:, : row.data.stop - row.data.start] = rows[:, row.data]
    found.update(zip(_cut(keys), _cut(values), strict=True))
    return True


def _cut(rows: Rows) -> list[bytes]:
    """Each row's bytes."""
    width = rows.shape[1]
    every = rows.tobytes()
    return [every[start : start + width] for start in range(0, len(every), width)]


def _entry(entry: bytes) -> _Entry:
    """Raises CatchAllElementError."""
    found = attributes(entry)
    flags = int.from_bytes(found.get(_FLAGS, b""), "big")
    if flags & _CATCH_ALL or _KEY not in found:
        raise CatchAllElementError(entry)
    end = attributes(found[_KEY_END])[_VALUE] if _KEY_END in found else None
    return _Entry(attributes(found[_KEY])[_VALUE], not flags & _INTERVAL_END, end, _value(found.get(_DATA, b"")))


@lru_cache(maxsize=4096)
def _value(said: bytes) -> Value:
    """Cached, for many elements of a map share one verdict."""
    data = attributes(said)
    return data[_VALUE] if _VALUE in data else decode_verdict(data)


def _joined(entries: Iterable[_Entry]) -> Iterator[_Entry]:
    """Starts joined with their ends; of equal keys the end comes before the next start."""
    start: _Entry | None = None
    for entry in sorted(entries, key=lambda entry: (entry.key, entry.starts)):
        if start is not None:
            yield _until(start, entry.key)
        start = entry if entry.starts else None
    if start is not None:
        yield start._replace(end=b"\xff" * len(start.key))


def _until(start: _Entry, beyond: bytes) -> _Entry:
    """An interval up to the value before `beyond`."""
    return start._replace(end=(int.from_bytes(beyond, "big") - 1).to_bytes(len(beyond), "big"))


def _whole_key(spec: SetSpec, entry: _Entry) -> bytes:
    size = spec.field_key_size
    if not spec.interval:
        return _padded(entry.key, size)
    return _padded(entry.key, size) + _padded(entry.end if entry.end is not None else entry.key, size)


def _padded(value: bytes, size: int) -> bytes:
    return value.ljust(size, b"\0")
