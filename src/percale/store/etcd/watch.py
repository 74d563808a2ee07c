"""One watch of the store, for as long as its reader wants. Made by `store.py`.

    all keys at one revision ─▶ Contents ─▶ Snapshot
    what changes from there on ─▶ Contents ─▶ events
        cut: on from the next revision            away: a ReadProblem, and the same once it answers
        compacted, restored: all keys again, and the differences

What cannot be listed at the start has its last state in the Snapshot; when it is listed, that is a change like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

from percale.backoff import Backoff, spread
from percale.errors import StoreUnavailable
from percale.model.meta import Object
from percale.store.etcd import messages
from percale.store.etcd.client import EtcdClient
from percale.store.etcd.contents import Contents
from percale.store.etcd.layout import Layout
from percale.store.etcd.messages import KeyValue, RangeResponse
from percale.store.kind_cache import Change
from percale.store.last_state import SOURCE as LAST_STATE
from percale.store.last_state import LastState
from percale.store.protocol import Event, ReadProblem
from percale.store.watch_queue import Watch

_PAGE = 1000
"""Keys of one range request."""
_PAUSE = 0.1
"""Seconds before a watch whose connection ended goes on."""
_FIRST_RETRY, _LONGEST_RETRY = 0.1, 5.0
"""Seconds between attempts while etcd does not answer."""
_SOURCE = "etcd"


async def read_all(client: EtcdClient, layout: Layout, kinds: Iterable[type[Object]]) -> tuple[Sequence[KeyValue], int]:
    """All keys of these kinds as they were at one revision, and which one. Raises StoreUnavailable."""
    found: list[KeyValue] = []
    revision = 0
    for prefix in dict.fromkeys(prefix for kind in kinds for prefix in layout.prefixes(kind)):
        last: bytes | None = None
        more = True
        while more:
            wanted = messages.range_of(prefix, after=last, revision=revision, limit=_PAGE)
            page = await client.call("kv/range", wanted, RangeResponse, repeatable=True)
            revision = revision or page.header.revision
            found += page.kvs
            more = page.more
            last = found[-1].key if found else None
    return found, revision


class EtcdWatch:
    """For one reader, on one event loop."""

    def __init__(
        self,
        client: EtcdClient,
        layout: Layout,
        kinds: tuple[type[Object], ...],
        *,
        isolate: bool,
        last_state: LastState | None,
    ) -> None:
        self.queue = Watch(kinds)
        self._client = client
        self._layout = layout
        self._kinds = kinds
        self._last_state = last_state
        self._contents = Contents(layout, kinds, isolate=isolate, last_state=last_state)
        self._revision: int | None = None
        """What is in the contents; None: all keys are to be read."""
        self._snapshot_sent = False
        self._restored = False
        """The Snapshot had the last state, and nothing was listed since."""
        self._told: str | None = None
        """What is wrong with etcd."""

    async def events(self) -> AsyncGenerator[Event]:
        """A Snapshot, then the changes. Ends when the queue is ended."""
        following = asyncio.create_task(self._run(), name="watch etcd")
        try:
            async for event in self.queue.events():
                yield event
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _run(self) -> None:
        try:
            if self._last_state is not None:
                self._last_state.on_problem = self.queue.offer
                for cache in self._contents.caches.values():
                    await self._last_state.run(cache.load)
            await self._follow()
        except Exception as error:
            self.queue.end(error)

    async def _follow(self) -> None:
        backoff = Backoff(_FIRST_RETRY, _LONGEST_RETRY)
        while True:
            try:
                revision = self._revision or await self._list()
                try:
                    async with asyncio.timeout(self._contents.confirm_in):
                        self._revision = await self._watch(revision)
                except TimeoutError:
                    self._revision = None
                backoff.reset()
            except StoreUnavailable as error:
                if not self._snapshot_sent and self._last_state is not None:
                    await self._restore(self._last_state)
                self._tell(error)
                await asyncio.sleep(spread(backoff.next()))

    async def _list(self) -> int:
        """Raises StoreUnavailable."""
        listed, revision = await read_all(self._client, self._layout, self._kinds)
        self._offer(self._contents.replace(listed))
        if not self._snapshot_sent:
            self._offer_snapshot()
        if self._restored:
            self._restored = False
            self.queue.offer(ReadProblem(LAST_STATE, None))
        self._revision = revision
        self._tell(None)
        return revision

    async def _watch(self, revision: int) -> int | None:
        """The changes after this revision, until the connection ends; how far it went, None if nobody knows what has changed.

        Raises StoreUnavailable.
        """
        async with aclosing(self._client.watch(self._layout.prefix, revision + 1)) as responses:
            async for response in responses:
                self._tell(None)
                if response.compact_revision:
                    return None
                if response.canceled:
                    raise StoreUnavailable(response.cancel_reason or "the watch was cancelled", where="etcd")
                self._offer(self._contents.apply(response.events))
                revision = max((each.kv.mod_revision for each in response.events), default=revision)
                self._revision = revision
        await asyncio.sleep(_PAUSE)
        return revision

    async def _restore(self, last_state: LastState) -> None:
        for cache in self._contents.caches.values():
            if not await last_state.run(cache.restore):
                return
        self._restored = True
        self.queue.offer(last_state.restored(self._kinds))
        self._offer_snapshot()

    def _offer_snapshot(self) -> None:
        self._snapshot_sent = True
        self.queue.offer(self._contents.snapshot)

    def _offer(self, changes: Iterable[Change | ReadProblem]) -> None:
        """Until the Snapshot, changes are in the contents only."""
        for change in changes:
            if isinstance(change, ReadProblem):
                self.queue.offer(change)
            elif self._snapshot_sent:
                event, entry = change
                self.queue.offer(event(entry.object))

    def _tell(self, error: StoreUnavailable | None) -> None:
        """Once, whatever else fails in the same way."""
        text = str(error) if error is not None else None
        if text != self._told:
            self._told = text
            self.queue.offer(ReadProblem(_SOURCE, error, complete=self._snapshot_sent))
