"""The objects of one kind in a file: a base, written as a whole, and what has changed since, appended. Used by `last_state.py`.

When most of the file is outdated it is written anew. Each record has its length and checksum: of what was appended, a last
record that is not whole is left out; any other damage, another format or another store makes the file count as absent.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec
from msgspec import Struct

from percale.atomic_file import replace_file
from percale.model.meta import Object, ObjectKey
from percale.store.encoded_object import EncodedObject

_FORMAT = 1
_OUTDATED = 1000
"""Records more than twice the objects, and the file is written anew."""
_LARGEST = 512 << 20
"""Bytes: 500,000 pods."""
_FRAME = struct.Struct("<II")
"""Length and CRC-32 of the record that follows."""

Entry: TypeAlias = tuple[ObjectKey, EncodedObject | None]
"""By the key of the server's object; None: it is gone."""


class _Header(Struct, frozen=True, array_like=True):
    format: int
    kind: str
    store: bytes
    """A digest of its address."""
    objects: int
    """Records of the base, which follow."""


class _Record(Struct, frozen=True, array_like=True):
    """`packed` None: the object is gone. `key` only where it is not the source's."""

    source: tuple[str | None, str]
    packed: bytes | None
    assigned: str | None = None
    key: tuple[str | None, str] | None = None


_HEADERS = msgspec.msgpack.Decoder(_Header)
_RECORDS = msgspec.msgpack.Decoder(_Record)
_ENCODER = msgspec.msgpack.Encoder()


class _Damaged(Exception):
    """Not a file that can be used."""


class ObjectLog:
    """`load` and `write` run in a thread, one at a time; everything else on the event loop."""

    def __init__(self, path: Path, kind: type[Object], store: bytes, schedule: Callable[[ObjectLog], None]) -> None:
        """`schedule` is called when there is something to write: then `take`, and `write` in the thread."""
        self.path = path
        self._kind = kind
        self._store = store
        self._schedule = schedule
        self._objects: Mapping[ObjectKey, EncodedObject] = {}
        self._pending: dict[ObjectKey, EncodedObject | None] = {}
        self._records = 0
        self._whole = True
        """Nothing can be appended: the file is not ours yet, its end is damaged, or a write has failed."""

    def load(self) -> dict[ObjectKey, EncodedObject] | None:
        """What the file says; None if it cannot be used."""
        try:
            return self._decoded(_read(self.path))
        except (OSError, _Damaged, msgspec.MsgspecError):
            return None

    def follow(self, objects: Mapping[ObjectKey, EncodedObject]) -> None:
        """What is recorded from now on are changes of `objects`, which is all there is."""
        self._objects = objects
        if self._whole:
            self._schedule(self)

    def record(self, source: ObjectKey, entry: EncodedObject | None) -> None:
        """Returns at once."""
        self._pending[source] = entry
        self._schedule(self)

    def take(self) -> tuple[bool, list[Entry]]:
        """Whether the file is to be written anew, and what is to be written."""
        pending, self._pending = self._pending, {}
        whole = self._whole or self._records + len(pending) > 2 * len(self._objects) + _OUTDATED
        return whole, list(self._objects.items()) if whole else list(pending.items())

    def write(self, entries: list[Entry], *, whole: bool) -> None:
        """Raises OSError; the next time all of it is written then."""
        self._whole = True
        if whole:
            header = _Header(_FORMAT, self._kind.KIND, self._store, len(entries))
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            parts = (_framed(header), *map(_record, entries))
            replace_file(self.path, parts, mode=0o600, draft=self.path.with_name(f".{self.path.name}"), durable=True)
            self._records = len(entries)
        else:
            _append(self.path, b"".join(map(_record, entries)))
            self._records += len(entries)
        self._whole = False

    def _decoded(self, content: bytes) -> dict[ObjectKey, EncodedObject]:
        """Raises _Damaged, MsgspecError."""
        frames = _frames(content)
        first = next(frames, b"")
        header = _HEADERS.decode(first)
        if (header.format, header.kind, header.store) != (_FORMAT, self._kind.KIND, self._store):
            raise _Damaged
        objects: dict[ObjectKey, EncodedObject] = {}
        count, size = 0, _FRAME.size + len(first)
        for frame in frames:
            count, size = count + 1, size + _FRAME.size + len(frame)
            record = _RECORDS.decode(frame)
            source = ObjectKey(*record.source)
            if record.packed is None:
                objects.pop(source, None)
            else:
                key = source if record.key is None else ObjectKey(*record.key)
                objects[source] = EncodedObject(self._kind, key, record.packed, record.assigned)
        if count < header.objects:
            raise _Damaged
        self._records, self._whole = count, size < len(content)
        return objects


def _framed(value: Struct) -> bytes:
    data = _ENCODER.encode(value)
    return _FRAME.pack(len(data), zlib.crc32(data)) + data


def _record(entry: Entry) -> bytes:
    source, found = entry
    if found is None:
        return _framed(_Record(source, None))
    return _framed(_Record(source, found.packed, found.assigned, None if found.key == source else found.key))


def _frames(content: bytes) -> Iterator[bytes]:
    """Each record, to the first that is not whole. Raises _Damaged for one that is whole and has changed."""
    position = 0
    while position + _FRAME.size <= len(content):
        size, checksum = _FRAME.unpack_from(content, position)
        position += _FRAME.size
        data = content[position : position + size]
        if len(data) < size:
            return
        if zlib.crc32(data) != checksum:
            raise _Damaged
        yield data
        position += size


def _read(path: Path) -> bytes:
    """Raises OSError, _Damaged."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(file, "rb") as opened:
        found = os.fstat(file)
        ours = stat.S_ISREG(found.st_mode) and found.st_uid in (0, os.geteuid()) and not found.st_mode & 0o022
        if not ours or found.st_size > _LARGEST:
            raise _Damaged
        return opened.read(_LARGEST)


def _append(path: Path, data: bytes) -> None:
    """Raises OSError."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(file, "wb") as opened:
        opened.write(data)
