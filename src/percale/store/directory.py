"""The files themselves: read, written under a lock, renamed into place. Blocking; `files` calls from worker threads."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec

from percale.errors import PercaleError, StoreUnavailable
from percale.model.decoding import decode_manifest
from percale.model.kinds import Kinds
from percale.model.meta import Object, ObjectKey
from percale.store.documents import boot_time, encode, ending, versioned, without_expiry
from percale.store.editing import edited, patched
from percale.store.index import Held, Identity, Reading
from percale.store.memory import check_version

T = TypeVar("T", bound=Object)

SUFFIXES = frozenset((".yaml", ".yml", ".json"))
_LOCK = ".lock"


class Directory:
    """One directory of manifests, shared with other processes."""

    def __init__(self, root: Path, kinds: Kinds) -> None:
        self.root = root
        self._kinds = kinds

    def prepare(self) -> None:
        """Make it. Raises StoreUnavailable."""
        with _explained(self.root):
            self.root.mkdir(parents=True, exist_ok=True)

    # Reading

    def read(self, paths: Iterable[Path]) -> list[Reading]:
        """Each manifest of these; others are left out."""
        return [self.read_file(path) for path in paths if path.suffix in SUFFIXES]

    def read_file(self, path: Path) -> Reading:
        """What it holds now; a file that is not there holds nothing."""
        try:
            objects = decode_manifest(path.read_bytes(), str(path), kinds=self._kinds).objects
        except FileNotFoundError:
            return Reading(path, [])
        except OSError as error:
            return Reading(path, [], StoreUnavailable(f"cannot be read: {error.strerror}", where=str(path)))
        except PercaleError as error:
            return Reading(path, [], error)
        held = [Held(versioned(obj), path, end) for obj, end in map(without_expiry, objects)]
        leases: list[Identity] = [(type(each.object), each.object.key) for each in held if each.end is not None]
        return Reading(path, held, None, leases)

    def _path(self, kind: type[Object], key: ObjectKey) -> Path:
        """Where `put` writes a new object."""
        name = quote(key.name, safe=":&@+,=")
        if name.startswith("."):  # else the file would be hidden
            name = f"%2E{name[1:]}"
        return self.root / kind.KIND / (key.namespace or "-") / f"{name}.json"

    # Writing

    def put(self, obj: T, path: Path | None, expect: str | None, ttl: float | None) -> tuple[Reading, T]:
        """Write the object, to the file it lives in or to its own. Raises Conflict, StoreUnavailable, BadManifest."""
        own = self._path(type(obj), obj.key)
        path = path or own
        with self._locked(), _explained(path):
            current = self._current((type(obj), obj.key), path)
            check_version(type(obj), obj.key, current, expect)
            expires = ending(ttl) if ttl is not None else None
            if path == own or current is None:
                path = own
                own.parent.mkdir(parents=True, exist_ok=True)
                _write(own, encode(obj, expires))
            else:
                _write(path, self._edited(path, obj, current, expires))
            return self.read_file(path), versioned(obj)

    def _edited(self, path: Path, obj: Object, current: Object, expires: str | None) -> bytes:
        old, new = (msgspec.json.decode(encode(each)) for each in (current, obj))
        if expires is not None:
            new = msgspec.json.decode(encode(obj, expires))
        text = path.read_text()
        return edited(text, str(path), obj.KIND, obj.key, lambda raw: patched(raw, old, new)).encode()

    def delete(self, kind: type[Object], key: ObjectKey, path: Path, expect: str | None) -> Reading:
        """Take the object out of its file, and the file away with the last one. Raises Conflict, StoreUnavailable."""
        with self._locked(), _explained(path):
            current = self._current((kind, key), path)
            check_version(kind, key, current, expect)
            self._take_out(kind, key, path)
            return self.read_file(path)

    def _take_out(self, kind: type[Object], key: ObjectKey, path: Path) -> None:
        if path == self._path(kind, key):
            path.unlink(missing_ok=True)
            return
        rest = edited(path.read_text(), str(path), kind.KIND, key, lambda _raw: None)
        if rest.strip(" \n-"):
            _write(path, rest.encode())
        else:
            path.unlink()

    def expire(self, path: Path) -> Reading:
        """Take away a lease that has ended; what the file holds then. Raises StoreUnavailable."""
        with self._locked(), _explained(path):
            reading = self.read_file(path)
            for held in reading.held:
                if held.end is not None and held.end <= boot_time():
                    self._take_out(type(held.object), held.object.key, path)
            return self.read_file(path)

    def _current(self, identity: Identity, path: Path) -> Object | None:
        """What the file says now, whatever the index knows. Raises the file's error."""
        reading = self.read_file(path)
        if reading.error is not None:
            raise reading.error
        return next((held.object for held in reading.held if (type(held.object), held.object.key) == identity), None)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, over all processes. Raises StoreUnavailable."""
        with _explained(self.root):
            descriptor = os.open(self.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing, under a name that no reader looks at until it is whole."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.rename(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """A full disk or a read-only directory as an error of the store."""
    try:
        yield
    except OSError as error:
        hint = {errno.ENOSPC: "free some space", errno.EROFS: "mount it writable"}.get(error.errno or 0)
        raise StoreUnavailable(f"cannot be written: {error.strerror}", where=str(path), hint=hint) from error
