"""desired − actual = change, for one network namespace, kept so while others interfere.

    event loop                  │ worker thread                             │ kernel
    want(source, objects) ──────┼─▶ Ledger: desired ─┐                      │
                          inbox │                    ├─ plan() ─▶ Driver.apply ──▶
    settled(source) ◀───────────┼── applied(results) ┘                      │
    on_underlay, on_… ◀─────────┼── Ledger: actual ◀── Driver.read / .follow ◀──

Callers: the agent (backends, masquerade), cni (pods). The event loop never waits: it leaves notes in the inbox, and one worker
thread does all that takes time, planning included. Whatever is in the inbox when the worker comes back is one batch.
"""

from __future__ import annotations

import asyncio
import errno
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

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
from percale.kernel.reconciler.sysctl_schedule import EVERY, Turns
from percale.render.objects import KernelObject, Key, Link

FIRST_PAUSE = 0.05
"""Seconds until an object that was refused is tried again; doubled each time."""
LONGEST_PAUSE = 5.0
GATHERING = 0.01
"""Seconds that kernel events wait for more of them, after the time that the observer gave them."""

_Note: TypeAlias = Callable[[], None]


@dataclass(slots=True)
class _Retry:
    pause: float
    due: float


class Reconciler:
    """All methods are called on the event loop; none of them blocks it.

    When two sources wish different objects of one key, the first by name has its way, whoever came first.
    """

    def __init__(self, driver: Driver, *, on_problem: Callable[[str, KernelError], None] | None = None) -> None:
        """`on_problem` gets the source and the error, once for each new error of an object."""
        self._driver = driver
        self._on_problem = on_problem
        self._state = ReconcilerState()
        self._inbox: queue.SimpleQueue[_Note | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="reconciler", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._underlay = Underlay((), ())
        self._underlay_callbacks: list[Callable[[Underlay], None]] = []
        self._absence_callbacks: list[tuple[ObjectRemoved, Callable[[], None]]] = []
        self._problems: Mapping[Key, KernelError] = {}
        self._pending: set[asyncio.Future[None]] = set()
        # The worker's own:
        self._waiting: list[tuple[str | None, asyncio.Future[None]]] = []
        self._retries: dict[Key, _Retry] = {}
        self._reported: dict[Key, str] = {}
        self._observed: list[KernelEvent] = []
        self._observe_due: float | None = None
        self._read_due: float | None = None
        self._underlay_due: float | None = None
        self._settings_due = time.monotonic() + EVERY
        self._turns = Turns()

    # On the event loop

    async def start(self) -> None:
        """Read what is there; nothing is removed before `in_sync()`. Raises KernelError."""
        self._loop = asyncio.get_running_loop()
        started = self._loop.create_future()
        self._inbox.put(lambda: self._begin(started))
        self._thread.start()
        await started

    def want(self, source: str, objects: Iterable[KernelObject]) -> None:
        """These are now all the objects that `source` wishes; () ends its wishes. Applied soon, in one batch."""
        self._inbox.put(partial(self._state.want, source, tuple(objects)))

    def in_sync(self) -> None:
        """All sources have spoken once: from now on, what is ours and nobody wishes is removed (leftovers)."""
        self._inbox.put(self._state.in_sync)

    async def settled(self, source: str) -> None:
        """Wait until the kernel holds what `source` wishes. Raises KernelError if it refused one of its objects."""
        await self._wait(source)

    async def idle(self) -> None:
        """Wait until nothing is left to apply (problems aside)."""
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

    def on_absent(self, key: Key, callback: Callable[[], None]) -> None:
        """Call back when somebody else has removed what stands at this key, or may have."""
        self._absence_callbacks.append((ObjectRemoved(key), callback))

    @property
    def problems(self) -> Mapping[Key, KernelError]:
        """Objects that the kernel refuses now; each is tried again with growing pauses."""
        return self._problems

    async def stop(self) -> None:
        """End the worker and close the driver; the kernel's state stays as it is. Whoever waits is cancelled."""
        self._inbox.put(None)
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._driver.close)
        for done in self._pending:
            done.cancel()

    # On the worker thread

    def _begin(self, started: asyncio.Future[None]) -> None:
        try:
            self._driver.follow(lambda events: self._inbox.put(partial(self._observe, list(events))))
            self._read_underlay()
            self._state.read_again(self._driver.read())
        except OSError as error:
            problem = KernelError(
                error.strerror or str(error), errno=error.errno or 0, where="reading the kernel's state"
            )
            self._tell(_resolve, started, problem)
        else:
            self._tell(_resolve, started, None)

    def _observe(self, events: list[KernelEvent]) -> None:
        self._observed += events
        if self._observe_due is None:
            self._observe_due = time.monotonic() + GATHERING

    def _look_at_what_was_observed(self) -> None:
        """A device that goes takes everything on it along, one event each: they are looked at together."""
        now = time.monotonic()
        if self._observe_due is None or self._observe_due > now:
            return
        events, self._observed, self._observe_due = self._observed, [], None
        for event in events:
            if isinstance(event, ResyncRequired):
                self._read_due = now
                if event.error is not None:
                    self._report_defect("listening to the kernel failed", event.error)
            elif isinstance(event, UnderlayChanged):
                self._underlay_due = now
        for absent, callback in self._absence_callbacks:
            if any(event == absent or isinstance(event, ResyncRequired) for event in events):
                self._tell(callback)
        self._state.observe(events)

    def _work(self) -> None:
        while True:
            notes = self._take()
            if None in notes:
                return
            try:
                self._turn([note for note in notes if note is not None])
            except Exception as error:  # a defect of ours: tell, and go on from what the kernel says
                self._recover(error)

    def _turn(self, notes: Iterable[_Note]) -> None:
        """Take note of everything, plan once, apply once, tell."""
        for note in notes:
            note()
        self._look_at_what_was_observed()
        self._read_what_is_due()
        self._look_at_settings()
        self._retry_what_is_due()
        changes = self._state.plan()
        if changes:
            self._state.applied(changes, self._apply(changes))
        self._look_after(changes)
        self._plan_retries()
        self._publish()

    def _recover(self, error: Exception) -> None:
        self._report_defect("the reconciler failed", error)
        self._read_due = time.monotonic() + LONGEST_PAUSE
        waiting, self._waiting = self._waiting, []
        for _, done in waiting:
            self._tell(_resolve, done, KernelError(repr(error), errno=errno.EIO, where="the reconciler"))

    def _report_defect(self, message: str, error: Exception) -> None:
        assert self._loop is not None
        self._tell(self._loop.call_exception_handler, {"message": message, "exception": error})

    def _take(self) -> list[_Note | None]:
        """Everything in the inbox; waits for the first note, or until something else is due."""
        dues = [retry.due for retry in self._retries.values()]
        dues += [due for due in (self._observe_due, self._read_due, self._underlay_due) if due is not None]
        dues.append(0.0 if self._state.dirty else self._settings_due)
        notes: list[_Note | None] = []
        try:
            notes.append(self._inbox.get(timeout=max(0.0, min(dues) - time.monotonic())))
            while True:
                notes.append(self._inbox.get_nowait())
        except queue.Empty:
            return notes

    def _read_what_is_due(self) -> None:
        now = time.monotonic()
        try:
            if self._underlay_due is not None and self._underlay_due <= now:
                self._underlay_due = now + LONGEST_PAUSE
                self._read_underlay()
                self._underlay_due = None
            if self._read_due is not None and self._read_due <= now:
                self._read_due = now + LONGEST_PAUSE
                self._state.read_again(self._driver.read())
                self._read_due = None
        except OSError as error:
            self._report("kernel", KernelError(str(error), errno=error.errno or 0, where="reading the kernel's state"))

    def _read_underlay(self) -> None:
        underlay = self._driver.underlay()
        if underlay == self._underlay:
            return
        self._underlay = underlay
        self._state.read_underlay(underlay)
        self._state.look_again(self._retries)
        for callback in self._underlay_callbacks:
            self._tell(callback, underlay)

    def _look_at_settings(self) -> None:
        """What somebody else has set otherwise comes back."""
        now = time.monotonic()
        if self._settings_due <= now:
            self._settings_due = now + EVERY
            strayed = self._driver.strayed(self._turns.next(self._state.settings))
            self._state.observe([ObjectRemoved(each.key) for each in strayed])

    def _retry_what_is_due(self) -> None:
        now = time.monotonic()
        self._state.look_again(key for key, retry in self._retries.items() if retry.due <= now)

    def _apply(self, changes: list[Change]) -> list[OSError | None]:
        try:
            return list(self._driver.apply(changes))
        except OSError as error:  # the socket itself failed: nothing is known, so all is tried again
            self._read_due = time.monotonic() + FIRST_PAUSE
            return [error] * len(changes)

    def _look_after(self, changes: list[Change]) -> None:
        """Read what is stale now: an adopted device brings what is on it, a device of others was set."""
        now = time.monotonic()
        if self._state.needs_resync:
            self._state.needs_resync = False
            self._read_due = self._underlay_due = now
        if any(isinstance(change.object, Link) and change.object.kind is None for change in changes):
            self._underlay_due = now

    def _plan_retries(self) -> None:
        """Growing pauses for what was refused; a report for what is refused for a new reason."""
        now = time.monotonic()
        refused = self._state.refused
        for key in self._retries.keys() - refused.keys():
            del self._retries[key]
        for key in refused:
            retry = self._retries.get(key)
            if retry is None:
                self._retries[key] = _Retry(FIRST_PAUSE, now + FIRST_PAUSE)
            elif retry.due <= now:
                retry.pause = min(LONGEST_PAUSE, retry.pause * 2)
                retry.due = now + retry.pause
        self._report_once(refused)

    def _report_once(self, refused: Mapping[Key, KernelError]) -> None:
        """Each new error once; a device that is missing once for all that should stand on it."""
        causes: dict[Key, str] = {}
        for key, error in refused.items():
            if self._state.waits_for_another(key):
                continue
            cause = ("missing", error.what) if error.errno == errno.ENODEV else key
            text = causes.setdefault(cause, str(error) if cause is key else error.what)
            if self._reported.get(cause) != text:
                self._reported[cause] = text
                self._report(self._state.source_of(key), error)
        self._reported = causes

    def _publish(self) -> None:
        """Show the loop the problems of now, and wake those who wait for what is done."""
        problems = {**self._state.conflicts, **self._state.refused}
        if problems != self._problems:
            self._problems = problems
        if self._state.dirty or self._read_due is not None:
            return
        waiting, self._waiting = self._waiting, []
        for source, done in waiting:
            self._tell(_resolve, done, self._state.verdict(source) if source is not None else None)

    def _report(self, source: str, error: KernelError) -> None:
        if self._on_problem is not None:
            self._tell(self._on_problem, source, error)

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(callback, *arguments)


def _resolve(done: asyncio.Future[None], problem: KernelError | None) -> None:
    if done.done():
        return
    if problem is not None:
        done.set_exception(problem)
    else:
        done.set_result(None)
