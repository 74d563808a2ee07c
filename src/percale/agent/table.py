"""`table inet percale` of this node: one keeper, several authors, and one at a time who brings their words to the kernel.

    Enforcement (policies) ──┐ edit(), image()
                             ├─▶ NodeTable ─▶ TableKeeper ─▶ the kernel
    Balancing (services) ────┘      ▲
    somebody touched the table ─────┘ restore

Changes that come while the kernel is busy are one edit together. Fail closed: what a former life left in the kernel stays in
force until every author has read the store, and an edit that the kernel refuses is tried again with the whole image.
`node.py` and `policing.py` run it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol

from percale.agent.troubles import Troubles
from percale.errors import KernelError
from percale.kernel.hearing import Hearing
from percale.kernel.keeping import Keeper, TableKeeper
from percale.render import balancing, enforcing
from percale.render import host_ports as host_port_text
from percale.render.contents import Edit

SOURCE = "table inet percale"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
"""Seconds until a refused edit is tried again; doubled each time."""


class Author(Protocol):
    """Has a part of the table. All methods are called on the event loop."""

    @property
    def spoken(self) -> bool:
        """It has read the store: its image is what the table is to hold of it."""

    def edit(self) -> Edit:
        """What has changed since the last call."""

    def image(self) -> Edit:
        """All of its part, as of the last `edit`."""

    async def made(self, *, anything: bool) -> None:
        """The last `edit` is in the kernel, which may have held all of it already."""


class NodeTable:
    """All methods are called on the event loop."""

    def __init__(self, keeper: Keeper, troubles: Troubles) -> None:
        self.in_force = asyncio.Event()
        """Set once the kernel holds what all authors say."""
        self._keeper = keeper
        self._troubles = troubles
        self._authors: list[Author] = []
        self._whole = True
        self._first = True
        """Nothing has been said yet: what the authors say next is their whole image."""
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
                    self._troubles.begin(SOURCE, error)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
                    self._restore()
                    continue
                pause = _FIRST_PAUSE
                self._troubles.end(SOURCE)
                self.in_force.set()
                for author in self._authors:
                    await author.made(anything=anything)
        finally:
            await self._keeper.stop()

    def _restore(self) -> None:
        """The whole table is to be compared: at the start, and when somebody else touched it."""
        self._whole = True
        self._due.set()

    async def _bring(self) -> bool:
        """Whether anything had to be changed."""
        edit = together(author.edit() for author in self._authors)
        if self._whole:
            self._whole = False
            image = edit if self._first else together(author.image() for author in self._authors)
            self._first = False
            edit = await self._keeper.restore(image)
        elif edit:
            await self._keeper.edit(edit)
        return bool(edit)


def keeper(*, services: bool, host_ports: bool, narrate: Callable[[str], None] | None, hearing: Hearing) -> TableKeeper:
    """The kernel's table; without `services` it has none of their chains, and no new connection passes them."""
    texts, shapes = [enforcing.TEXT], [*enforcing.SHAPES]
    if host_ports:
        texts.append(host_port_text.TEXT)
        shapes += host_port_text.SHAPES
    if services:
        texts.append(balancing.TEXT)
        shapes += balancing.SHAPES
    return TableKeeper(narrate=narrate, static="\n".join(texts), shapes=shapes, hearing=hearing)


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
