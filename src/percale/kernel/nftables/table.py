"""Keeping an inet table of ours as the agent wants it: edits as atomic batches, and repair when somebody else touched it.

    agent, on its event loop ─▶ TableKeeper ─▶ one worker thread ─┬─ edit ────▶ batching ─▶ nfnetlink: whole or not at all
                                    ▲                             └─ restore ─▶ holdings ─▶ difference ─▶ the same, or in portions
    the kernel's notifications ─────┘  of what others did

A restore that the kernel does not take whole is made in parts (`portions.py`), and the parts that it refuses are left out.

The table that a former life left is read at the start, while the authors still read the store.

The loop never waits for the kernel. `agent/nft_table.py` calls; `fake_table.py` is the public fake.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol, TypeVar

from percale.errors import KernelError
from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import attributes, string
from percale.kernel.netns import Here, NamespaceThread, Place, anonymous_namespace
from percale.kernel.nftables import batch as batching
from percale.kernel.nftables import dump as holdings
from percale.kernel.nftables import portions
from percale.kernel.nftables import script as spelling_tables
from percale.kernel.nftables import static_tables as nftables
from percale.kernel.nftables.commit import Hearing
from percale.kernel.nftables.portions import TAKES_NOTHING, Refused
from percale.render.nft.objects import Edit, Elements, SetShape
from percale.render.nft.table_state import Held, difference
from percale.render.objects import OWNER
from percale.render.policy import base_chains as enforcing

T = TypeVar("T")

GATHERING = 0.02
"""Seconds that news of others' changes wait for more of them."""
_NEW_GENERATION = 15


class Keeper(Protocol):
    """One namespace's table. All methods are called on the event loop."""

    async def start(self) -> None:
        """Begin to listen. The table is as it was. Raises KernelError."""

    def on_touched(self, callback: Callable[[], None]) -> None:
        """Call this on the loop whenever somebody else has changed the table."""

    @property
    def refused(self) -> Sequence[Refused]:
        """What the last restore had to leave out."""

    async def restore(self, image: Edit) -> Edit:
        """Make the table exactly the static text with this image; what had to be changed.

        What the kernel refuses of it is left out and told by `refused`. Raises KernelError when nothing can be changed.
        """

    async def edit(self, edit: Edit) -> None:
        """Make one edit of what was restored, whole or not at all. Raises KernelError."""

    async def forget(self, left: Mapping[str, Collection[bytes]]) -> int:
        """Of maps that packets fill: elements that lead to anything but this go; how many did. Raises KernelError."""

    async def remove(self) -> None:
        """The table goes with all that it holds; that there is none is no error. Raises KernelError."""

    async def stop(self) -> None:
        """Give back threads and sockets; the table stays."""


class TableKeeper:
    """The kernel itself behind `Keeper`."""

    def __init__(
        self,
        place: Place | None = None,
        *,
        narrate: Callable[[str], None] | None = None,
        static: str = enforcing.TEXT,
        shapes: Iterable[SetShape] = enforcing.SHAPES,
        table: str = OWNER,
        most_bytes: int | None = None,
        hearing: Hearing | None = None,
    ) -> None:
        """In the namespace of `place` (default: the process'); it is closed by `stop`.

        `narrate` gets each change's `nft` command before it is made, on the worker thread. `static` is the text of the
        `table` and `shapes` its sets that edits fill. `most_bytes` is what one transaction may have, so that those of other
        tables have their turn. `hearing` is shared with the driver of the same namespace.
        """
        self._hearing = hearing or Hearing()
        filled = {shape.name: shape for shape in shapes}
        self._keeping = _Keeping(
            place or Here(),
            narrate=narrate,
            table=table,
            static=static,
            filled=filled,
            most_bytes=most_bytes or sys.maxsize,
            hearing=self._hearing,
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"table-{table}")
        self._callbacks: list[Callable[[], None]] = []
        self._news: netlink.Socket | None = None
        self._due: asyncio.TimerHandle | None = None

    def on_touched(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._news = await self._do(lambda: self._keeping.open(lambda: loop.call_soon_threadsafe(self._plan_to_tell)))
        loop.add_reader(self._news.fileno(), self._read_news)
        self._thread.submit(self._keeping.look_ahead)

    async def restore(self, image: Edit) -> Edit:
        return await self._do(lambda: self._keeping.restore(image))

    @property
    def refused(self) -> Sequence[Refused]:
        return self._keeping.refused

    async def edit(self, edit: Edit) -> None:
        await self._do(lambda: self._keeping.edit(edit))

    async def forget(self, left: Mapping[str, Collection[bytes]]) -> int:
        return await self._do(lambda: sum(self._keeping.forget(name, values) for name, values in left.items()))

    async def remove(self) -> None:
        await self._do(self._keeping.remove)

    async def stop(self) -> None:
        if self._news is not None:
            asyncio.get_running_loop().remove_reader(self._news.fileno())
            await self._do(partial(self._hearing.end, self._news))
            self._news.close()
            self._news = None
        if self._due is not None:
            self._due.cancel()
        await self._do(self._keeping.close)
        self._thread.shutdown()

    async def _do(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, action)

    # News

    def _read_news(self) -> None:
        """One datagram at a time, so that a swarm of them leaves the loop its breath."""
        assert self._news is not None
        touched = True
        try:
            messages = self._news.receive(wait=False)
            touched = self._due is None and any(map(self._keeping.is_about_us, messages))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # some were lost: they may have been about us
                raise
        if touched:
            self._plan_to_tell()

    def _plan_to_tell(self) -> None:
        self._keeping.touched = True
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(GATHERING, self._tell)

    def _tell(self) -> None:
        self._due = None
        for callback in self._callbacks:
            callback()


class _Keeping:
    """What happens on the worker thread."""

    def __init__(
        self,
        place: Place,
        *,
        narrate: Callable[[str], None] | None,
        table: str,
        static: str,
        filled: dict[str, SetShape],
        most_bytes: int,
        hearing: Hearing,
    ) -> None:
        self._place = place
        self._narrate = narrate
        self._table = table
        self._static = static
        self._filled = filled
        self._most_bytes = most_bytes
        self._hearing = hearing
        self._shapes = dict(filled)
        self._pattern: batching.Skeleton | None = None
        self._ahead: holdings.Table | None = None
        self.touched = False
        """Somebody else has changed the table since the start; set by the event loop."""
        self.refused: Sequence[Refused] = ()
        self._socket: netlink.Socket | None = None

    def open(self, missed: Callable[[], object]) -> netlink.Socket:
        """Where others' changes are told; `missed` is called on this thread or another when some may not have been."""
        try:
            self._socket = self._place.run(lambda: netlink.Socket(netlink.NETFILTER))
            news = self._place.run(lambda: netlink.Socket(netlink.NETFILTER))
            news.ignore(self._socket.port)
            self._hearing.begin(news, missed)
        except OSError as error:
            raise self._failed(error) from error
        return news

    @property
    def _opened(self) -> netlink.Socket:
        assert self._socket is not None, "the keeper has not been started"
        return self._socket

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._place.close()

    def is_about_us(self, message: netlink.Message) -> bool:
        """Did somebody else change the table? Asked on the event loop."""
        subsystem, kind = divmod(message.type, 1 << 8)
        if subsystem != nftables.SUBSYSTEM or kind == _NEW_GENERATION or message.body[0] != nftables.INET:
            return False
        return string(attributes(message.body, 4).get(nftables.TABLE_OF_ANYTHING, b"")) == self._table

    # Changes

    def edit(self, edit: Edit) -> None:
        if edit:
            shapes = self._shapes
            self._commit(
                batching.batch(edit, shapes, self._table), lambda: spelling_tables.spell(edit, shapes, self._table)
            )
            for name in edit.remove_sets:
                self._shapes.pop(name, None)
            self._shapes.update((shape.name, shape) for shape in edit.put_sets)

    def _commit(self, batch: batching.Batch, spelled: Callable[[], Iterable[str]]) -> None:
        if (size := batch.size) > self._most_bytes:
            raise self._failed(OSError(errno.EMSGSIZE, f"{size} bytes are more than one transaction may have"))
        if self._narrate is not None:
            for command in spelled():
                self._narrate(f"nft -f - <<'END'\n{command}END" if "\n" in command else f"nft '{command}'")
        try:
            failure = self._hearing.commit(self._opened, batch.requests)
        except OSError as error:
            raise self._failed(error) from error
        if failure is not None:
            part = batch.concerns[failure.position] if failure.position >= 0 else None
            raise self._failed(failure.error, part) from failure.error

    def look_ahead(self) -> None:
        """What a former life left is read before it is asked for; what fails now is said by `restore`."""
        with contextlib.suppress(OSError):
            self._ahead = self._look(self._known_pattern())

    def restore(self, image: Edit) -> Edit:
        self.refused = ()
        try:
            pattern = self._known_pattern()
            ahead, self._ahead = self._ahead, None
            table = ahead if ahead is not None and not self.touched else self._look(pattern)
        except OSError as error:
            raise self._failed(error) from error
        if table is None or table.skeleton != pattern:
            if not self._takes(lambda: self._make_anew(pattern, image), image, self._filled):
                self._make_anew_in_parts(pattern, image)
            return image
        self._shapes = {name: shape for name, (shape, _) in table.held.sets.items() if shape is not None}
        missing = difference(table.held, image)
        if not self._takes(lambda: self.edit(missing), missing, self._shapes):
            self._make_in_parts(missing)
        return missing

    def _make_anew_in_parts(self, pattern: batching.Skeleton, image: Edit) -> None:
        """Nobody who is judged gets anywhere until what judges them is there."""
        closed = portions.closed(Edit(put=image.put), enforcing.JUDGING)
        self._make_anew(pattern, closed)
        bare = Held.bare(self._filled.values(), pattern.chains, self._table)
        self._make_in_parts(difference(bare.after(closed), image) if closed else image)

    def _make_in_parts(self, change: Edit) -> None:
        self.refused = portions.make_in_parts(change, self._shapes, self.edit, enforcing.JUDGING)

    def _takes(self, make: Callable[[], None], edit: Edit, shapes: Mapping[str, SetShape]) -> bool:
        """Whether the kernel took this edit whole. Raises KernelError when it would take no other one either."""
        if portions.size_of(edit, shapes) > self._most_bytes:
            return False
        try:
            make()
        except KernelError as error:
            if error.errno in TAKES_NOTHING:
                raise
            return False
        return True

    def _look(self, pattern: batching.Skeleton) -> holdings.Table | None:
        return holdings.read(self._opened, self._filled, pattern, self._table)

    def _known_pattern(self) -> batching.Skeleton:
        self._pattern = self._pattern or self._load_pattern()
        return self._pattern

    def _make_anew(self, pattern: batching.Skeleton, image: Edit) -> None:
        """The text with this image in one batch: where something was in force, there is no moment without it."""
        self._commit(
            batching.anew(pattern, image, self._filled, self._table),
            lambda: [
                spelling_tables.anew(self._static, self._table),
                *spelling_tables.spell(image, self._filled, self._table),
            ],
        )
        self._shapes = {**self._filled, **{shape.name: shape for shape in image.put_sets}}

    def _load_pattern(self) -> batching.Skeleton:
        """What the kernel makes of the text: `nft` loads it into a namespace of its own, where nobody touches it."""
        namespace = anonymous_namespace()
        with contextlib.closing(NamespaceThread(namespace, "table-pattern")) as place:
            os.close(namespace)
            place.run(lambda: nftables.run_nft(spelling_tables.anew(self._static, self._table), deque()))
            with contextlib.closing(place.run(lambda: netlink.Socket(netlink.NETFILTER))) as socket:
                table = holdings.read(socket, self._filled, table=self._table)
        assert table is not None
        bare = Held.bare(self._filled.values(), table.skeleton.chains, self._table)
        assert table.held == bare, "the text does not declare the sets that are said to be in it"
        return table.skeleton

    def forget(self, name: str, values: Collection[bytes]) -> int:
        """Elements of one map. One may run out between the look and its deletion, which then deletes none: look again."""
        shape = self._shapes.get(name)
        if shape is None:
            return 0
        while True:
            try:
                found = holdings.elements(self._opened, self._table, shape)
            except OSError as error:
                raise self._failed(error, f"set {name}") from error
            gone = b"".join(key for key, value in found.items() if value not in values)
            if not gone:
                return 0
            try:
                self._commit(batching.batch(Edit(remove=(Elements(name, gone),)), self._shapes, self._table), tuple)
            except KernelError as error:
                if error.errno != errno.ENOENT:
                    raise
            else:
                return len(gone) // shape.key_size

    def remove(self) -> None:
        try:
            nftables.remove_table(self._opened, nftables.INET, self._table)
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError, part: str | None = None) -> KernelError:
        number = error.errno or errno.EIO
        where = f"table inet {self._table}" + (f", {part}" if part is not None else "")
        return KernelError(error.strerror or os.strerror(number), errno=number, where=where)
