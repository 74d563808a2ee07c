"""Keeps an event loop responsive: blocking calls on a thread of their own, long loops with pauses for other tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class WorkerThread:
    """Runs blocking calls one after the other on one named thread."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, call: Callable[[], T]) -> T:
        """The call's result; its exceptions are raised here."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    def submit(self, call: Callable[[], object]) -> None:
        """Run it without waiting."""
        self._executor.submit(call)

    def close(self) -> None:
        """Wait for the calls that were submitted, and end the thread."""
        self._executor.shutdown()


async def run_on_own_thread(name: str, call: Callable[[], T]) -> T:
    """The call's result, from a thread that ends with it; the caller's cancellation does not wait for it."""
    executor = ThreadPoolExecutor(1, thread_name_prefix=name)
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, call)
    finally:
        executor.shutdown(wait=False)


async def yield_every(count: int, items: Iterable[T]) -> AsyncIterator[T]:
    """The items; other tasks run after each `count` of them."""
    for number, item in enumerate(items, 1):
        yield item
        if number % count == 0:
            await asyncio.sleep(0)
