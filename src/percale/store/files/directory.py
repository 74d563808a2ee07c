"""A directory of manifests: read, kept up to date, changed. Used by `files`, on the store's own thread.

    noticing ─ which files ─▶ read ─▶ Holdings ─▶ events
    put, delete ─▶ lock ─▶ catch up ─▶ compare ─▶ write ─▶ read

Any file may hold any object, except that a file of the store's own (`KIND/NAMESPACE/NAME.json`) holds the one that its name
says. So an own file is read only when somebody lists or watches its kind, or asks for just this object: an agent that follows
leases does not read ten thousand pods.

Several processes share one directory. Whoever writes takes the lock and catches up with what the others did before it
compares; so a comparison is always with the newest version.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import TypeVar

from percale.errors import PercaleError, StoreError, StoreUnavailable
from percale.model.kinds import Kinds
from percale.model.manifest.decode import decode_manifest
from percale.model.manifest.encode import to_json
from percale.model.meta import Object, ObjectKey
from percale.store.files.atomic_write import locked, own_path, remove_file, write_file
from percale.store.files.edit_in_place import rewritten
from percale.store.files.file_index import Content, Entry, Holdings, Identity
from percale.store.files.inotify import Noticing
from percale.store.files.lease_expiry import BootClock, stamped, unstamped
from percale.store.files.packed_object import Packed, packed
from percale.store.protocol import Event, ReadProblem
from percale.store.versioning import absent, check, unversioned, versioned

T = TypeVar("T", bound=Object)


class Directory:
    """The objects of one directory tree. Not for several threads at once."""

    def __init__(self, root: Path, kinds: Kinds, clock: BootClock) -> None:
        self._root = root
        self._kinds = kinds
        self._clock = clock
        self._holdings = Holdings(kinds, clock.now)
        self._followed: set[type[Object]] = set()
        """Kinds whose own files are read, all of them."""
        self._over: list[Identity] = []
        """Leases that ended and whose files are still there."""
        self._noticing = Noticing(root)
        try:
            self._read(map(self._name, self._noticing.scan()))
        except BaseException:
            self._noticing.close()
            raise
        self._holdings.forget_events()

    def fileno(self) -> int:
        """Readable when something happened that `catch_up` would take over."""
        return self._noticing.fileno()

    def close(self) -> None:
        """End the watching."""
        self._noticing.close()

    def take_events(self) -> list[Event]:
        """What changed since the last time, in order."""
        return self._holdings.take_events()

    @property
    def problems(self) -> list[ReadProblem]:
        """What cannot be read now."""
        return self._holdings.problems

    def rest(self) -> float | None:
        """Seconds until the next lease may end."""
        end = self._holdings.next_end
        return None if end is None else max(0.0, end - self._clock.now())

    def catch_up(self) -> None:
        """Take over what others did to the files, and which leases ended. Raises StoreUnavailable: the root is gone."""
        notice = self._noticing.read()
        if notice.lost or not self._root.is_dir():
            raise StoreUnavailable("the directory is gone", where=str(self._root), hint="make it again")
        names = set(map(self._name, notice.files))
        if notice.overrun:
            names.update(self._holdings.paths(), map(self._name, self._noticing.scan()))
        for directory in notice.directories:
            names.update(self._holdings.paths(self._name(directory) + "/"))
        self._read(names)
        self._over += self._holdings.ended()

    def bury(self) -> None:
        """Delete what is left of leases that ended; where that cannot be done, they stay ended for every reader."""
        over, self._over = self._over, []
        if not over:
            return
        with suppress(StoreError), locked(self._root):
            self.catch_up()
            for identity in over:
                if self._holdings.holder(identity) is not None and self._holdings.in_force(identity) is None:
                    self._write(identity, None)

    def list(self, kind: type[T]) -> list[T]:
        """All objects of a kind, in the order of their keys. From now on the kind is followed."""
        return [each.object for each in self.entries(kind)]  # type: ignore[misc]

    def entries(self, kind: type[Object]) -> Iterable[Packed]:
        """The same as they are kept."""
        objects = self._objects(kind)
        if kind not in self._followed:
            self._followed.add(kind)
            own = map(self._name, self._noticing.scan(kind.KIND))
            self._take_in(name for name in own if not self._holdings.knows(name))
        return [each for _, each in sorted(objects.items())]

    def get(self, kind: type[T], key: ObjectKey) -> T | None:
        """One object."""
        self._look_up((kind, key))
        found = self._objects(kind).get(key)
        return None if found is None else found.object  # type: ignore[return-value]

    def _look_up(self, identity: Identity) -> None:
        """Read the object's own file, unless it is read anyway."""
        own = self._name(own_path(*identity))
        if not self._is_followed(own):
            self._take_in([own])

    def put(self, obj: T, expect: str | None, ttl: float | None) -> T:
        """Compare and write. Raises Conflict, StoreUnavailable, BadManifest."""
        stored = versioned(obj)
        kind, key = identity = (type(stored), stored.key)
        self._objects(kind)
        with locked(self._root):
            self.catch_up()
            self._look_up(identity)
            entry = self._holdings.in_force(identity)
            check(kind, key, entry.packed.version if entry else None, expect)
            unchanged = entry is not None and entry.packed == packed(stored) and entry.expires is None
            if not (unchanged and ttl is None):
                bare = unversioned(stored)
                self._write(identity, bare if ttl is None else stamped(bare, ttl, self._clock))
        return stored

    def delete(self, kind: type[Object], key: ObjectKey, expect: str | None) -> None:
        """Compare and remove. Raises NotFound, Conflict, StoreUnavailable, BadManifest."""
        with locked(self._root):
            self.catch_up()
            current = self.get(kind, key)
            if current is None:
                raise absent(kind, key)
            check(kind, key, current.metadata.resourceVersion, expect)
            self._write((kind, key), None)

    def _objects(self, kind: type[Object]) -> dict[ObjectKey, Packed]:
        objects = self._holdings.objects.get(kind)
        if objects is None:
            raise TypeError(f"{kind.__name__} is none of this store's kinds")
        return objects

    def _read(self, names: Iterable[str]) -> None:
        """What these files hold now, as far as anybody wants to know."""
        self._take_in(filter(self._is_followed, names))

    def _is_followed(self, name: str) -> bool:
        kind = self._kinds.get(self._own_kind(name))
        return kind is None or kind in self._followed or self._holdings.knows(name)

    def _own_kind(self, name: str) -> str:
        """Of which kind a file of our own is; "" for a person's."""
        kind, _, rest = name[len(str(self._root)) + 1 :].partition("/")
        return kind if rest.count("/") == 1 and rest.endswith(".json") else ""

    def _take_in(self, names: Iterable[str]) -> None:
        read: dict[str, Content | PercaleError] = {}
        for name in names:
            try:
                read[name] = self._content(name)
            except PercaleError as error:
                read[name] = error
        if read:
            self._holdings.update(read)

    def _content(self, name: str) -> Content:
        """A file's objects; none when it is not there. Raises BadManifest, StoreUnavailable."""
        try:
            with FileIO(name) as file:  # a third of pathlib's time, for every file that there is
                data = file.readall()
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise StoreUnavailable(f"cannot be read: {error.strerror}", where=name) from error
        content = {}
        is_own = self._own_kind(name) in self._kinds
        for found in decode_manifest(data, name, kinds=self._kinds).found:
            obj, expires = unstamped(found.object, self._clock, str(found.source))
            each = packed(obj)
            identity = each.kind, each.key
            if is_own and self._name(own_path(*identity)) != name:
                raise StoreUnavailable("other objects are in this file", where=name, hint="move them to another file")
            content[identity] = Entry(each, found.source.line, expires)
        return content

    def _write(self, identity: Identity, new: Object | None) -> None:
        """The object's file with `new` for it, or (None) without it. Raises StoreUnavailable, BadManifest."""
        own = self._name(own_path(*identity))
        name = self._holdings.holder(identity) or own
        if name == own:
            self._refuse_strangers(own)
            data = to_json(new) + b"\n" if new is not None else b""
        else:
            data = self._edited(name, identity, new)
        if data.replace(b"---", b"").strip():
            write_file(Path(name), data, root=self._root)
        else:
            remove_file(Path(name))
        self._take_in([name])

    def _refuse_strangers(self, own: str) -> None:
        """What is broken in our own file is written anew, but not over what somebody else keeps there."""
        error = self._holdings.error(own)
        if isinstance(error, StoreUnavailable):
            raise error

    def _edited(self, name: str, identity: Identity, new: Object | None) -> bytes:
        """A person's file with only this object changed."""
        error = self._holdings.error(name)
        if error is not None:
            raise error
        try:
            data = Path(name).read_bytes()
        except OSError as refusal:
            raise StoreUnavailable(f"cannot be read: {refusal.strerror}", where=name) from refusal
        return rewritten(data, name, identity, new, kinds=self._kinds)

    def _name(self, path: str) -> str:
        """A file below the root as people know it."""
        return f"{self._root}/{path}" if path else str(self._root)
