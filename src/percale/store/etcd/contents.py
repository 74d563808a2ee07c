"""What one watch has seen: the objects, encoded, and the keys that mean none. Changes of keys become events.

listed keys ─▶ replace ─┐
watched keys ─▶ apply ──┴─▶ Layout ─▶ objects ─▶ Upserted, Deleted, or ReadProblem: the last valid object stays
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from percale.errors import BadManifest
from percale.model.meta import Object, ObjectKey
from percale.store.decode import MAY_BE_MISSED, isolation_of
from percale.store.encoded_object import EncodedObject, LazyObjects, encode
from percale.store.etcd.layout import Identity, Layout
from percale.store.etcd.messages import Change, KeyValue
from percale.store.protocol import Deleted, Event, ReadProblem, Snapshot, Upserted


class Contents:
    """The objects of these kinds."""

    def __init__(self, layout: Layout, kinds: Iterable[type[Object]], *, isolate: bool = False) -> None:
        self._layout = layout
        self._isolate = isolate
        self._objects: dict[type[Object], dict[ObjectKey, EncodedObject]] = {kind: {} for kind in kinds}
        self._keys: dict[Identity, dict[bytes, KeyValue]] = {}
        """Of objects with several keys: a change may come with one of them."""
        self._errors: dict[bytes, BadManifest] = {}
        """Why keys cannot be read."""
        self._incomplete: set[bytes] = set()
        """Those of them that may hide an object for which others wait."""
        self._replaced: set[Identity] = set()
        """Invalid objects of which the isolation counts, for there was no valid state yet."""

    @property
    def kinds(self) -> Iterable[type[Object]]:
        return self._objects

    @property
    def problems(self) -> list[ReadProblem]:
        """Keys that cannot be read now."""
        return [self._problem(key, error) for key, error in sorted(self._errors.items())]

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot({kind: self.objects(kind) for kind in self._objects})

    def objects(self, kind: type[Object]) -> LazyObjects:
        """In the order of their keys."""
        return LazyObjects([entry for _, entry in sorted(self._objects[kind].items())])

    def replace(self, listed: Iterable[KeyValue]) -> Iterator[Event]:
        """All keys: the differences."""
        found = {each.key: each for each in listed}
        known = {
            key
            for kind, objects in self._objects.items()
            for name in objects
            for key in self._layout.keys((kind, name))
        }
        gone = (known | self._errors.keys()) - found.keys()
        yield from self.apply([*(Change(KeyValue(key), "DELETE") for key in gone), *map(Change, found.values())])

    def apply(self, changes: Iterable[Change]) -> Iterator[Event]:
        """All changes of one or more revisions."""
        changed: dict[Identity, dict[bytes, KeyValue]] = {}
        for change in changes:
            key = change.kv.key
            try:
                identity = self._layout.identity(key)
            except BadManifest as error:
                yield from self._report(key, error if change.type == "PUT" else None)
                continue
            if identity is None or identity[0] not in self._objects:
                continue
            keys = changed.setdefault(identity, dict(self._keys.get(identity, ())))
            if change.type == "PUT":
                keys[key] = change.kv
            else:
                keys.pop(key, None)
        for identity, keys in changed.items():
            yield from self._update(identity, keys)

    def _update(self, identity: Identity, found: dict[bytes, KeyValue]) -> Iterator[Event]:
        kind, name = identity
        first, *others = self._layout.keys(identity)
        if others:
            self._keys[identity] = found
        try:
            new = self._layout.decoded(identity, found)
        except BadManifest as error:
            yield from self._report(first, error, incomplete=kind not in MAY_BE_MISSED)
            new = self._instead(identity, found[first].value)
            if new is None:
                return
        else:
            yield from self._report(first, None)
            self._replaced.discard(identity)
        objects = self._objects[kind]
        if new is None:
            self._keys.pop(identity, None)
            if name in objects:
                yield Deleted(objects.pop(name).object)
        elif objects.get(name) != new:
            objects[name] = new
            yield Upserted(new.object)

    def _instead(self, identity: Identity, data: bytes) -> EncodedObject | None:
        """What counts instead of an invalid object; None: its last valid state, or nothing."""
        kind, name = identity
        known = name in self._objects[kind] and identity not in self._replaced
        instead = isolation_of(kind, name, data) if self._isolate and not known else None
        if instead is None:
            return None
        self._replaced.add(identity)
        return encode(instead)

    def _problem(self, key: bytes, error: BadManifest | None) -> ReadProblem:
        return ReadProblem(key.decode(errors="replace"), error, error is not None and key not in self._incomplete)

    def _report(self, key: bytes, error: BadManifest | None, *, incomplete: bool = True) -> Iterator[Event]:
        self._incomplete.discard(key)
        if error is not None and incomplete:
            self._incomplete.add(key)
        if error is None:
            if self._errors.pop(key, None) is None:
                return
        elif str(self._errors.get(key)) == str(error):
            return
        else:
            self._errors[key] = error
        yield self._problem(key, error)
