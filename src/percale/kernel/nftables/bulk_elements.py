"""Elements as rows of nfnetlink attributes, both ways; pure. Written for `batch.py`, read for `dump.py`.

All elements of a set look alike: the same attribute headers around keys and data of the same size. So a set's elements are
a table of bytes, a row each, of which most columns are constant. A column is a slice with the row's size as its step: one
operation for all rows, as fast as numpy's, which takes 0.1 s and 12 MiB to import. The kernel dumps the same rows, except for
intervals of one field, which are two elements: a start, and an end that is exclusive.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from msgspec import Struct

from percale.kernel.netlink.socket import attribute, attribute_list, attributes, u32_network
from percale.kernel.nftables.expressions import decode_verdict, encode_verdict
from percale.kernel.nftables.set_codec import true_size
from percale.render.nft.objects import ElementBatch, SetSpec, Verdict
from percale.render.nft.table_state import Value

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

    pattern: bytes
    key: range
    end: range | None
    data: range | None

    @property
    def size(self) -> int:
        return len(self.pattern)

    @property
    def constant(self) -> Iterator[int]:
        """The columns that are equal in all rows."""
        varying = set(chain(self.key, self.end or (), self.data or ()))
        return (column for column in range(self.size) if column not in varying)


@lru_cache(maxsize=256)
def row_of(spec: SetSpec, *, data: bool, verdict: Verdict | None = None) -> Row:
    """An element of this set; without `data` as in a deletion."""
    true = true_size(spec.key)
    parts = [attribute(_KEY, attribute(_VALUE, bytes(true)))]
    key, end, values = range(12, 12 + true), None, None
    length = 4 + len(parts[0])
    if spec.interval and len(spec.key) > 1:
        parts.append(attribute(_KEY_END, attribute(_VALUE, bytes(true))))
        end = range(length + 8, length + 8 + true)
        length += len(parts[-1])
    if data and isinstance(spec.data, tuple):
        true = true_size(spec.data)
        parts.append(attribute(_DATA, attribute(_VALUE, bytes(true))))
        values = range(length + 8, length + 8 + true)
    elif data and verdict is not None:
        parts.append(attribute(_DATA, encode_verdict(verdict)))
    entry = attribute(_LIST_ELEMENT, b"".join(parts))
    if spec.interval and len(spec.key) == 1:
        beyond = len(entry) + 12
        end = range(beyond, beyond + len(key))
        closing = attribute(_KEY, attribute(_VALUE, bytes(len(key))))
        entry += attribute(_LIST_ELEMENT, closing + u32_network(_FLAGS, _INTERVAL_END))
    return Row(entry, key, end, values)


# Writing


def lists(spec: SetSpec, elements: ElementBatch, *, data: bool) -> Iterator[bytes]:
    """The elements as list entries, in portions that fit an attribute. Raises OSError when they do not fit the set."""
    _check(spec, elements, data=data)
    if not elements.packed_keys:
        return
    row = row_of(spec, data=data, verdict=elements.verdict)
    keys = elements.packed_keys
    count = len(keys) // spec.key_size
    rows = bytearray(row.pattern * count)
    _copy_columns(keys, spec.key_size, range(len(row.key)), rows, row.size, row.key)
    if row.data is not None:
        _copy_columns(elements.data, spec.data_size, range(len(row.data)), rows, row.size, row.data)
    if row.end is not None:
        last = range(spec.field_key_size, spec.field_key_size + len(row.end))
        if len(spec.key) == 1:
            beyond, open_ends = _following(_cut(keys, spec.key_size, last))
            _copy_columns(beyond, len(last), range(len(last)), rows, row.size, row.end)
            # An interval up to the very last value has no end element. A set has at most one.
            for number in open_ends:
                start = number * row.size
                yield bytes(rows[start : start + row.end.start - 12])
                del rows[start : start + row.size]
        else:
            _copy_columns(keys, spec.key_size, last, rows, row.size, row.end)
    portion = MOST_BYTES // row.size * row.size
    for first in range(0, len(rows), portion):
        yield bytes(rows[first : first + portion])


def _copy_columns(  # noqa: PLR0917
    source: bytes | bytearray, width: int, columns: range, target: bytearray, target_width: int, target_columns: range
) -> None:
    for column, target_column in zip(columns, target_columns, strict=True):
        target[target_column::target_width] = source[column::width]


def _check(spec: SetSpec, elements: ElementBatch, *, data: bool) -> None:
    count, rest = divmod(len(elements.packed_keys), spec.key_size)
    fits = not rest
    if data:
        fits &= len(elements.data) == count * spec.data_size and (spec.data == "verdict") == (
            elements.verdict is not None
        )
    if not fits:
        raise OSError(errno.EINVAL, "the elements do not fit the set")


def _following(values: Iterable[bytes]) -> tuple[bytes, list[int]]:
    """Each big-endian number plus one, and which of them, from the last on, were the largest there are."""
    following = bytearray()
    largest = []
    for number, value in enumerate(values):
        if value == b"\xff" * len(value):
            largest.append(number)
            following += value
        else:
            following += (int.from_bytes(value, "big") + 1).to_bytes(len(value), "big")
    return bytes(following), largest[::-1]


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
    count, rest = divmod(len(portion), row.size)
    if rest or any(portion[column :: row.size] != row.pattern[column : column + 1] * count for column in row.constant):
        return False
    keys = bytearray(count * spec.key_size)
    _copy_columns(portion, row.size, row.key, keys, spec.key_size, range(len(row.key)))
    if row.end is not None:
        last = range(spec.field_key_size, spec.field_key_size + len(row.end))
        _copy_columns(portion, row.size, row.end, keys, spec.key_size, last)
    found_keys = _cut(bytes(keys), spec.key_size)
    if row.data is None:
        found.update(dict.fromkeys(found_keys))
        return True
    values = bytearray(count * spec.data_size)
    _copy_columns(portion, row.size, row.data, values, spec.data_size, range(len(row.data)))
    found.update(zip(found_keys, _cut(bytes(values), spec.data_size), strict=True))
    return True


def _cut(rows: bytes, width: int, columns: range | None = None) -> list[bytes]:
    """Each row's bytes, those of `columns` if not all."""
    part = columns or range(width)
    return [rows[start + part.start : start + part.stop] for start in range(0, len(rows), width)]


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
