"""Follows the store for as long as the agent lives: what cannot be read keeps its last good state. Called by `node_agent.py`.

Store.watch ─▶ Snapshot, Upserted, Deleted ─▶ on_event
           └─▶ ReadProblem, StoreUnavailable ───▶ Problems (then the watch begins again, with a Snapshot)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from percale.agent.problems import Problems
from percale.errors import BadManifest, StoreUnavailable
from percale.model.meta import Object
from percale.store.protocol import Deleted, Event, ReadProblem, Snapshot, Store, Upserted

T = TypeVar("T")

STORE = "store"
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
"""Seconds between attempts while the store is away."""


async def follow(
    store: Store,
    kinds: tuple[type[Object], ...],
    on_event: Callable[[Snapshot | Upserted | Deleted], Awaitable[None]],
    problems: Problems,
) -> None:
    """For ever. An unreachable store is asked again, and nothing is taken back meanwhile."""
    pause = _FIRST_PAUSE
    while True:
        try:
            async with _watching(store, kinds) as events:
                async for event in events:
                    if isinstance(event, ReadProblem):
                        _note(event, problems)
                        continue
                    problems.clear(STORE)
                    pause = _FIRST_PAUSE
                    await on_event(event)
        except StoreUnavailable as error:
            problems.raise_(STORE, error)
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


@asynccontextmanager
async def _watching(store: Store, kinds: tuple[type[Object], ...]) -> AsyncIterator[AsyncIterator[Event]]:
    events = store.watch(*kinds)
    try:
        yield events
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()


def _note(event: ReadProblem, problems: Problems) -> None:
    source = f"{STORE} {event.source}"
    if event.error is not None:
        problems.raise_(source, event.error)
    else:
        problems.clear(source)


async def patiently(attempt: Callable[[], Awaitable[T]], problems: Problems) -> T:
    """The attempt's result, once the store answers."""
    pause = _FIRST_PAUSE
    while True:
        try:
            result = await attempt()
        except (StoreUnavailable, BadManifest) as error:
            problems.raise_(STORE, error)
        else:
            problems.clear(STORE)
            return result
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)
