"""Objects as a store keeps them: as JSON, a fifth of what they take as values. Called by `holding`.

Whoever lists, gets or watches makes values of them, one by one; an agent takes what it needs to know, and keeps none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import overload

from msgspec import Struct

from percale.model.manifest.decode import from_json, settled
from percale.model.manifest.encode import to_json
from percale.model.meta import Object, ObjectKey
from percale.store.versioning import unversioned, version_of, with_version


class Packed(Struct, frozen=True, gc=False):
    """One object; equal ones have equal content."""

    kind: type[Object]
    key: ObjectKey
    content: bytes

    @property
    def version(self) -> str:
        """Of its content."""
        return version_of(self.content)

    @property
    def object(self) -> Object:
        """With its version; made anew each time."""
        return with_version(from_json(self.content, self.kind), self.version)


def packed(obj: Object) -> Packed:
    """In its namespace; a version that it came with does not count."""
    bare = settled(unversioned(obj))
    namespace, name = bare.key
    return Packed(type(bare), ObjectKey(namespace and sys.intern(namespace), name), to_json(bare))


class Unpacked(Sequence[Object]):
    """Their objects, each made when it is asked for."""

    def __init__(self, entries: Sequence[Packed]) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Object]:
        return (entry.object for entry in self._entries)

    @overload
    def __getitem__(self, index: int) -> Object: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Object]: ...

    def __getitem__(self, index: int | slice) -> Object | Sequence[Object]:
        found = self._entries[index]
        return found.object if isinstance(found, Packed) else Unpacked(found)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]
