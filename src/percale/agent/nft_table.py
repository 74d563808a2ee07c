"""An inet table of this node: one keeper, its authors, and one at a time who brings their words to the kernel.

    Enforcement (policies) ──┐ edit(), image()
                             ├─▶ NodeTable ─▶ TableKeeper ─▶ table inet percale
    HostPorts ───────────────┘      ▲
    somebody touched the table ─────┘ restore
    Balancing (services) ──────▶ NodeTable ─▶ TableKeeper ─▶ table inet percale-services

Services have a table of their own, with its thread and its socket: no pod and no policy waits for them. Changes that come while
the kernel is busy are one edit together. Fail closed: what a former life left in the kernel stays in force until every author
has read the store. An edit that the kernel refuses is tried again with the whole image, and what it refuses of that is left
out, told as a trouble of the objects that want it, and tried again after a while. Both agents run it.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from percale.agent.events import Events, Subject
from percale.agent.problems import Problems
from percale.errors import KernelError
from percale.kernel.cleanup import remove_service_table
from percale.kernel.nftables.commit import Hearing
from percale.kernel.nftables.portions import Refused
from percale.kernel.nftables.table import Keeper, TableKeeper
from percale.render.nft.objects import Edit
from percale.render.objects import OWNER
from percale.render.policy import base_chains as enforcing
from percale.render.service import base_chains as balancing
from percale.render.service import host_ports as host_port_text

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
"""Seconds until a refused edit is tried again; doubled each time."""
_FIRST_REST, _LONGEST_REST = 5.0, 300.0
"""The same for what had to be left out: only a change of the object or of the kernel makes it welcome."""

SERVICE_BYTES = 2 * 1024 * 1024
"""Of one transaction of Services, some 30,000 elements: while the kernel makes it, 0.1 s, a policy's has to wait."""


class Author(Protocol):
    """Has a part of the table. All methods are called on the event loop."""

    @property
    def spoken(self) -> bool:
        """It has read the store: its image is what the table is to hold of it."""

    def edit(self) -> Edit:
        """What has changed since the last call."""

    def image(self) -> Edit:
        """All of its part, as of the last `edit`."""

    def subjects(self, part: Edit) -> Iterable[Subject]:
        """The objects that want this part of the image; none when it is no part of it."""

    async def made(self, *, anything: bool) -> None:
        """The last `edit` is in the kernel, which may have held all of it already."""


class NodeTable:
    """All methods are called on the event loop."""

    def __init__(self, keeper: Keeper, problems: Problems, events: Events, name: str = OWNER) -> None:
        self.source = f"table inet {name}"
        """Of its problems."""
        self.in_force = asyncio.Event()
        """Set once the kernel holds what all authors say."""
        self.attempted = asyncio.Event()
        """Set once that has been tried."""
        self._keeper = keeper
        self._problems = problems
        self._events = events
        self._authors: list[Author] = []
        self._whole = True
        self._first = True
        """Nothing has been said yet: what the authors say next is their whole image."""
        self._left_out: dict[str, KernelError] = {}
        """What the kernel refuses, by source of trouble."""
        self._rest = _FIRST_REST
        self._again: asyncio.TimerHandle | None = None
        self._due = asyncio.Event()
        keeper.on_touched(self._restore)

    def add(self, author: Author) -> None:
        """Before `run`."""
        self._authors.append(author)

    def on_touched(self, callback: Callable[[], None]) -> None:
        """Call back when somebody else has changed the table."""
        self._keeper.on_touched(callback)

    def touch(self) -> None:
        """An author has something to say."""
        self._due.set()

    async def forget(self, left: Mapping[str, Collection[bytes]]) -> int:
        """Of maps that packets fill: elements that lead to anything but this go; how many did. Raises KernelError."""
        return await self._keeper.forget(left)

    async def run(self) -> None:
        """For ever; the end leaves the table in place. Raises KernelError."""
        await self._keeper.start()
        try:
            pause = _FIRST_PAUSE
            while True:
                await self._due.wait()
                self._due.clear()
                if not all(author.spoken for author in self._authors):
                    continue
                try:
                    anything = await self._bring()
                except KernelError as error:
                    self._problems.raise_(self.source, error)
                    self.attempted.set()
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
                    self._restore()
                    continue
                pause = _FIRST_PAUSE
                self._problems.clear(self.source)
                self.attempted.set()
                self.in_force.set()
                for author in self._authors:
                    await author.made(anything=anything)
        finally:
            if self._again is not None:
                self._again.cancel()
            await self._keeper.stop()

    def _restore(self) -> None:
        """The whole table is to be compared: at the start, and when somebody else touched it."""
        self._whole = True
        self._due.set()

    async def _bring(self) -> bool:
        """Whether anything had to be changed. What is more than one transaction may have is made in parts by a restore."""
        edit = together(author.edit() for author in self._authors)
        if not self._whole:
            try:
                if edit:
                    await self._keeper.edit(edit)
                return bool(edit)
            except KernelError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
        self._whole = False
        image = edit if self._first else together(author.image() for author in self._authors)
        self._first = False
        edit = await self._keeper.restore(image)
        self._tell_of(self._keeper.refused)
        return bool(edit)

    def _tell_of(self, refused: Collection[Refused]) -> None:
        """Each object whose part is left out is in trouble, and all of them are tried again after a rest."""
        before, self._left_out = self._left_out, {}
        for part, error in refused:
            subjects = sorted({subject for author in self._authors for subject in author.subjects(part)})
            for subject in subjects:
                self._events.warn(subject, "KernelRefused", str(error))
            for source in [*map(str, subjects)] or [self.source]:
                self._left_out.setdefault(f"kernel: {source}", error)
        for source in before.keys() - self._left_out.keys():
            self._problems.clear(source)
        for source, error in self._left_out.items():
            self._problems.raise_(source, error)
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if refused:
            self._again = asyncio.get_running_loop().call_later(self._rest, self._restore)
            self._rest = min(self._rest * 2, _LONGEST_REST)
        else:
            self._rest = _FIRST_REST


def keeper(*, host_ports: bool, narrate: Callable[[str], None] | None, hearing: Hearing) -> TableKeeper:
    """The kernel's table of policies and host ports."""
    texts, shapes = [enforcing.TEXT], [*enforcing.SHAPES]
    if host_ports:
        texts.append(host_port_text.TEXT)
        shapes += host_port_text.SHAPES
    return TableKeeper(narrate=narrate, static="\n".join(texts), shapes=shapes, hearing=hearing)


def service_keeper(*, narrate: Callable[[str], None] | None, hearing: Hearing) -> TableKeeper:
    """The kernel's table of Services."""
    return TableKeeper(
        narrate=narrate,
        static=balancing.TEXT,
        shapes=balancing.SHAPES,
        table=balancing.TABLE,
        most_bytes=SERVICE_BYTES,
        hearing=hearing,
    )


async def without_services() -> None:
    """Take away the table of Services that a former life left. Raises KernelError."""
    try:
        await asyncio.to_thread(remove_service_table)
    except OSError as error:
        where = f"table inet {balancing.TABLE}"
        raise KernelError(error.strerror or str(error), errno=error.errno or 0, where=where) from error


def together(edits: Iterable[Edit]) -> Edit:
    """Edits of different authors, who share no set and no chain, as one."""
    parts = list(edits)
    return Edit(
        put_sets=tuple(each for part in parts for each in part.put_sets),
        remove=tuple(each for part in parts for each in part.remove),
        put_chains=tuple(each for part in parts for each in part.put_chains),
        put=tuple(each for part in parts for each in part.put),
        remove_chains=tuple(each for part in parts for each in part.remove_chains),
        remove_sets=tuple(each for part in parts for each in part.remove_sets),
    )
