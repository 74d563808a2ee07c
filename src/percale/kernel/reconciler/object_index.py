"""Kernel objects by key, that can also be asked for by what they stand on. `state` keeps what is wished and what is there so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, KeysView

from percale.kernel.plan import dependencies_of
from percale.render.objects import KernelObject, Key


class ObjectIndex:
    """A dictionary with an index: everything on a device or in a table is found without a search."""

    def __init__(self, objects: Iterable[KernelObject] = ()) -> None:
        self._objects: dict[Key, KernelObject] = {}
        self._above: dict[Key, set[Key]] = {}
        for obj in objects:
            self.put(obj.key, obj)

    def put(self, key: Key, obj: KernelObject) -> None:
        """Whatever was at its key is replaced."""
        before = self._objects.get(key)
        self._objects[key] = obj
        if before is not None:
            self._leave(key, before)
        for lower in dependencies_of(obj):
            above = self._above.get(lower)
            if above is None:
                self._above[lower] = {key}
            else:
                above.add(key)

    def pop(self, key: Key) -> KernelObject | None:
        """Take it away; None when it was not there."""
        obj = self._objects.pop(key, None)
        if obj is not None:
            self._leave(key, obj)
        return obj

    def _leave(self, key: Key, obj: KernelObject) -> None:
        for lower in dependencies_of(obj):
            above = self._above[lower]
            above.discard(key)
            if not above:
                del self._above[lower]

    def get(self, key: Key) -> KernelObject | None:
        return self._objects.get(key)

    def on(self, lower: Key) -> frozenset[Key]:
        """The keys of all that stands on this."""
        return frozenset(self._above.get(lower, ()))

    def keys(self) -> KeysView[Key]:
        return self._objects.keys()

    def __contains__(self, key: Key) -> bool:
        return key in self._objects

    def __iter__(self) -> Iterator[KernelObject]:
        return iter(self._objects.values())
