"""Sends a probe and has all places observed meanwhile. Called by `lab/trace.py`, with a thread in each network namespace."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from percale.kernel.netns import NetnsExecutor
from percale.kernel.packet_tap import wait_timestamps
from percale.kernel.probe_packet import Probe
from percale.model.addresses import IPAddress
from percale.trace.evidence import Evidence, PlaceKind
from percale.trace.observer import Observer
from percale.trace.sender import Sender

_AFTER_ANSWER, _AFTER_DROP = 0.005, 0.03
"""Seconds to wait for what is still on its way: the last messages, an answer of the rule that has dropped."""


class Watched(NamedTuple):
    """A place: what it is, and a thread in its network namespace."""

    kind: PlaceKind
    netns: NetnsExecutor


def observe(
    probe: Probe,
    destination: IPAddress,
    start: str,
    places: Mapping[str, Watched],
    timeout_seconds: float,
    *,
    meanwhile: Callable[[], object] = lambda: None,
) -> Evidence:
    """Send the probe from the place `start`. Nothing is armed afterwards. Raises OSError, and what `meanwhile` raises.

    `meanwhile` is called while the kernel arms, before the probe is sent.
    """
    with ExitStack() as opened:
        sender = places[start].netns.run(lambda: Sender(probe, destination))
        opened.callback(sender.close)
        workers = opened.enter_context(ThreadPoolExecutor(len(places)))
        # Side by side: most of the time is the kernel's, which waits for its other processors.
        arming = [
            workers.submit(each.netns.run, partial(Observer, name, each.kind, probe, sender.port))
            for name, each in places.items()
        ]
        observers: list[Observer] = []
        opened.callback(lambda: list(workers.map(Observer.close, observers)))
        try:
            meanwhile()
        finally:
            observers.extend(each.result() for each in arming)
        places[start].netns.run(wait_timestamps)
        sent = time.time_ns()
        refusal = places[start].netns.run(sender.send)
        _wait(observers, start, 0 if refusal is not None else timeout_seconds)
        reading = [workers.submit(places[each.place].netns.run, each.observation) for each in observers]
        observations = tuple(each.result() for each in reading)
    return Evidence(probe, destination, start, sender.port, sent, refusal, observations)


def _wait(observers: Sequence[Observer], start: str, timeout_seconds: float) -> None:
    """Until the answer is there, the probe is dropped, or the time is over."""
    poll = select.poll()
    for observer in observers:
        for descriptor in observer.descriptors():
            poll.register(descriptor, select.POLLIN)
    end = time.monotonic() + timeout_seconds
    decided = False
    while (left := end - time.monotonic()) > 0:
        poll.poll(left * 1000)
        came = [seen for observer in observers for seen in observer.read() if observer.place == start]
        answered = any(each.is_answer for each in came if not each.outgoing)
        if not decided and (answered or any(each.dropped for each in observers)):
            decided = True
            end = time.monotonic() + (_AFTER_ANSWER if answered else _AFTER_DROP)
    for observer in observers:
        observer.read()
