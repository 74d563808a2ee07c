"""What one watch has seen: the objects, encoded, and the keys that mean none. Changes of keys become changes of objects.

listed keys ─▶ replace ─┐
watched keys ─▶ apply ──┴─▶ Layout ─▶ KindCaches ─▶ Upserted, Deleted, or ReadProblem: the last valid object stays
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from percale.errors import BadManifest
from percale.model.meta import Object, ObjectKey
from percale.store.decode import MAY_BE_MISSED, isolation_of
from percale.store.encoded_object import EncodedObject, LazyObjects, encode
from percale.store.etcd.layout import Identity, Layout
from percale.store.etcd.messages import Change, KeyValue
from percale.store.kind_cache import Change as ObjectChange
from percale.store.kind_cache import KindCache
from percale.store.last_state import LastState
from percale.store.protocol import ReadProblem, Snapshot


class Contents:
    """The objects of these kinds."""

    def __init__(
        self,
        layout: Layout,
        kinds: Iterable[type[Object]],
        *,
        isolate: bool = False,
        last_state: LastState | None = None,
    ) -> None:
        self._layout = layout
        self._isolate = isolate
        self.caches = {
            kind: KindCache(kind, log=last_state.log(kind) if last_state is not None else None) for kind in kinds
        }
        self._keys: dict[Identity, dict[bytes, KeyValue]] = {}
        """Of objects with several keys: a change may come with one of them."""
        self._errors: dict[bytes, BadManifest] = {}
        """Why keys cannot be read."""
        self._replaced: set[Identity] = set()
        """Invalid objects of which the isolation counts, for there was no valid state yet."""

    @property
    def confirm_in(self) -> float | None:
        """Seconds until everything is to be listed again, for objects that the last list lacked."""
        return max((each.confirm_in for each in self.caches.values() if each.confirm_in is not None), default=None)

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot({kind: self.objects(kind) for kind in self.caches})

    def objects(self, kind: type[Object]) -> LazyObjects:
        """In the order of their keys."""
        return self.caches[kind].objects

    def replace(self, listed: Iterable[KeyValue]) -> Iterator[ObjectChange | ReadProblem]:
        """All keys: the differences."""
        found, errors = self._layout.grouped(listed)
        missed = set(errors)  # they are no objects
        self._keys = {}
        current: dict[type[Object], dict[ObjectKey, EncodedObject | None]] = {kind: {} for kind in self.caches}
        for (kind, name), keys in found.items():
            try:
                current[kind][name] = self._decoded((kind, name), keys)
            except BadManifest as error:
                first = self._layout.keys((kind, name))[0]
                errors[first] = error
                if kind in MAY_BE_MISSED:
                    missed.add(first)
                current[kind][name] = self._instead((kind, name), keys[first].value) or self.caches[kind].keep(name)
        for key in sorted(self._errors.keys() | errors.keys()):
            yield from self._report(key, errors.get(key), complete=key in missed)
        for kind, cache in self.caches.items():
            yield from cache.replace(current[kind])
            yield from cache.report_missing()

    def apply(self, changes: Iterable[Change]) -> Iterator[ObjectChange | ReadProblem]:
        """All changes of one or more revisions."""
        changed: dict[Identity, dict[bytes, KeyValue]] = {}
        for change in changes:
            key = change.kv.key
            try:
                identity = self._layout.identity(key)
            except BadManifest as error:
                written = change.type == "PUT"
                yield from self._report(key, error if written else None, complete=written)
                continue
            if identity is None or identity[0] not in self.caches:
                continue
            keys = changed.setdefault(identity, dict(self._keys.get(identity, ())))
            if change.type == "PUT":
                keys[key] = change.kv
            else:
                keys.pop(key, None)
        for identity, keys in changed.items():
            yield from self._update(identity, keys)

    def _update(self, identity: Identity, keys: dict[bytes, KeyValue]) -> Iterator[ObjectChange | ReadProblem]:
        kind, name = identity
        first = self._layout.keys(identity)[0]
        try:
            new = self._decoded(identity, keys)
        except BadManifest as error:
            yield from self._report(first, error, complete=kind in MAY_BE_MISSED)
            instead = self._instead(identity, keys[first].value)
            if instead is not None:
                yield from self.caches[kind].put(name, instead)
            return
        yield from self._report(first, None)
        yield from self.caches[kind].put(name, new)

    def _decoded(self, identity: Identity, keys: dict[bytes, KeyValue]) -> EncodedObject | None:
        """The object of these keys, None if it does not exist. Raises BadManifest."""
        several = len(self._layout.keys(identity)) > 1
        if several:
            self._keys[identity] = keys
        new = self._layout.decoded(identity, keys)
        self._replaced.discard(identity)
        if new is None:
            self._keys.pop(identity, None)
            return None
        return encode(new).compressed()

    def _instead(self, identity: Identity, data: bytes) -> EncodedObject | None:
        """What counts instead of an invalid object; None: its last valid state, or nothing."""
        kind, name = identity
        known = name in self.caches[kind] and identity not in self._replaced
        instead = isolation_of(kind, name, data) if self._isolate and not known else None
        if instead is None:
            return None
        self._replaced.add(identity)
        return encode(instead).compressed()

    def _report(self, key: bytes, error: BadManifest | None, *, complete: bool = False) -> Iterator[ReadProblem]:
        """`complete`: it hides no object for which others wait."""
        if error is None:
            if self._errors.pop(key, None) is None:
                return
        elif str(self._errors.get(key)) == str(error):
            return
        else:
            self._errors[key] = error
        yield ReadProblem(_text(key), error, complete)


def _text(key: bytes) -> str:
    return key.decode(errors="replace")
