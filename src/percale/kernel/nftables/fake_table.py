"""A keeper without a kernel: the public fake behind `keeping.Keeper`, for tests of the agent and for whoever builds on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from percale.errors import KernelError
from percale.kernel.nftables.portions import TAKES_NOTHING, Refused, make_in_parts
from percale.kernel.nftables.table import GATHERING
from percale.render.nft.objects import Edit, SetShape
from percale.render.nft.table_state import Held, difference
from percale.render.policy import base_chains as enforcing


class FakeKeeper:
    """`held` is the table, None when there is none; `edits` are all that changed it, in order."""

    def __init__(self, shapes: Iterable[SetShape] = enforcing.SHAPES, chains: Iterable[str] = ()) -> None:
        """`shapes` and `chains` are the static text's."""
        self.held: Held | None = None
        self.edits: list[Edit] = []
        self.remembered: dict[str, dict[bytes, bytes]] = {}
        """What packets have put into maps with a timeout."""
        self.refused: Sequence[Refused] = ()
        self.refusals: list[KernelError] = []
        """The next changes are refused with these."""
        self._bare = Held.bare(shapes, chains)
        self._callbacks: list[Callable[[], None]] = []
        self._due: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Nothing to open."""

    def on_touched(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    async def restore(self, image: Edit) -> Edit:
        await asyncio.sleep(0)
        loaded = self.held is None
        held = self.held or self._bare
        missing = difference(held, image)
        self.refused = ()
        if loaded or missing:
            try:
                self._change(held, missing)
            except KernelError as error:
                if error.errno in TAKES_NOTHING:
                    raise
                self.held = held
                shapes = {name: each.shape for name, each in held.sets.items() if each.shape is not None}
                self.refused = make_in_parts(missing, shapes, self._make, enforcing.JUDGING)
        return image if loaded else missing

    async def edit(self, edit: Edit) -> None:
        await asyncio.sleep(0)
        if edit:
            self._change(self.held or Held(), edit)

    async def forget(self, left: Mapping[str, Collection[bytes]]) -> int:
        await asyncio.sleep(0)
        count = 0
        for name, values in left.items():
            known = self.remembered.get(name, {})
            gone = [key for key, value in known.items() if value not in values]
            count += len(gone)
            for key in gone:
                del known[key]
        return count

    async def remove(self) -> None:
        await asyncio.sleep(0)
        self.held = None

    async def stop(self) -> None:
        if self._due is not None:
            self._due.cancel()

    def touch(self, edit: Edit | None) -> None:
        """Somebody else makes this edit, or deletes the table."""
        self.held = self.held.after(edit) if self.held is not None and edit is not None else None
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(GATHERING, self._tell)

    def _tell(self) -> None:
        self._due = None
        for callback in self._callbacks:
            callback()

    def _make(self, edit: Edit) -> None:
        assert self.held is not None
        if edit:
            self._change(self.held, edit)

    def _change(self, held: Held, edit: Edit) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.held = held.after(edit)
        self.edits.append(edit)
