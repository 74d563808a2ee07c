"""A directory of manifests: read, kept up to date, written. Used by `store.py`, on the store's own thread.

    InotifyWatcher ─ changed files ─▶ read ─▶ FileIndex ─▶ events
                               └─ LaterReads ─▶ ┘
    put, delete ─▶ lock ─▶ catch up ─▶ compare ─▶ write ─▶ read

Any file may contain any object, except that one of the store's own files (`KIND/NAMESPACE/NAME.json`) contains the object that
its name says. So own files are read only when their kind is listed or watched, or this one object is requested: an agent that
watches leases does not read ten thousand pods.

An agent reads large files on another thread, and what takes long of many changed ones: nobody's objects wait for another's file.
Until then a file's last content counts, and one that is not known yet is a problem.

Several processes share one directory. A writer takes the lock and catches up with the others' changes before it compares; so it
always compares with the newest version.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from percale.bounded_file import MAX_SIZE
from percale.errors import BadManifest, PercaleError, StoreError, StoreUnavailable
from percale.model.manifest.decode import decode_manifest, inspect_manifest
from percale.model.manifest.diagnostics import combined
from percale.model.manifest.encode import to_json
from percale.model.meta import Object, ObjectKey
from percale.store.encoded_object import EncodedObject, encode
from percale.store.files.edit_in_place import rewrite_object
from percale.store.files.file_index import Entry, FileContent, FileIndex, Identity
from percale.store.files.inotify import InotifyWatcher
from percale.store.files.later_reads import LaterReads
from percale.store.files.lease_expiry import BootClock, with_expiry, without_expiry
from percale.store.files.regular_file import TooLarge, read_store_file
from percale.store.files.writes import locked, own_path, remove_file, write_file, write_own_file
from percale.store.protocol import Event, ReadProblem
from percale.store.versioning import check_version, not_found, unversioned, versioned

T = TypeVar("T", bound=Object)

_LARGE = 128 << 10
"""Bytes; as YAML they take some 0.1 s."""
_PATIENCE = 0.2
"""Seconds of CPU for the files that have changed, the smallest first."""


class Directory:
    """The objects of one directory tree. Not thread-safe."""

    def __init__(self, root: Path, index: FileIndex, clock: BootClock, *, defer: bool = False) -> None:
        """`index` has what was read before the directory went away, if it did. `defer` what takes long to read."""
        self._root = root
        self._index = index
        self._kinds = index.kinds
        self._clock = clock
        self._watched_kinds: set[type[Object]] = set()
        """Kinds whose own files are all read."""
        self._expired: list[Identity] = []
        """Expired leases whose files still exist."""
        self._defer = defer
        self._watcher = InotifyWatcher(root)
        self._later = LaterReads(self._deferred_outcome, self._top)
        self._ready = select.epoll()
        for each in (self._watcher, self._later):
            self._ready.register(each.fileno(), select.EPOLLIN)
        try:
            self._read({*index.paths(), *map(self._name, self._watcher.scan())}, patience=math.inf)
        except BaseException:
            self.close()
            raise
        self._expired += index.expire()
        index.discard_events()

    def fileno(self) -> int:
        """Readable when there are changes for `catch_up`."""
        return self._ready.fileno()

    def close(self) -> None:
        self._ready.close()
        self._watcher.close()
        self._later.close()

    def take_events(self) -> list[Event]:
        """Changes since the last call, in order."""
        return self._index.take_events()

    @property
    def problems(self) -> list[ReadProblem]:
        """Files that cannot be read now, or not all of them."""
        return self._index.problems

    def seconds_until_expiry(self) -> float | None:
        """Seconds until the next lease may expire."""
        end = self._index.next_expiry
        return None if end is None else max(0.0, end - self._clock.now())

    def catch_up(self) -> None:
        """Read other processes' changes and expire leases. Raises StoreUnavailable if the root is gone."""
        changes = self._watcher.read()
        if changes.lost or not self._root.is_dir():
            raise StoreUnavailable("the directory is gone", where=str(self._root), hint="make it again")
        names = set(map(self._name, changes.files))
        if changes.overflow:
            names.update(self._index.paths(), map(self._name, self._watcher.scan()))
        for directory in map(self._name, changes.directories):
            names.update(self._index.paths(directory + "/"))
            if self._index.knows(directory):
                names.add(directory)
        if read := self._later.take():
            self._index.update(read)
        self._read(names, patience=_PATIENCE)
        self._expired += self._index.expire()

    def delete_expired(self) -> None:
        """Delete the files of expired leases; where this fails, they stay expired for all readers."""
        expired, self._expired = self._expired, []
        if not expired:
            return
        with suppress(StoreError), locked(self._root):
            self.catch_up()
            for identity in expired:
                if self._index.file_of(identity) is not None and self._index.current(identity) is None:
                    self._write(identity, None)

    def list(self, kind: type[T]) -> list[T]:
        """All objects of a kind, in the order of their keys. From now on the kind is watched."""
        return [each.object for each in self.entries(kind)]  # type: ignore[misc]

    def entries(self, kind: type[Object]) -> Iterable[EncodedObject]:
        """The same, encoded."""
        objects = self._objects(kind)
        if kind not in self._watched_kinds:
            self._watched_kinds.add(kind)
            own = map(self._name, self._watcher.scan(kind.KIND))
            self._load((name for name in own if not self._index.knows(name)), patience=math.inf)
        return [each for _, each in sorted(objects.items())]

    def get(self, kind: type[T], key: ObjectKey) -> T | None:
        """One object."""
        self._read_own_file((kind, key))
        found = self._objects(kind).get(key)
        return None if found is None else found.object  # type: ignore[return-value]

    def _read_own_file(self, identity: Identity) -> None:
        """Read the object's own file, unless its kind is watched; and what was deferred of the object's files."""
        own = self._name(own_path(*identity))
        names = {own, self._index.file_of(identity) or own}
        self._load(name for name in names if name in self._later or (name == own and not self._is_watched(own)))

    def put(self, obj: T, expect: str | None, ttl: float | None) -> T:
        """Compare and write. Raises Conflict, StoreUnavailable, BadManifest."""
        stored = versioned(obj)
        kind, key = identity = (type(stored), stored.key)
        self._objects(kind)
        with locked(self._root):
            self.catch_up()
            self._read_own_file(identity)
            entry = self._index.current(identity)
            check_version(kind, key, entry.encoded.version if entry else None, expect)
            unchanged = entry is not None and entry.encoded == encode(stored) and entry.expires is None
            if not (unchanged and ttl is None):
                bare = unversioned(stored)
                self._write(identity, bare if ttl is None else with_expiry(bare, ttl, self._clock))
        return stored

    def delete(self, kind: type[Object], key: ObjectKey, expect: str | None) -> None:
        """Compare and delete. Raises NotFound, Conflict, StoreUnavailable, BadManifest."""
        with locked(self._root):
            self.catch_up()
            current = self.get(kind, key)
            if current is None:
                raise not_found(kind, key)
            check_version(kind, key, current.metadata.resourceVersion, expect)
            self._write((kind, key), None)

    def _objects(self, kind: type[Object]) -> dict[ObjectKey, EncodedObject]:
        objects = self._index.objects.get(kind)
        if objects is None:
            raise TypeError(f"{kind.__name__} is none of this store's kinds")
        return objects

    def _read(self, names: Iterable[str], patience: float) -> None:
        """Read those of the files that are watched."""
        self._load(filter(self._is_watched, names), patience)

    def _is_watched(self, name: str) -> bool:
        kind = self._kinds.get(self._own_kind(name))
        return kind is None or kind in self._watched_kinds or self._index.knows(name)

    def _own_kind(self, name: str) -> str:
        """The kind of one of the store's own files; "" for a user's file."""
        kind, _, rest = name[len(str(self._root)) + 1 :].partition("/")
        return kind if rest.count("/") == 1 and rest.endswith(".json") else ""

    def _load(self, names: Iterable[str], patience: float | None = None) -> None:
        """Read these files; with `patience`, seconds of this thread's time, what takes longer is deferred (None: nothing is)."""
        read: dict[str, FileContent | PercaleError] = {}
        if patience is None or not self._defer:
            for name in names:
                self._later.discard(name)
                read[name] = self._outcome(name)
        else:
            end = time.thread_time() + patience
            for name in sorted(names, key=_size):
                found = self._outcome(name, _LARGE) if time.thread_time() < end else None
                if found is not None and not isinstance(found, TooLarge):
                    self._later.discard(name)
                    read[name] = found
                    continue
                self._later.put(name)
                if not self._index.knows(name):
                    read[name] = StoreUnavailable("is still being read: it is large, or one of many", where=name)
        if read:
            self._index.update(read)

    def _outcome(self, name: str, most: int = MAX_SIZE) -> FileContent | PercaleError:
        """What is in a file, or why it cannot be read."""
        try:
            return self._content(name, most)
        except PercaleError as error:
            return error

    def _deferred_outcome(self, name: str) -> FileContent | PercaleError:
        """The same on the other thread, which goes on with the next file after a bug of ours."""
        try:
            return self._outcome(name)
        except Exception as error:
            return StoreUnavailable(f"cannot be read: {error!r}", where=name)

    def _content(self, name: str, most: int) -> FileContent:
        """A file's objects; none if it does not exist. Raises BadManifest, StoreUnavailable, TooLarge."""
        try:
            data = read_store_file(name, most)
        except FileNotFoundError:
            return FileContent()
        _require_utf8(name)
        content = {}
        is_own = self._own_kind(name) in self._kinds
        # An own file has what an agent wrote: there are many, and there is nobody who could have misspelt a field.
        decode = decode_manifest if is_own else inspect_manifest
        manifest = decode(data, name, kinds=self._kinds)
        if manifest.faults:
            raise combined(manifest.faults)
        for found in manifest.entries:
            obj, expires = without_expiry(found.object, self._clock, str(found.source))
            each = encode(obj)
            identity = each.kind, each.key
            if is_own and self._name(own_path(*identity)) != name:
                raise StoreUnavailable("other objects are in this file", where=name, hint="move them to another file")
            content[identity] = Entry(each, found.source.line, expires)
        unknown = [BadManifest(f"{each.what}, left out", where=each.where, hint=each.hint) for each in manifest.unknown]
        return FileContent(content, combined(unknown) if unknown else None)

    def _write(self, identity: Identity, new: Object | None) -> None:
        """Replace the object in its file by `new`, or delete it (None). Raises StoreUnavailable, BadManifest."""
        own = self._name(own_path(*identity))
        name = self._index.file_of(identity) or own
        if name == own:
            self._check_own_file(own)
            write_own_file(self._root, own_path(*identity), to_json(new) + b"\n" if new is not None else None)
        elif (data := self._edited(name, identity, new)).replace(b"---", b"").strip():
            write_file(Path(name), data)
        else:
            remove_file(Path(name))
        self._load([name])

    def _check_own_file(self, own: str) -> None:
        """An invalid own file is overwritten, but not one with other objects."""
        error = self._index.error(own)
        if isinstance(error, StoreUnavailable):
            raise error

    def _edited(self, name: str, identity: Identity, new: Object | None) -> bytes:
        """A user's file with only this object changed."""
        error = self._index.error(name)
        if error is not None:
            raise error
        try:
            data = read_store_file(name, _LARGE if self._defer else MAX_SIZE)
        except FileNotFoundError as gone:
            raise StoreUnavailable("is gone", where=name) from gone
        except TooLarge as large:
            what = f"{identity[0].KIND} {identity[1]} cannot be changed in a file of more than {_LARGE >> 10} KiB"
            raise StoreUnavailable(what, where=name, hint="move it to a file of its own") from large
        return rewrite_object(data, name, identity, new, kinds=self._kinds)

    def _top(self, name: str) -> str:
        """The directory below the root that a file is in, "" for one in the root itself."""
        return name[len(str(self._root)) + 1 :].rpartition("/")[0].partition("/")[0]

    def _name(self, path: str) -> str:
        """The path of a file below the root, as shown to users."""
        return f"{self._root}/{path}" if path else str(self._root)


def _size(name: str) -> int:
    """In bytes; 0 of what is not there."""
    try:
        return Path(name).stat().st_size
    except OSError:
        return 0


def _require_utf8(name: str) -> None:
    """Objects keep the path of their file, and are sent as UTF-8 text. Raises StoreUnavailable."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise StoreUnavailable("the file's name is not UTF-8 text", where=name, hint="rename it") from error
