"""`percale lab watch`: what policies decide about new connections, on all nodes of a lab. Called by cli/lab/watch.py.

    node's trace (kernel/nftables/trace.py) ─▶ VerdictMerger: both nodes' verdicts on one connection, no retries ─▶ Connection
                                                  ▲ names of pods and nodes, from the lab's API

The command's own process enters the lab's user namespace and opens a tracer in each node, so that the kernel removes them
when it exits.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping
from ipaddress import ip_address

from msgspec import Struct
from msgspec.structs import replace

from percale.errors import LabError
from percale.kernel.netns import NetnsThread
from percale.kernel.nftables.trace import TracedVerdict, Tracer
from percale.lab.api.client import ask
from percale.lab.process.nsenter import enter_user_namespace
from percale.lab.run_dir import LabDir, require_running
from percale.model.pod import PROTOCOLS

_REFRESH = 0.5
"""Seconds between two requests for names."""
_OTHER_NODE_TIMEOUT = 0.5
"""Seconds to wait for the other node's verdict on an allowed connection."""
_RETRY_WINDOW = 120.0
"""Seconds in which a retried connection counts as the same: longer than TCP's own retries."""
_MOST_REMEMBERED = 10_000
_TICK = 0.1

_PROTOCOLS = {
    **{number: name.lower() for number, name in PROTOCOLS.items()},
    socket.IPPROTO_ICMP: "icmp",
    socket.IPPROTO_ICMPV6: "icmp",
}


class Name(Struct, frozen=True):
    """The pod or machine that has an address, and a pod's node ("" for a machine)."""

    text: str
    node: str


class Connection(Struct, frozen=True):
    """One new connection, as it is shown. `time` is in seconds since the epoch."""

    time: float
    allowed: bool
    source: str
    destination: str
    address: str
    port: int | None
    protocol: str
    rules: tuple[str, ...]
    node: str
    """Where it was decided."""


class LeftOut(Struct, frozen=True):
    """The number of new connections that were not traced so far."""

    count: int


class _PendingVerdict(Struct, frozen=True):
    """Allowed on one node; the other end's node has not reported its verdict yet."""

    verdict: TracedVerdict
    node: str
    since: float


class VerdictMerger:
    """Merges the verdicts of one or two nodes on a connection. Pure: `now` is in seconds of any clock."""

    def __init__(self, names: Callable[[bytes], Name | None]) -> None:
        self._names = names
        self._pending: OrderedDict[tuple[object, ...], _PendingVerdict] = OrderedDict()
        self._seen: OrderedDict[tuple[object, ...], float] = OrderedDict()

    def add(self, node: str, verdict: TracedVerdict, now: float) -> Iterator[tuple[str, TracedVerdict]]:
        """Final verdicts, each with the node that decided."""
        flow = (verdict.source, verdict.destination, verdict.protocol, verdict.source_port, verdict.port)
        if now - self._seen.get(flow, -_RETRY_WINDOW) < _RETRY_WINDOW:
            return
        pending = self._pending.pop(flow, None)
        if pending is not None and pending.node != node:
            if self._node_of(verdict.destination) == pending.node:  # the destination's node was read first
                node, verdict, pending = pending.node, pending.verdict, _PendingVerdict(verdict, node, now)
            verdict = replace(verdict, rules=(*pending.verdict.rules, *verdict.rules))
        elif verdict.allowed and self._has_other_node(node, verdict):
            self._pending[flow] = pending or _PendingVerdict(verdict, node, now)
            return
        self._remember(flow, now)
        yield node, verdict

    def expired(self, now: float) -> Iterator[tuple[str, TracedVerdict]]:
        """Verdicts whose wait for another node is over."""
        while self._pending and now - next(iter(self._pending.values())).since >= _OTHER_NODE_TIMEOUT:
            flow, pending = self._pending.popitem(last=False)
            self._remember(flow, now)
            yield pending.node, pending.verdict

    def _has_other_node(self, node: str, verdict: TracedVerdict) -> bool:
        """Whether source or destination is a pod on another node, which evaluates the connection as well."""
        return not {self._node_of(verdict.source), self._node_of(verdict.destination)} <= {"", node}

    def _node_of(self, address: bytes) -> str:
        """The node of a pod; "" for others."""
        name = self._names(address)
        return name.node if name is not None else ""

    def _remember(self, flow: tuple[object, ...], now: float) -> None:
        self._seen[flow] = now
        if len(self._seen) > _MOST_REMEMBERED:
            self._seen.popitem(last=False)


class _NameCache:
    """Names by address, requested from the lab again for an unknown address."""

    def __init__(self, lab_dir: LabDir) -> None:
        self._place = lab_dir
        self._known: Mapping[bytes, Name] = {}
        self._asked_at = -_REFRESH

    def __call__(self, address: bytes) -> Name | None:
        if address not in self._known and time.monotonic() - self._asked_at > _REFRESH:
            self._known = {
                ip_address(text).packed: Name(*who) for text, who in ask(self._place, "names")["names"].items()
            }
            self._asked_at = time.monotonic()
        return self._known.get(address)


def watch(lab_dir: LabDir, rate: int, *, stop: Callable[[], bool]) -> Generator[Connection | LeftOut, None, None]:
    """Connections as they are decided, until `stop()` is true.

    At most `rate` a second are traced on each node; LeftOut counts the others. Raises LabError, NoSuchLab.
    """
    names = _NameCache(lab_dir)
    merger = VerdictMerger(names)
    tracers = _open(lab_dir, rate)
    by_descriptor = {tracer.fileno(): node for node, tracer in tracers.items()}
    poll = select.poll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    left_out, asked = 0, time.monotonic()
    try:
        while not stop():
            for descriptor, _ in poll.poll(_TICK * 1000):
                node = by_descriptor[descriptor]
                for verdict in tracers[node].verdicts():
                    for where, certain in merger.add(node, verdict, time.monotonic()):
                        yield _to_connection(certain, where, names)
            for where, certain in merger.expired(time.monotonic()):
                yield _to_connection(certain, where, names)
            if time.monotonic() - asked > 1.0:
                asked = time.monotonic()
                require_running(lab_dir)
                count = sum(tracer.left_out() for tracer in tracers.values())
                if count > left_out:
                    left_out = count
                    yield LeftOut(count)
        for where, certain in merger.expired(float("inf")):
            yield _to_connection(certain, where, names)
    finally:
        for tracer in tracers.values():
            tracer.close()


def _open(lab_dir: LabDir, rate: int) -> dict[str, Tracer]:
    """A tracer in each node. The process is in the lab's user namespace afterwards."""
    init = require_running(lab_dir)
    nodes = ask(lab_dir, "names")["nodes"]
    tracers: dict[str, Tracer] = {}
    opened: dict[str, int] = {}
    try:
        for node, namespace in nodes.items():
            opened[node] = os.open(f"/proc/{init}/root{namespace}", os.O_RDONLY | os.O_CLOEXEC)
        enter_user_namespace(init)
        for node, descriptor in opened.items():
            thread = NetnsThread(descriptor, name=f"watch-{node}")
            try:
                tracers[node] = Tracer(thread, rate)
            finally:
                thread.close()
    except OSError as error:
        for tracer in tracers.values():
            tracer.close()
        raise LabError(
            f"cannot watch {lab_dir.name}: {error.strerror or error}", hint="is another watch running?"
        ) from error
    finally:
        for descriptor in opened.values():
            os.close(descriptor)
    return tracers


def _to_connection(verdict: TracedVerdict, node: str, names: Callable[[bytes], Name | None]) -> Connection:
    source, destination = names(verdict.source), names(verdict.destination)
    address = str(ip_address(verdict.destination))
    return Connection(
        time=time.time(),
        allowed=verdict.allowed,
        source=source.text if source is not None else str(ip_address(verdict.source)),
        destination=destination.text if destination is not None else address,
        address=address,
        port=verdict.port or None,
        protocol=_PROTOCOLS.get(verdict.protocol, str(verdict.protocol)),
        rules=verdict.rules,
        node=node,
    )
