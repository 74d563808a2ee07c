"""One watch of the store: a ListWatch for each resource, one queue for the reader. Made by `store.py`.

ListWatch pods  ─▶ KindCache ─┐                 ┌─ one Snapshot, when all of them are listed
ListWatch nodes ─▶ KindCaches ┴─ Node ──────────┤
                                 SubnetLease    └─ then the changes, in order

Of what cannot be listed at the start, the Snapshot has the last state; when it is listed, that is a change like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping

from percale.errors import StoreUnavailable
from percale.model.endpoints import Endpoints, EndpointSlice
from percale.model.meta import Object
from percale.model.node import Node
from percale.model.subnet_lease import SubnetLease
from percale.store.kind_cache import Change, KindCache
from percale.store.kubernetes.api_client import ApiClient
from percale.store.kubernetes.list_watch import ListWatch
from percale.store.kubernetes.node_leases import LeaseFormat
from percale.store.last_state import SOURCE as LAST_STATE
from percale.store.last_state import LastState
from percale.store.protocol import Event, ReadProblem, Snapshot
from percale.store.watch_queue import Watch

_MIRRORED: Mapping[type[Object], type[Object]] = {Endpoints: EndpointSlice}
"""Not watched by a reader of slices: the cluster's own controller mirrors those that matter into them."""


class ApiWatch:
    """For one reader, on one event loop."""

    def __init__(
        self,
        api: ApiClient,
        lease_format: LeaseFormat,
        kinds: tuple[type[Object], ...],
        *,
        isolate: bool = False,
        last_state: LastState | None = None,
    ) -> None:
        self.queue = Watch(kinds)
        self._last_state = last_state
        self._caches = {
            kind: KindCache(
                kind,
                lease_format.lease_of if kind is SubnetLease else None,
                log=last_state.log(kind) if last_state is not None else None,
            )
            for kind in kinds
        }
        self._snapshot_sent = False
        self._failures: dict[str, StoreUnavailable] = {}
        """By resource, the first to fail first."""
        self._told: dict[str, StoreUnavailable] = {}
        by_resource: dict[type[Object], list[KindCache]] = {}
        for kind, cache in self._caches.items():
            if kind not in _MIRRORED or _MIRRORED[kind] not in kinds:
                by_resource.setdefault(Node if kind is SubnetLease else kind, []).append(cache)
        self._list_watches = [
            ListWatch(api, kind, caches, self._publish, isolate=isolate) for kind, caches in by_resource.items()
        ]

    async def events(self) -> AsyncGenerator[Event]:
        """A Snapshot once all kinds are listed, then the changes. Ends when the queue is ended."""
        if self._last_state is not None:
            self._last_state.on_problem = self.queue.offer
            for cache in self._caches.values():
                await self._last_state.run(cache.load)
        tasks = [asyncio.create_task(each.run(), name=f"watch {each.resource}") for each in self._list_watches]
        tasks.append(asyncio.create_task(self._send_snapshot(), name="watch snapshot"))
        for task in tasks:
            task.add_done_callback(self._ended)
        try:
            async for event in self.queue.events():
                yield event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send_snapshot(self) -> None:
        for each in self._list_watches:
            await each.attempted.wait()
        if self._last_state is not None:
            await self._restore(self._last_state)
        for each in self._list_watches:
            await each.listed.wait()
        if self._snapshot_sent:
            self.queue.offer(ReadProblem(LAST_STATE, None))
        else:
            self._offer_snapshot()

    async def _restore(self, last_state: LastState) -> None:
        """If something could not be listed, and if the last state has all of that."""
        caches = [cache for each in self._list_watches if not each.listed.is_set() for cache in each.caches]
        for cache in caches:
            if not await last_state.run(cache.restore):
                return
        if caches:
            self.queue.offer(last_state.restored(cache.kind for cache in caches))
            self._offer_snapshot()
            for source, error in self._told.items():
                self.queue.offer(ReadProblem(source, error, complete=True))

    def _offer_snapshot(self) -> None:
        self._snapshot_sent = True
        self.queue.offer(Snapshot({kind: cache.objects for kind, cache in self._caches.items()}))

    def _publish(self, changes: Iterable[Change | ReadProblem]) -> None:
        """Until the Snapshot, changes are in the caches only."""
        for change in changes:
            if isinstance(change, ReadProblem):
                self._report(change)
            elif self._snapshot_sent:
                event, entry = change
                self.queue.offer(event(entry.object))

    def _report(self, problem: ReadProblem) -> None:
        """A server that cannot be reached is one problem, not one for each resource."""
        if not isinstance(problem.error, StoreUnavailable) and problem.source not in self._failures:
            self.queue.offer(problem)
            return
        if isinstance(problem.error, StoreUnavailable):
            self._failures[problem.source] = problem.error
        else:
            del self._failures[problem.source]
        first = {str(error): source for source, error in reversed(self._failures.items())}
        for source in first.values():
            if str(self._told.get(source)) != str(self._failures[source]):
                self.queue.offer(ReadProblem(source, self._failures[source], complete=self._snapshot_sent))
        for source in self._told.keys() - first.values():
            self.queue.offer(ReadProblem(source, None))
        self._told = {source: self._failures[source] for source in first.values()}

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A list-watch ends by a defect only: its reader gets the error."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.queue.end(error)
