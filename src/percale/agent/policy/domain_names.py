"""Resolves the domain names of policies periodically. `controller.py` runs it and feeds the evaluator.

    wanted names ─▶ run ─▶ a task for each ─▶ a thread: the node's resolver ─▶ update_addresses(all known addresses)

An address stays valid for a while after the last answer that contained it: many names answer with other addresses each time. A
resolver failure removes nothing.
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
"""The source of the problem."""
INTERVAL = 30.0
"""Seconds between two lookups of a name."""
RETRY_INTERVAL = 5.0
"""The same after a failed lookup."""
RETENTION = 300.0
"""Seconds that an address stays valid after the last answer that contained it."""
FIRST_TIMEOUT = 5.0
"""Seconds that an agent's first rules wait for the first lookups."""
_MAX_CONCURRENT = 16
"""Lookups at a time."""

Resolve = Callable[[str], frozenset[bytes]]
"""The packed addresses of a name; none if it does not exist. Raises OSError if the lookup fails."""


def system_resolve(name: str) -> frozenset[bytes]:
    """With the node's resolver."""
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
        """`update_addresses` gets all known addresses after each answer."""
        self._wanted = wanted
        self._update_addresses = update_addresses
        self._problems = problems
        self._resolve = resolve
        self._clock = clock
        self._seen: dict[str, dict[bytes, float]] = {}
        """By name: its addresses, and when an answer last contained them."""
        self._failed: dict[str, OSError] = {}
        """Names whose last lookup failed."""
        self._concurrency = asyncio.Semaphore(_MAX_CONCURRENT)
        self._due = asyncio.Event()
        self._answered = asyncio.Event()

    def refresh(self) -> None:
        """The wanted names may have changed."""
        self._due.set()

    async def run(self) -> None:
        """Runs until cancelled."""
        tasks: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._due.clear()
                wanted = self._wanted()
                for name in tasks.keys() - wanted:
                    tasks.pop(name).cancel()
                    self._forget(name)
                for name in sorted(wanted - tasks.keys()):
                    tasks[name] = group.create_task(self._resolve_loop(name), name=f"resolve {name}")
                await self._due.wait()

    async def _resolve_loop(self, name: str) -> None:
        while True:
            await self.resolve_once(name)
            await asyncio.sleep(RETRY_INTERVAL if name in self._failed else INTERVAL)

    async def wait_resolved(self, seconds: float = FIRST_TIMEOUT) -> None:
        """Wait until each wanted name has been looked up once, for at most so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._wanted() <= self._seen.keys():
                    self._answered.clear()
                    await self._answered.wait()

    async def resolve_once(self, name: str) -> None:
        """Look the name up once."""
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
    """A lookup may hang for long: it runs on a daemon thread, for which shutdown does not wait."""
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
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, found)

    threading.Thread(target=run, name=f"resolve {name}", daemon=True).start()
    return await answer
