"""Watches the store for as long as the agent runs, with reconnects.

Store.watch ─▶ Snapshot, Upserted, Deleted ───▶ on_event
           └─▶ ReadProblem, StoreUnavailable ─▶ Problems (after StoreUnavailable a new watch starts, with a Snapshot)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from percale.agent.problems import Problems
from percale.backoff import Backoff
from percale.errors import BadManifest, StoreUnavailable
from percale.model.meta import Object
from percale.store.protocol import Deleted, Event, ReadProblem, Snapshot, Store, Upserted

T = TypeVar("T")

STORE = "store"
_FIRST_RETRY = 0.1
_LONGEST_RETRY = 5.0
"""Seconds between attempts while the store is unreachable."""


async def follow(
    store: Store,
    kinds: tuple[type[Object], ...],
    on_event: Callable[[Snapshot | Upserted | Deleted], Awaitable[None]],
    problems: Problems,
) -> None:
    """Runs until cancelled; keeps desired state while the store is unreachable."""
    backoff = Backoff(_FIRST_RETRY, _LONGEST_RETRY)
    while True:
        try:
            async with _watching(store, kinds) as events:
                async for event in events:
                    if isinstance(event, ReadProblem):
                        _report(event, problems)
                        continue
                    problems.clear(STORE)
                    backoff.reset()
                    await on_event(event)
        except StoreUnavailable as error:
            problems.raise_(STORE, error)
        await asyncio.sleep(backoff.next())


@asynccontextmanager
async def _watching(store: Store, kinds: tuple[type[Object], ...]) -> AsyncIterator[AsyncIterator[Event]]:
    events = store.watch(*kinds)
    try:
        yield events
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()


def _report(event: ReadProblem, problems: Problems) -> None:
    source = f"{STORE} {event.source}"
    if event.error is not None:
        problems.raise_(source, event.error)
    else:
        problems.clear(source)


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
