"""`percale trace` in a lab: a probe is sent and observed in all places that it may come to. Called by cli/trace.py.

    the lab's API: `trace_places` ─▶ a thread in each place ─▶ trace/session.py

The command's own process enters the lab's user namespace and opens all sockets, so that the kernel removes what they have
armed when it exits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from ipaddress import ip_address

from msgspec.structs import replace

from percale.errors import LabError
from percale.kernel.netns import NetnsThread
from percale.kernel.probe_packet import Probe
from percale.lab.process.nsenter import enter_user_namespace
from percale.lab.run_dir import LabDir, require_running
from percale.lab.trace_plan import Place, TracePlan
from percale.trace.evidence import Evidence
from percale.trace.session import Watched, observe


def trace(lab_dir: LabDir, plan: TracePlan, timeout_seconds: float, meanwhile: Callable[[], object]) -> Evidence:
    """Send one probe; `meanwhile` is called while the kernel arms. The process is in the lab's user namespace from then on.

    Raises LabError, NoSuchLab, and what `meanwhile` raises.
    """
    address = ip_address(plan.address)
    probe = Probe.new(plan.protocol, address.version, plan.port or 0, plan.server_ports, os.urandom(4))
    with ExitStack() as opened:
        try:
            threads = _enter(lab_dir, plan.places, opened)
            places = {place.name: Watched(place.kind, threads[place.name]) for place in plan.places}
            evidence = observe(probe, address, plan.start, places, timeout_seconds, meanwhile=meanwhile)
        except OSError as error:
            raise LabError(f"cannot trace in {lab_dir.name}: {error.strerror or error}") from error
    return replace(evidence, names=plan.names)


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
