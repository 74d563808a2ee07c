"""The watched objects of one kind, encoded; what changes between two states of a server becomes events.

    the last state, from disk ─▶ restore ─┐
    all that the server lists ─▶ replace ─┼─▶ entries ─▶ Upserted, Deleted
    what its watch tells ─▶ put, remove ──┘      └─────▶ ObjectLog

Used by the stores that are servers. A kind may be a projection of another one: a SubnetLease of a Node.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple, TypeAlias

import msgspec

from percale.errors import StoreError
from percale.model.meta import Object, ObjectKey
from percale.store.encoded_object import EncodedObject, LazyObjects, encode
from percale.store.object_log import ObjectLog
from percale.store.protocol import Deleted, ReadProblem, Upserted

Projection: TypeAlias = Callable[[Object], Object | None]
"""None: this object has none."""
Change: TypeAlias = tuple[type[Upserted | Deleted], EncodedObject]
"""An event that is not decoded: before the Snapshot, nobody reads it."""

CONFIRM_AFTER = 60.0
"""Seconds until a list may confirm the deletions of an earlier one."""
_FEW = 1
"""Deletions that are never too many for one list."""


def list_source(kind: type[Object]) -> str:
    """Of the problem that a list lacks many objects of this kind."""
    return f"list of {kind.PLURAL}"


class _Missing(NamedTuple):
    """An object that a list lacks, and that stays until another one lacks it too."""

    source: ObjectKey
    since: float


class KindCache:
    """By the key of the server's object."""

    def __init__(
        self,
        kind: type[Object],
        project: Projection | None = None,
        *,
        log: ObjectLog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.kind = kind
        self._loaded = False
        """Whether the entries were read from disk, and no list has confirmed them."""
        self._project = project
        self._log = log
        self._clock = clock
        self._entries: dict[ObjectKey, EncodedObject] = {}
        self._missing: dict[ObjectKey, _Missing] = {}
        """By the key of the object."""
        self._missing_told = False

    def __contains__(self, source: ObjectKey) -> bool:
        return source in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def objects(self) -> LazyObjects:
        """In the order of their keys."""
        return LazyObjects(sorted(self._entries.values(), key=_order))

    @property
    def confirm_in(self) -> float | None:
        """Seconds until that list, None without such objects."""
        since = max((each.since for each in self._missing.values()), default=None)
        return None if since is None else max(0.0, since + CONFIRM_AFTER - self._clock())

    def report_missing(self) -> Iterator[ReadProblem]:
        """What the last list lacked and stays, or that this is over."""
        plural, stay = self.kind.PLURAL, len(self._missing)
        if not stay and not self._missing_told:
            return
        self._missing_told = bool(stay)
        error = StoreError(
            f"the store lists {len(self._entries) - stay} of {len(self._entries)} {plural}: "
            f"the others stay until it does so again, in {CONFIRM_AFTER:g} s",
            hint="if it was restored without its objects, stop it",
        )
        yield ReadProblem(list_source(self.kind), error if stay else None, complete=True)

    def entry_of(self, obj: Object) -> EncodedObject | None:
        """What this cache keeps of an object of the server."""
        if self._project is None:
            return encode(obj, obj.metadata.resourceVersion).compressed()
        projected = self._project(obj)
        return encode(projected) if projected is not None else None

    def load(self) -> None:
        """The last state, if there is one. In the thread of the log."""
        loaded = self._log.load() if self._log is not None else None
        if loaded is not None:
            self._entries, self._loaded = loaded, True

    def restore(self) -> bool:
        """Whether the entries are the whole last state: what is missing may be a policy. In the thread of the log."""
        return self._loaded and all(map(_is_readable, list(self._entries.values())))

    def put(self, source: ObjectKey, new: EncodedObject | None) -> Iterator[Change]:
        """One object was created or changed. Equal content is no event: Nodes change with every heartbeat."""
        if new is None:
            yield from self.remove(source)
            return
        old = self._entries.get(source)
        missing = self._missing.pop(new.key, None)
        if missing is not None and missing.source != source:
            old = self._entries.pop(missing.source)  # another object is projected to the same one now
            self._record(missing.source, None)
        self._entries[source] = new
        if old is None or old.packed != new.packed:
            self._record(source, new)
        if old is not None and old.key != new.key:
            yield Deleted, old
            old = None
        if old is None or old.packed != new.packed:
            yield Upserted, new

    def remove(self, source: ObjectKey) -> Iterator[Change]:
        """One object was deleted, or is projected to none any more."""
        old = self._entries.pop(source, None)
        if old is not None:
            self._missing.pop(old.key, None)
            self._record(source, None)
            yield Deleted, old

    def replace(self, current: Mapping[ObjectKey, EncodedObject | None]) -> Iterator[Change]:
        """All objects were listed again: the differences. Too many deletions wait for another list."""
        if self._log is not None:
            self._log.follow(self._entries)
        for source in self._settled([each for each in self._entries if current.get(each) is None]):
            yield from self.remove(source)
        self._loaded = False
        for source, new in current.items():
            if new is not None:
                yield from self.put(source, new)

    def keep(self, source: ObjectKey) -> EncodedObject | None:
        """The last valid state of an object that is invalid now."""
        entry = self._entries.get(source)
        return None if entry is None or (self._loaded and not _is_readable(entry)) else entry

    def _settled(self, gone: Collection[ObjectKey]) -> Collection[ObjectKey]:
        """Those that a list lacks and that are to be deleted now. A server that was restored from nothing lists nothing."""
        now = self._clock()
        waiting = {each.source: each for each in self._missing.values()}
        self._missing = {}
        if len(gone) <= _FEW or 2 * len(gone) <= len(self._entries):
            return gone
        settled = []
        for source in gone:
            entry = self._entries[source]
            missing = waiting.get(source, _Missing(source, now))
            if now - missing.since >= CONFIRM_AFTER or (self._loaded and not _is_readable(entry)):
                settled.append(source)
            else:
                self._missing[entry.key] = missing
        return settled

    def _record(self, source: ObjectKey, entry: EncodedObject | None) -> None:
        if self._log is not None:
            self._log.record(source, entry)


def _is_readable(entry: EncodedObject) -> bool:
    """Another version of Percale may have written it, or somebody else."""
    try:
        return entry.object.key == entry.key
    except (msgspec.MsgspecError, ValueError, RecursionError, zlib.error):
        return False


def _order(entry: EncodedObject) -> ObjectKey:
    return entry.key
