"""The agent's one informer: lists and watches each kind once, for all components, with reconnects.

Store.watch ─▶ Snapshot, Upserted, Deleted ───▶ Subscription ─▶ component, at its own pace
           └─▶ ReadProblem, StoreUnavailable ─▶ Problems (after StoreUnavailable a new watch starts, with a Snapshot)
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import TypeAlias, TypeVar

from percale.agent.problems import Problems
from percale.backoff import Backoff
from percale.errors import BadManifest, PercaleError, StoreUnavailable
from percale.model.meta import Object, ObjectKey
from percale.store.kind_cache import list_source
from percale.store.last_state import SOURCE as LAST_STATE
from percale.store.protocol import Deleted, Event, ReadProblem, Snapshot, Store, Upserted

T = TypeVar("T")
K = TypeVar("K", bound=Object)
Change: TypeAlias = Snapshot | Upserted | Deleted

STORE, _MANIFEST = "store", "manifest"
_FIRST_RETRY = 0.1
_LONGEST_RETRY = 5.0
"""Seconds between attempts while the store is unreachable."""


class Subscription:
    """A component's events, in order: a slow component delays no other.

    A component may begin to read late, when the node's network is known: until then only the latest event of each object is
    kept, so that memory is bounded by the number of objects.
    """

    def __init__(self, kinds: tuple[type[Object], ...]) -> None:
        self.kinds = kinds
        self._events: OrderedDict[object, Change] = OrderedDict()
        self._numbers = count()
        self._is_read = False
        self._changed = asyncio.Event()

    def offer(self, event: Change) -> None:
        """Queue the part of it that concerns these kinds. A Snapshot replaces what is queued."""
        if isinstance(event, Snapshot):
            self._events.clear()
            self._events["snapshot"] = Snapshot({kind: event.by_kind[kind] for kind in self.kinds})
        elif type(event.object) in self.kinds:
            identity = next(self._numbers) if self._is_read else (type(event.object), event.object.key)
            self._events[identity] = event
        else:
            return
        self._changed.set()

    async def events(self) -> AsyncIterator[Change]:
        """A Snapshot, then every change, without end."""
        self._is_read = True
        while True:
            while self._events:
                yield self._events.popitem(last=False)[1]
            self._changed.clear()
            await self._changed.wait()

    async def run(self, on_event: Callable[[Change], Awaitable[None]]) -> None:
        """Call back for each event, until cancelled."""
        async for event in self.events():
            await on_event(event)


class Informer:
    """All methods are called on the event loop."""

    def __init__(self, store: Store, problems: Problems, source: str = STORE) -> None:
        """`source` is what its problems are called, each with what cannot be read."""
        self._source = source
        self._store = store
        self._problems = problems
        self._subscriptions: list[Subscription] = []
        self._is_running = False
        self._with_problems: set[str] = set()
        """Sources of ReadProblems."""
        self._incomplete: set[str] = set()
        """Those that may hide an object."""
        self._completed = asyncio.Event()
        self.on_invalid: Callable[[type[Object], ObjectKey, PercaleError], None] = lambda kind, key, error: None
        """Called with each object that the store's server has and that is invalid here."""
        self._on_lack: dict[str, Callable[[], None]] = {}

    def subscribe(self, *kinds: type[Object]) -> Subscription:
        """Before `run`: the watch has its kinds then, and no Snapshot comes any more. The Snapshot's kinds are in this order."""
        if self._is_running:
            raise RuntimeError("the informer runs: subscribe before")
        subscription = Subscription(kinds)
        self._subscriptions.append(subscription)
        return subscription

    def on_lack(self, kind: type[Object], callback: Callable[[], None]) -> None:
        """Call back when the store lists so few objects of this kind that none is taken as deleted yet."""
        self._on_lack[list_source(kind)] = callback

    async def get(self, kind: type[K], key: ObjectKey) -> K | None:
        """One object, from the store: the watch may be behind it. Raises StoreUnavailable."""
        return await self._store.get(kind, key)

    @property
    def restored(self) -> bool:
        """Whether the store is away and what was read from it comes from disk."""
        return LAST_STATE in self._with_problems

    async def wait_complete(self) -> None:
        """Wait until nothing that cannot be read may hide an object."""
        while self._incomplete:
            self._completed.clear()
            await self._completed.wait()

    async def run(self) -> None:
        """Runs until cancelled; components keep their state while the store is unreachable."""
        self._is_running = True
        kinds = tuple(dict.fromkeys(kind for each in self._subscriptions for kind in each.kinds))
        backoff = Backoff(_FIRST_RETRY, _LONGEST_RETRY)
        while True:
            try:
                async with _watching(self._store, kinds) as events:
                    repaired = set(self._with_problems)  # since the last watch, unless this one tells them too
                    async for event in events:
                        if isinstance(event, ReadProblem):
                            repaired.discard(event.source)
                            self._report(event)
                            continue
                        while repaired:
                            self._report(ReadProblem(repaired.pop(), None))
                        self._problems.clear(self._source)
                        self._set_complete(self._source, True)
                        backoff.reset()
                        for subscription in self._subscriptions:
                            subscription.offer(event)
            except StoreUnavailable as error:
                self._problems.raise_(self._source, error)
                self._set_complete(self._source, False)
            await asyncio.sleep(backoff.next())

    def _report(self, event: ReadProblem) -> None:
        """What is wrong with a manifest of which all objects are there is none of the store's."""
        manifest = event.complete and isinstance(event.error, BadManifest)
        now = f"{_MANIFEST if manifest else self._source} {event.source}"
        self._set_complete(event.source, event.error is None or event.complete)
        if event.error is not None:
            if event.source in self._on_lack:
                self._on_lack[event.source]()
            if event.about is not None:
                self.on_invalid(*event.about, event.error)
            self._with_problems.add(event.source)
            self._problems.raise_(now, event.error)
        else:
            self._with_problems.discard(event.source)
        for source in (f"{self._source} {event.source}", f"{_MANIFEST} {event.source}"):
            if event.error is None or source != now:
                self._problems.clear(source)

    def close(self) -> None:
        """It does not run any more: nothing is wrong with what nobody reads."""
        for source in list(self._with_problems):
            self._report(ReadProblem(source, None))
        self._problems.clear(self._source)

    def _set_complete(self, source: str, complete: bool) -> None:
        if complete:
            self._incomplete.discard(source)
            self._completed.set()
        else:
            self._incomplete.add(source)


@asynccontextmanager
async def _watching(store: Store, kinds: tuple[type[Object], ...]) -> AsyncIterator[AsyncIterator[Event]]:
    events = store.watch(*kinds, isolate=True)
    try:
        yield events
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()


async def retry_until_available(attempt: Callable[[], Awaitable[T]], problems: Problems) -> T:
    """The result of the first attempt that reaches the store."""
    backoff = Backoff(_FIRST_RETRY, _LONGEST_RETRY)
    while True:
        try:
            result = await attempt()
        except (StoreUnavailable, BadManifest) as error:
            problems.raise_(STORE, error)
        else:
            problems.clear(STORE)
            return result
        await asyncio.sleep(backoff.next())
