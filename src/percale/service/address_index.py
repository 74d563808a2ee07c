"""Addresses of nodes by the objects that have them. Used by `resolver.py` and `tunnel_endpoints.py`."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class AddressIndex(Generic[K]):
    """Packed addresses, which several objects may share."""

    def __init__(self) -> None:
        self._by_object: dict[K, tuple[bytes, ...]] = {}
        self._count: dict[bytes, int] = {}
        """How many objects have an address."""

    def __contains__(self, address: bytes) -> bool:
        return address in self._count

    def __iter__(self) -> Iterator[K]:
        return iter(self._by_object)

    def update(self, key: K, addresses: tuple[bytes, ...]) -> set[bytes]:
        """Replace the addresses of this object; returns those that no object had before, or none has now."""
        before = self._by_object.get(key, ())
        if before == addresses:
            return set()
        touched = {*before, *addresses}
        were = {each for each in touched if each in self._count}
        for each in addresses:
            self._count[each] = self._count.get(each, 0) + 1
        for each in before:
            self._count[each] -= 1
            if not self._count[each]:
                del self._count[each]
        if addresses:
            self._by_object[key] = addresses
        else:
            del self._by_object[key]
        return {each for each in touched if (each in were) != (each in self._count)}
