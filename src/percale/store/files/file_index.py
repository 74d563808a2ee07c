"""Index of which file contains which object, and of the current objects. `directory.py` updates it with file contents.

file ─▶ its last valid objects ─┬─▶ the first file by path with an object wins ─▶ current objects ─▶ Upserted, Deleted
        or why it is invalid ───┼─▶ ReadProblem
        its unknown fields ─────┘
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import TypeAlias

import msgspec

from percale.errors import BadManifest, PercaleError
from percale.model.kinds import Kinds
from percale.model.meta import Object, ObjectKey
from percale.printable import printable_path
from percale.store.encoded_object import EncodedObject
from percale.store.protocol import Deleted, Event, ReadProblem, Upserted

Identity: TypeAlias = tuple[type[Object], ObjectKey]


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An object in a file, and when it expires (None: never)."""

    encoded: EncodedObject
    line: int
    expires: float | None


Content: TypeAlias = Mapping[Identity, Entry]

_NOTHING: Content = {}


class FileContent(msgspec.Struct, frozen=True):
    """The objects of a file, which count, and what is said of the fields that do not."""

    entries: Content = _NOTHING
    unknown: BadManifest | None = None


class FileIndex:
    """All files of a store. `now` is the clock of `Entry.expires`."""

    def __init__(self, kinds: Kinds, now: Callable[[], float]) -> None:
        self.kinds = kinds
        self._now = now
        self._files: dict[str, Content] = {}
        """The last valid content of each file with objects."""
        self._files_of: dict[Identity, tuple[str, ...]] = {}
        """The files that contain an object, sorted by path."""
        self._broken: dict[str, PercaleError] = {}
        self._unknown: dict[str, BadManifest] = {}
        self._problems: dict[str, PercaleError] = {}
        self._expiries: list[tuple[float, int, Identity]] = []
        """A heap of expiry times; may contain outdated ones of renewed leases."""
        self._order = count()
        self._events: list[tuple[type[Upserted | Deleted], EncodedObject] | ReadProblem] = []
        self.objects: dict[type[Object], dict[ObjectKey, EncodedObject]] = {kind: {} for kind in kinds.values()}
        """The current objects."""

    def take_events(self) -> list[Event]:
        """Changes since the last call, in order."""
        events, self._events = self._events, []
        return [each if isinstance(each, ReadProblem) else each[0](each[1].object) for each in events]

    def discard_events(self) -> None:
        """Drop the events of a first read: no watch exists yet, or any more."""
        self._events = []

    @property
    def problems(self) -> list[ReadProblem]:
        """Files that cannot be read now, or not all of them."""
        return [self._problem(path) for path in sorted(self._problems)]

    def _problem(self, path: str) -> ReadProblem:
        error = self._problems.get(path)
        return ReadProblem(printable_path(path), error, complete=error is not None and path not in self._broken)

    @property
    def next_expiry(self) -> float | None:
        """When the next entry may expire."""
        return self._expiries[0][0] if self._expiries else None

    def paths(self, below: str = "") -> Iterator[str]:
        """Files with objects, and invalid ones."""
        return (path for path in {**self._files, **self._broken} if path.startswith(below))

    def file_of(self, identity: Identity) -> str | None:
        """The file whose entry for this object is current."""
        files = self._files_of.get(identity)
        return files[0] if files else None

    def content(self, path: str) -> Content:
        """A file's last valid objects."""
        return self._files.get(path, _NOTHING)

    def knows(self, path: str) -> bool:
        """Whether the file has objects or is invalid."""
        return path in self._files or path in self._broken

    def error(self, path: str) -> PercaleError | None:
        """Why the file cannot be read."""
        return self._broken.get(path)

    def current(self, identity: Identity) -> Entry | None:
        """The current entry, unless it has expired."""
        path = self.file_of(identity)
        entry = self._files[path][identity] if path is not None else None
        expired = entry is not None and entry.expires is not None and entry.expires <= self._now()
        return None if expired else entry

    def update(self, read: Mapping[str, FileContent | PercaleError]) -> None:
        """Replace the contents of these files (empty for a deleted one), or mark them invalid."""
        touched: dict[Identity, None] = {}
        for path, found in read.items():
            self._unknown.pop(path, None)
            if isinstance(found, PercaleError):
                self._broken[path] = found
                continue
            self._broken.pop(path, None)
            if found.unknown is not None:
                self._unknown[path] = found.unknown
            content = found.entries
            before = self.content(path)
            if content:
                self._files[path] = content
            else:
                self._files.pop(path, None)
            for identity in before.keys() - content.keys():
                self._files_of[identity] = tuple(other for other in self._files_of[identity] if other != path)
            alone = (path,)  # shared, as most objects are in one file only
            for identity in content.keys() - before.keys():
                others = self._files_of.get(identity)
                self._files_of[identity] = tuple(sorted((*others, path))) if others else alone
            touched.update(dict.fromkeys((*before, *content)))
        affected = {*read}
        for identity in touched:
            affected.update(self._files_of[identity])
            self._apply(identity)
            if not self._files_of[identity]:
                del self._files_of[identity]
        for path in sorted(affected):
            self._report(path)

    def expire(self) -> list[Identity]:
        """Remove expired entries from the current objects; returns them."""
        now, due = self._now(), set()
        while self._expiries and self._expiries[0][0] <= now:
            due.add(heapq.heappop(self._expiries)[2])
        expired = [identity for identity in due if identity in self._files_of and self.current(identity) is None]
        for identity in expired:
            self._apply(identity)
        return expired

    def _apply(self, identity: Identity) -> None:
        """Update the current object from the files' entries."""
        kind, key = identity
        objects = self.objects[kind]
        entry = self.current(identity)
        if entry is None:
            if key in objects:
                self._events.append((Deleted, objects.pop(key)))
            return
        if entry.expires is not None:
            heapq.heappush(self._expiries, (entry.expires, next(self._order), identity))
        if objects.get(key) != entry.encoded:
            objects[key] = entry.encoded
            self._events.append((Upserted, entry.encoded))

    def _report(self, path: str) -> None:
        """One ReadProblem when a file becomes invalid, when its error changes, and when it is valid again."""
        error = self._broken.get(path) or self._duplicate(path) or self._unknown.get(path)
        known = self._problems.get(path)
        if error is None:
            if self._problems.pop(path, None) is not None:
                self._events.append(self._problem(path))
        elif known is None or str(known) != str(error):
            self._problems[path] = error
            self._events.append(self._problem(path))

    def _duplicate(self, path: str) -> BadManifest | None:
        """The error if an earlier file contains an object of this file."""
        for identity, entry in self.content(path).items():
            first = self._files_of[identity][0]
            if first != path:
                kind, key = identity
                return BadManifest(
                    f"{kind.KIND} {key} is in {first}:{self._files[first][identity].line} too",
                    where=f"{path}:{entry.line}",
                    hint="remove one of them; until then the other one counts",
                )
        return None
