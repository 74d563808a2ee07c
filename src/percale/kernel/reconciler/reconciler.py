"""desired − actual = change, for one network namespace, maintained while others interfere.

    event loop                  │ worker thread                             │ kernel
    declare(source, objects) ───┼─▶ state: desired ──┐                      │
                          inbox │                    ├─ plan() ─▶ Driver.apply ──▶
    wait_applied(source) ◀──────┼── applied(results) ┘                      │
    on_underlay, on_… ◀─────────┼── state: actual ◀──── Driver.read / .follow ◀──

Callers: the agent (backends, masquerade), cni (pods). The event loop never waits: it queues tasks, and one worker thread does
all that takes time, planning included. Whatever is in the inbox when the worker returns is one batch.
"""

from __future__ import annotations

import asyncio
import errno
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from percale.backoff import Backoff
from percale.errors import KernelError
from percale.kernel.protocol import (
    Change,
    Driver,
    KernelEvent,
    ObjectRemoved,
    ResyncRequired,
    Underlay,
    UnderlayChanged,
)
from percale.kernel.reconciler.state import ReconcilerState
from percale.kernel.reconciler.sysctl_schedule import EVERY, SysctlSchedule
from percale.render.objects import KernelObject, Key, Link

FIRST_PAUSE = 0.05
"""Seconds until a failed object is retried; doubled each time."""
LONGEST_PAUSE = 5.0
WIREGUARD_EVERY = 10.0
"""Seconds between two looks at wireguard devices, of whose keys and peers the kernel reports no changes."""
GATHERING = 0.01
"""Seconds that kernel events are collected, after the time that the monitor gave them."""
_READING = "reading the kernel's state"

_Task: TypeAlias = Callable[[], None]


@dataclass(slots=True)
class _Retry:
    backoff: Backoff
    due: float


class Reconciler:
    """All methods are called on the event loop; none of them blocks it.

    On conflict the lexicographically first source wins, whatever the order of declaration.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        on_problem: Callable[[str, KernelError], None] | None = None,
        on_restored: Callable[[KernelObject], None] = lambda _object: None,
        on_batch: Callable[[float, Sequence[OSError | None]], None] = lambda _seconds, _results: None,
    ) -> None:
        """`on_problem` gets the source and the error, once for each new error of an object; on the event loop.

        `on_restored` gets each object that another program has changed or removed, once it is restored; on the event loop.

        `on_batch` gets the seconds that the kernel took for a batch of changes, and their results; on the worker thread.
        """
        self._on_batch = on_batch
        self._driver = driver
        self._on_problem = on_problem
        self._on_restored = on_restored
        self._state = ReconcilerState()
        self._inbox: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="reconciler", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._underlay = Underlay((), ())
        self._underlay_callbacks: list[Callable[[Underlay], None]] = []
        self._problems: Mapping[Key, KernelError] = {}
        self._pending: set[asyncio.Future[None]] = set()
        # Used on the worker thread only:
        self._waiting: list[tuple[str | None, asyncio.Future[None]]] = []
        self._retries: dict[Key, _Retry] = {}
        self._reported: dict[Key, str] = {}
        self._queued_events: list[KernelEvent] = []
        self._events_due: float | None = None
        self._read_due: float | None = None
        self._underlay_due: float | None = None
        self._settings_due = time.monotonic() + EVERY
        self._sysctl_schedule = SysctlSchedule()
        self._wireguard_due = time.monotonic() + WIREGUARD_EVERY

    # On the event loop

    async def start(self) -> None:
        """Read the actual objects; nothing is deleted before `start_garbage_collection()`. Raises KernelError."""
        self._loop = asyncio.get_running_loop()
        started = self._loop.create_future()
        self._inbox.put(lambda: self._begin(started))
        self._thread.start()
        await started

    def declare(self, source: str, objects: Iterable[KernelObject]) -> None:
        """Replace all desired objects of `source`; () withdraws them. Applied soon, in one batch."""
        self._inbox.put(partial(self._state.declare, source, tuple(objects)))

    def start_garbage_collection(self) -> None:
        """All sources have synced: from now on, undeclared owned objects are deleted."""
        self._inbox.put(self._state.start_garbage_collection)

    async def wait_applied(self, source: str) -> None:
        """Wait until the kernel holds the objects of `source`. Raises KernelError if it rejected one of them."""
        await self._wait(source)

    async def wait_idle(self) -> None:
        """Wait until nothing is left to apply, except what the kernel rejects."""
        await self._wait(None)

    async def _wait(self, source: str | None) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.add(done)
        self._inbox.put(lambda: self._waiting.append((source, done)))
        try:
            await done
        finally:
            self._pending.discard(done)

    @property
    def underlay(self) -> Underlay:
        """Interfaces and foreign routes, as of the last event."""
        return self._underlay

    def on_underlay(self, callback: Callable[[Underlay], None]) -> None:
        """Call back when the underlay has changed."""
        self._underlay_callbacks.append(callback)

    @property
    def problems(self) -> Mapping[Key, KernelError]:
        """Objects that the kernel rejects at present; each is retried with exponential backoff."""
        return self._problems

    async def stop(self) -> None:
        """End the worker and close the driver; the kernel's state remains. Waiters are cancelled."""
        self._inbox.put(None)
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._driver.close)
        for done in self._pending:
            done.cancel()

    # On the worker thread

    def _begin(self, started: asyncio.Future[None]) -> None:
        try:
            self._driver.follow(lambda events: self._inbox.put(partial(self._queue_events, list(events))))
            self._read_underlay()
            self._state.resync(self._driver.read())
        except OSError as error:
            problem = KernelError.from_os(error, where=_READING)
            self._call_on_loop(_resolve, started, problem)
        else:
            self._call_on_loop(_resolve, started, None)

    def _queue_events(self, events: list[KernelEvent]) -> None:
        self._queued_events += events
        if self._events_due is None:
            self._events_due = time.monotonic() + GATHERING

    def _process_events(self) -> None:
        """A device that is removed takes everything on it along, one event each: process them together."""
        now = time.monotonic()
        if self._events_due is None or self._events_due > now:
            return
        events, self._queued_events, self._events_due = self._queued_events, [], None
        for event in events:
            if isinstance(event, ResyncRequired):
                self._read_due = now
                if event.error is not None:
                    self._report_defect("listening to the kernel failed", event.error)
            elif isinstance(event, UnderlayChanged):
                self._underlay_due = now
        self._state.observe(events)

    def _work(self) -> None:
        while True:
            tasks = self._take_tasks()
            if None in tasks:
                return
            try:
                self._run_once([task for task in tasks if task is not None])
            except Exception as error:  # a bug of ours: report it, and resync from the kernel
                self._recover(error)

    def _run_once(self, tasks: Iterable[_Task]) -> None:
        """Run all tasks, plan once, apply once, report."""
        for task in tasks:
            task()
        self._process_events()
        self._read_if_due()
        self._check_settings()
        self._check_wireguard()
        self._retry_due()
        changes = self._state.plan()
        if changes:
            for restored in self._state.applied(changes, self._apply(changes)):
                self._call_on_loop(self._on_restored, restored)
        self._schedule_reads(changes)
        self._schedule_retries()
        self._publish()

    def _recover(self, error: Exception) -> None:
        self._report_defect("the reconciler failed", error)
        self._read_due = time.monotonic() + LONGEST_PAUSE
        waiting, self._waiting = self._waiting, []
        for _, done in waiting:
            self._call_on_loop(_resolve, done, KernelError(repr(error), errno=errno.EIO, where="the reconciler"))

    def _report_defect(self, message: str, error: Exception) -> None:
        assert self._loop is not None
        self._call_on_loop(self._loop.call_exception_handler, {"message": message, "exception": error})

    def _take_tasks(self) -> list[_Task | None]:
        """Everything in the inbox; waits for the first task, or until something else is due."""
        dues = [retry.due for retry in self._retries.values()]
        dues += [due for due in (self._events_due, self._read_due, self._underlay_due) if due is not None]
        dues.append(0.0 if self._state.dirty else min(self._settings_due, self._wireguard_due))
        tasks: list[_Task | None] = []
        try:
            tasks.append(self._inbox.get(timeout=max(0.0, min(dues) - time.monotonic())))
            while True:
                tasks.append(self._inbox.get_nowait())
        except queue.Empty:
            return tasks

    def _read_if_due(self) -> None:
        now = time.monotonic()
        try:
            if self._underlay_due is not None and self._underlay_due <= now:
                self._underlay_due = now + LONGEST_PAUSE
                self._read_underlay()
                self._underlay_due = None
            if self._read_due is not None and self._read_due <= now:
                self._read_due = now + LONGEST_PAUSE
                self._state.resync(self._driver.read())
                self._read_due = None
        except OSError as error:
            self._report("kernel", KernelError.from_os(error, where=_READING))

    def _read_underlay(self) -> None:
        underlay = self._driver.underlay()
        if underlay == self._underlay:
            return
        self._underlay = underlay
        self._state.read_underlay(underlay)
        self._state.mark_dirty(self._retries)
        for callback in self._underlay_callbacks:
            self._call_on_loop(callback, underlay)

    def _check_settings(self) -> None:
        """Restore sysctls that were changed by others."""
        now = time.monotonic()
        if self._settings_due <= now:
            self._settings_due = now + EVERY
            changed = self._driver.changed_sysctls(self._sysctl_schedule.next(self._state.settings))
            self._state.observe([ObjectRemoved(each.key) for each in changed])

    def _check_wireguard(self) -> None:
        """Restore peers and keys that were changed by others."""
        now = time.monotonic()
        if self._wireguard_due > now:
            return
        self._wireguard_due = now + WIREGUARD_EVERY
        devices = self._state.wireguard_devices
        try:
            found = self._driver.read_wireguard(devices)
        except OSError as error:
            self._report("kernel", KernelError.from_os(error, where=_READING))
        else:
            self._state.observe_wireguard(devices, found)

    def _retry_due(self) -> None:
        now = time.monotonic()
        self._state.mark_dirty(key for key, retry in self._retries.items() if retry.due <= now)

    def _apply(self, changes: list[Change]) -> list[OSError | None]:
        began = time.perf_counter()
        try:
            results = list(self._driver.apply(changes))
        except OSError as error:  # the socket itself failed: nothing is known, so all is retried
            self._read_due = time.monotonic() + FIRST_PAUSE
            return [error] * len(changes)
        self._on_batch(time.perf_counter() - began, results)
        return results

    def _schedule_reads(self, changes: list[Change]) -> None:
        """Read again what this batch made stale: objects on an adopted device, the settings of a foreign device."""
        now = time.monotonic()
        if self._state.needs_resync:
            self._state.needs_resync = False
            self._read_due = self._underlay_due = now
        if any(isinstance(change.object, Link) and change.object.kind is None for change in changes):
            self._underlay_due = now

    def _schedule_retries(self) -> None:
        """Exponential backoff for failed objects; a report for each new reason."""
        now = time.monotonic()
        errors = self._state.errors
        for key in self._retries.keys() - errors.keys():
            del self._retries[key]
        for key in errors:
            retry = self._retries.get(key)
            if retry is None:
                backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
                self._retries[key] = _Retry(backoff, now + backoff.next())
            elif retry.due <= now:
                retry.due = now + retry.backoff.next()
        self._report_once(errors)

    def _report_once(self, errors: Mapping[Key, KernelError]) -> None:
        """Each new error once; a missing device once for all objects that depend on it."""
        causes: dict[Key, str] = {}
        for key, error in errors.items():
            if self._state.blocked_by_dependency(key):
                continue
            cause = ("missing", error.what) if error.errno == errno.ENODEV else key
            text = causes.setdefault(cause, str(error) if cause is key else error.what)
            if self._reported.get(cause) != text:
                self._reported[cause] = text
                self._report(self._state.source_of(key), error)
        self._reported = causes

    def _publish(self) -> None:
        """Publish the current problems to the loop and wake the waiters whose objects are applied."""
        problems = {**self._state.conflicts, **self._state.errors}
        if problems != self._problems:
            self._problems = problems
        if self._state.dirty or self._read_due is not None:
            return
        waiting, self._waiting = self._waiting, []
        for source, done in waiting:
            self._call_on_loop(_resolve, done, self._state.error_of(source) if source is not None else None)

    def _report(self, source: str, error: KernelError) -> None:
        if self._on_problem is not None:
            self._call_on_loop(self._on_problem, source, error)

    def _call_on_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(callback, *arguments)


def _resolve(done: asyncio.Future[None], problem: KernelError | None) -> None:
    if done.done():
        return
    if problem is not None:
        done.set_exception(problem)
    else:
        done.set_result(None)
