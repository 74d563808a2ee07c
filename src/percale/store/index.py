"""What the files hold, as last read: objects by file and by key, and which files cannot be read. Owned by `files`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from percale.errors import BadManifest, PercaleError
from percale.model.meta import Object, ObjectKey
from percale.store.protocol import Deleted, Trouble, Upserted

Identity: TypeAlias = tuple[type[Object], ObjectKey]


@dataclass(frozen=True, slots=True)
class Held:
    """An object in a file; `end` is its lease's, on the boot's clock, None when it has none."""

    object: Object
    path: Path
    end: float | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What one file holds now; with an `error` it is what it held before."""

    path: Path
    held: list[Held]
    error: PercaleError | None = None
    leases: list[Identity] = field(default_factory=list)
    """Objects of the file that end some time."""


class Index:
    """Learns one file after the other; of an object in two files the first by path counts."""

    def __init__(self) -> None:
        self._files: dict[Path, dict[Identity, Held]] = {}
        self._places: dict[Identity, list[Path]] = {}
        self._kinds: dict[type[Object], dict[ObjectKey, Held]] = {}
        self.troubles: dict[Path, PercaleError] = {}

    def get(self, identity: Identity) -> Held | None:
        """The object that counts."""
        return self._kinds.get(identity[0], {}).get(identity[1])

    def all(self, kinds: tuple[type[Object], ...]) -> Iterator[Held]:
        """All objects of these kinds."""
        for kind in kinds:
            yield from self._kinds.get(kind, {}).values()

    def paths(self) -> set[Path]:
        """All files that hold or held anything."""
        return self._files.keys() | self.troubles.keys()

    def below(self, directory: Path) -> set[Path]:
        """The known files in a directory that may be gone."""
        return {path for path in self.paths() if directory in path.parents}

    def learn(self, reading: Reading) -> Iterator[Upserted | Deleted | Trouble]:
        """Take over a reading; what changed."""
        path = reading.path
        if reading.error is not None:
            yield from self._trouble(path, reading.error)
            return
        before = self._files.pop(path, {})
        now = {(type(held.object), held.object.key): held for held in reading.held}
        if now:
            self._files[path] = now
        doubled: PercaleError | None = None
        for identity in before.keys() - now.keys():
            self._places[identity].remove(path)
            yield from self._decide(identity)
        for identity in now:
            places = self._places.setdefault(identity, [])
            if path not in places:
                places.append(path)
                places.sort()
            if len(places) > 1:
                doubled = _doubled(identity, places)
            yield from self._decide(identity)
        yield from self._trouble(path, doubled)

    def _decide(self, identity: Identity) -> Iterator[Upserted | Deleted]:
        """Which file's object counts now."""
        kind, key = identity
        known = self._kinds.setdefault(kind, {})
        before = known.get(key)
        places = self._places[identity]
        if not places:
            del self._places[identity]
            if before is not None:
                del known[key]
                yield Deleted(before.object)
            return
        now = self._files[places[0]][identity]
        known[key] = now
        if before is None or before.object != now.object:
            yield Upserted(now.object)

    def _trouble(self, path: Path, error: PercaleError | None) -> Iterator[Trouble]:
        before = self.troubles.get(path)
        if error is not None and str(error) != str(before):
            self.troubles[path] = error
            yield Trouble(str(path), error)
        elif error is None and before is not None:
            del self.troubles[path]
            yield Trouble(str(path), None)


def _doubled(identity: Identity, places: list[Path]) -> BadManifest:
    kind, key = identity
    return BadManifest(
        f"{kind.KIND} {key} is in {places[0]} too, which counts", where=str(places[1]), hint="keep it in one file"
    )
