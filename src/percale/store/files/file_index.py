"""Which file holds which object, and what of it is in force. Values only; `directory` feeds it with what it read.

file ─▶ its last good objects ─┬─▶ the first file by path that has an object counts ─▶ in force ─▶ Upserted, Deleted
        or why it is bad ──────┴─▶ ReadProblem
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import TypeAlias

import msgspec

from percale.errors import BadManifest, PercaleError
from percale.model.kinds import Kinds
from percale.model.meta import Object, ObjectKey
from percale.store.files.packed_object import Packed
from percale.store.protocol import Deleted, Event, ReadProblem, Upserted

Identity: TypeAlias = tuple[type[Object], ObjectKey]


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An object as a file has it, and when it ends (None: never)."""

    packed: Packed
    line: int
    expires: float | None


Content: TypeAlias = Mapping[Identity, Entry]

_NOTHING: Content = {}


class Holdings:
    """All files of a store. `now` is the clock of the entries' ends."""

    def __init__(self, kinds: Kinds, now: Callable[[], float]) -> None:
        self._now = now
        self._files: dict[str, Content] = {}
        """The last good content of each file that has any."""
        self._holders: dict[Identity, tuple[str, ...]] = {}
        """Who has an object, in the order of paths."""
        self._broken: dict[str, PercaleError] = {}
        self._problems: dict[str, PercaleError] = {}
        self._ends: list[tuple[float, int, Identity]] = []
        """A heap of ends; one that was put off since is still in it."""
        self._order = count()
        self._events: list[tuple[type[Upserted | Deleted], Packed] | ReadProblem] = []
        self.objects: dict[type[Object], dict[ObjectKey, Packed]] = {kind: {} for kind in kinds.values()}
        """What is in force."""

    def take_events(self) -> list[Event]:
        """What changed since the last time, in order."""
        events, self._events = self._events, []
        return [each if isinstance(each, ReadProblem) else each[0](each[1].object) for each in events]

    def forget_events(self) -> None:
        """Nobody has asked for anything yet."""
        self._events = []

    @property
    def problems(self) -> list[ReadProblem]:
        """What cannot be read now."""
        return [ReadProblem(path, error) for path, error in sorted(self._problems.items())]

    @property
    def next_end(self) -> float | None:
        """When the next entry may end."""
        return self._ends[0][0] if self._ends else None

    def paths(self, below: str = "") -> Iterator[str]:
        """The files that have or had objects, or are bad."""
        return (path for path in {**self._files, **self._broken} if path.startswith(below))

    def holder(self, identity: Identity) -> str | None:
        """The file whose object counts."""
        holders = self._holders.get(identity)
        return holders[0] if holders else None

    def content(self, path: str) -> Content:
        """A file's last good objects."""
        return self._files.get(path, _NOTHING)

    def knows(self, path: str) -> bool:
        """Whether the file has or had objects, or is bad."""
        return path in self._files or path in self._broken

    def error(self, path: str) -> PercaleError | None:
        """Why the file cannot be read."""
        return self._broken.get(path)

    def in_force(self, identity: Identity) -> Entry | None:
        """The entry that counts, unless it has ended."""
        holder = self.holder(identity)
        entry = self._files[holder][identity] if holder is not None else None
        ended = entry is not None and entry.expires is not None and entry.expires <= self._now()
        return None if ended else entry

    def update(self, read: Mapping[str, Content | PercaleError]) -> None:
        """These files hold this now (a file that is gone: nothing), or are bad."""
        touched: dict[Identity, None] = {}
        for path, content in read.items():
            if isinstance(content, PercaleError):
                self._broken[path] = content
                continue
            self._broken.pop(path, None)
            before = self.content(path)
            if content:
                self._files[path] = content
            else:
                self._files.pop(path, None)
            for identity in before.keys() - content.keys():
                self._holders[identity] = tuple(other for other in self._holders[identity] if other != path)
            alone = (path,)  # one for all, as most objects are in one file
            for identity in content.keys() - before.keys():
                others = self._holders.get(identity)
                self._holders[identity] = tuple(sorted((*others, path))) if others else alone
            touched.update(dict.fromkeys((*before, *content)))
        judged = {*read}
        for identity in touched:
            judged.update(self._holders[identity])
            self.settle(identity)
            if not self._holders[identity]:
                del self._holders[identity]
        for path in sorted(judged):
            self._judge(path)

    def ended(self) -> list[Identity]:
        """Take what has ended out of force."""
        now, due = self._now(), set()
        while self._ends and self._ends[0][0] <= now:
            due.add(heapq.heappop(self._ends)[2])
        over = [identity for identity in due if identity in self._holders and self.in_force(identity) is None]
        for identity in over:
            self.settle(identity)
        return over

    def settle(self, identity: Identity) -> None:
        """Bring what is in force to what the files say."""
        kind, key = identity
        objects = self.objects[kind]
        entry = self.in_force(identity)
        if entry is None:
            if key in objects:
                self._events.append((Deleted, objects.pop(key)))
            return
        if entry.expires is not None:
            heapq.heappush(self._ends, (entry.expires, next(self._order), identity))
        if objects.get(key) != entry.packed:
            objects[key] = entry.packed
            self._events.append((Upserted, entry.packed))

    def _judge(self, path: str) -> None:
        """One ReadProblem when a file turns bad, one when it is bad in another way, one when it is good again."""
        error = self._broken.get(path) or self._duplicate(path)
        known = self._problems.get(path)
        if error is None:
            if self._problems.pop(path, None) is not None:
                self._events.append(ReadProblem(path, None))
        elif known is None or str(known) != str(error):
            self._problems[path] = error
            self._events.append(ReadProblem(path, error))

    def _duplicate(self, path: str) -> BadManifest | None:
        """An object of this file that an earlier file has too."""
        for identity, entry in self.content(path).items():
            first = self._holders[identity][0]
            if first != path:
                kind, key = identity
                return BadManifest(
                    f"{kind.KIND} {key} is in {first}:{self._files[first][identity].line} too",
                    where=f"{path}:{entry.line}",
                    hint="remove one of them; until then the other one counts",
                )
        return None
