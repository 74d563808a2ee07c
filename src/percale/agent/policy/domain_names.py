"""What the domain names in policies system_resolve to, asked again and again. `controller.py` runs it and feeds the evaluator.

    wanted names ─▶ run ─▶ a task for each ─▶ a thread: the node's own resolver ─▶ update_addresses(all that is known)

A name's addresses count for a while after the last answer that held them: many names answer with others each time. A resolver
that fails takes nothing back.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from ipaddress import ip_address

from percale.agent.problems import Problems
from percale.errors import AgentError

NAMES = "domain names"
"""The problems' source."""
INTERVAL = 30.0
"""Seconds between two questions about one name."""
RETRY_INTERVAL = 5.0
"""The same after one without an answer."""
RETENTION = 300.0
"""Seconds for which an address counts that no answer has held any more."""
FIRST_TIMEOUT = 5.0
"""Seconds that an agent's first rules wait for answers."""
_MAX_CONCURRENT = 16
"""DomainResolver asked for at the same time."""

Resolve = Callable[[str], frozenset[bytes]]
"""The packed addresses of a name; none when there is no such name. Raises OSError when nobody knows."""


def system_resolve(name: str) -> frozenset[bytes]:
    """By the node's own resolver."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA):
            return frozenset()
        raise
    except UnicodeError:  # a label of more than 63 characters
        return frozenset()
    return frozenset(ip_address(str(place[0]).partition("%")[0]).packed for *_, place in found)


class DomainResolver:
    """All methods are called on the event loop."""

    def __init__(
        self,
        wanted: Callable[[], frozenset[str]],
        update_addresses: Callable[[Mapping[str, frozenset[bytes]]], None],
        problems: Problems,
        *,
        resolve: Resolve = system_resolve,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`update_addresses` hears after each answer of all that is known."""
        self._wanted = wanted
        self._update_addresses = update_addresses
        self._problems = problems
        self._resolve = resolve
        self._clock = clock
        self._seen: dict[str, dict[bytes, float]] = {}
        """By name: its addresses, and when an answer held them last."""
        self._failed: dict[str, OSError] = {}
        """DomainResolver whose last resolve_once had no answer."""
        self._concurrency = asyncio.Semaphore(_MAX_CONCURRENT)
        self._due = asyncio.Event()
        self._answered = asyncio.Event()

    def refresh(self) -> None:
        """Other names may be wanted now."""
        self._due.set()

    async def run(self) -> None:
        """For ever."""
        tasks: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as tasks_group:
            while True:
                self._due.clear()
                wanted = self._wanted()
                for name in tasks.keys() - wanted:
                    tasks.pop(name).cancel()
                    self._forget(name)
                for name in sorted(wanted - tasks.keys()):
                    tasks[name] = tasks_group.create_task(self._resolve_loop(name), name=f"system_resolve {name}")
                await self._due.wait()

    async def _resolve_loop(self, name: str) -> None:
        while True:
            await self.resolve_once(name)
            await asyncio.sleep(RETRY_INTERVAL if name in self._failed else INTERVAL)

    async def wait_resolved(self, seconds: float = FIRST_TIMEOUT) -> None:
        """Each name that is wanted has been asked for once, or this has taken so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._wanted() <= self._seen.keys():
                    self._answered.clear()
                    await self._answered.wait()

    async def resolve_once(self, name: str) -> None:
        """Ask once."""
        async with self._concurrency:
            try:
                self._store_addresses(name, await _in_thread(self._resolve, name))
                self._failed.pop(name, None)
            except OSError as error:
                self._seen.setdefault(name, {})
                self._failed[name] = error
        self._answered.set()
        self._report()

    def _store_addresses(self, name: str, found: Iterable[bytes]) -> None:
        now = self._clock()
        seen = {**self._seen.get(name, {}), **dict.fromkeys(found, now)}
        self._seen[name] = {address: at for address, at in seen.items() if now - at <= RETENTION}
        self._publish()

    def _forget(self, name: str) -> None:
        self._seen.pop(name, None)
        self._failed.pop(name, None)
        self._publish()
        self._report()

    def _publish(self) -> None:
        self._update_addresses({name: frozenset(addresses) for name, addresses in self._seen.items() if addresses})

    def _report(self) -> None:
        if not self._failed:
            self._problems.clear(NAMES)
            return
        name, error = min(self._failed.items())
        others = f" (and {len(self._failed) - 1} more)" if len(self._failed) > 1 else ""
        self._problems.raise_(
            NAMES,
            AgentError(
                f"{name!r}{others} cannot be resolved: {error.strerror}",
                hint="rules with these domainNames go on with the addresses known before",
            ),
        )


async def _in_thread(resolve: Resolve, name: str) -> frozenset[bytes]:
    """A resolver may hang for long: its thread is one that the agent's end does not wait for."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[frozenset[bytes]] = loop.create_future()

    def settle(found: frozenset[bytes] | OSError) -> None:
        if answer.cancelled():
            return
        if isinstance(found, OSError):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def run() -> None:
        found: frozenset[bytes] | OSError
        try:
            found = resolve(name)
        except OSError as error:
            found = error
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, found)

    threading.Thread(target=run, name=f"system_resolve {name}", daemon=True).start()
    return await answer
