"""`percale trace` in a lab: a probe is sent and observed in all places that it may come to. Called by cli/trace.py.

    the lab's API: `trace_places` ─▶ an Observer in each place, the probe from FROM's ─▶ observations (trace/assembly.py)

The command's own process enters the lab's user namespace and opens all sockets, so that the kernel removes what they have
armed when it exits.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from ipaddress import ip_address

from percale.errors import LabError
from percale.kernel.netns import NetnsThread
from percale.kernel.probe_packet import Probe
from percale.lab.process.nsenter import enter_user_namespace
from percale.lab.run_dir import LabDir, require_running
from percale.lab.trace_plan import Place, TracePlan
from percale.trace.evidence import Evidence
from percale.trace.observer import Observer
from percale.trace.sender import Sender

_AFTER_ANSWER, _AFTER_DROP = 0.005, 0.03
"""Seconds to wait for what is still on its way: the last messages, an answer of the rule that has dropped."""


def trace(lab_dir: LabDir, plan: TracePlan, timeout_seconds: float) -> Evidence:
    """Send one probe. The process is in the lab's user namespace afterwards. Raises LabError, NoSuchLab."""
    address = ip_address(plan.address)
    probe = Probe.new(plan.protocol, address.version, plan.port or 0, plan.server_ports, os.urandom(4))
    with ExitStack() as opened:
        try:
            threads = _enter(lab_dir, plan.places, opened)
            sender = threads[plan.start].run(lambda: Sender(probe, address))
            opened.callback(sender.close)
            workers = opened.enter_context(ThreadPoolExecutor(len(plan.places)))
            arming = [
                workers.submit(threads[each.name].run, partial(Observer, each.name, each.kind, probe, sender.port))
                for each in plan.places
            ]
            observers = [each.result() for each in arming]
            start = next(each for each in observers if each.place == plan.start)
            sent = time.time_ns()
            refusal = threads[plan.start].run(sender.send)
            _wait(observers, start, 0 if refusal is not None else timeout_seconds)
            reading = [workers.submit(threads[each.place].run, each.observation) for each in observers]
            observations = tuple(each.result() for each in reading)
            list(workers.map(Observer.close, observers))
        except OSError as error:
            raise LabError(f"cannot trace in {lab_dir.name}: {error.strerror or error}") from error
    return Evidence(probe, address, plan.start, sender.port, sent, refusal, observations, plan.names)


def _enter(lab_dir: LabDir, places: Iterable[Place], opened: ExitStack) -> dict[str, NetnsThread]:
    """A thread in each place. All are opened first: in the lab's user namespace, its init's files are out of reach."""
    init = require_running(lab_dir)
    descriptors = {}
    for place in places:
        descriptors[place.name] = os.open(f"/proc/{init}/root{place.namespace}", os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, descriptors[place.name])
    enter_user_namespace(init)
    threads = {}
    for name, descriptor in descriptors.items():
        threads[name] = NetnsThread(descriptor, name=f"trace-{name}"[:15])
        opened.callback(threads[name].close)
    return threads


def _wait(observers: Sequence[Observer], start: Observer, timeout_seconds: float) -> None:
    """Until the answer is there, the probe is dropped, or the time is over."""
    poll = select.poll()
    for observer in observers:
        for descriptor in observer.descriptors():
            poll.register(descriptor, select.POLLIN)
    end = time.monotonic() + timeout_seconds
    decided = False
    while (left := end - time.monotonic()) > 0:
        poll.poll(left * 1000)
        answered = False
        for observer in observers:
            new = observer.read()
            if observer is start:
                answered = any(not each.outgoing and (each.found.is_answer or each.found.error) for each in new)
        dropped = any(each.dropped for each in observers)
        if not decided and (answered or dropped):
            decided = True
            end = time.monotonic() + (_AFTER_ANSWER if answered else _AFTER_DROP)
    for observer in observers:
        observer.read()
