"""`percale lab watch`: what policies decide about new connections, on all nodes of a lab. Called by cli/lab/watch.py.

    node's trace (kernel/nftables/trace.py) ─▶ Merging: both nodes' verdicts on one connection, retries left out ─▶ Connection
                                                  ▲ names of pods and nodes, from the lab's store

The command's own process enters the lab's user namespace and opens a tracer in each node, so that the kernel takes them away
with it, however it ends.
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
from percale.lab.run_dir import LabPlace, require_running
from percale.model.pod import PROTOCOLS

_REFRESH = 0.5
"""Seconds between two questions for names."""
_OTHER_NODE = 0.5
"""Seconds that an allowed connection waits for the verdict of the other end's node."""
_SAME = 120.0
"""Seconds for which a connection that is tried again is the same: longer than TCP's own attempts."""
_MOST_REMEMBERED = 10_000
_TICK = 0.1

_PROTOCOLS = {
    **{number: name.lower() for number, name in PROTOCOLS.items()},
    socket.IPPROTO_ICMP: "icmp",
    socket.IPPROTO_ICMPV6: "icmp",
}


class Name(Struct, frozen=True):
    """Whose an address is, and a pod's node ("" for a machine)."""

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
    """So many new connections so far were not looked at."""

    count: int


class _Held(Struct, frozen=True):
    """Allowed on one node; the other end's node has not reported its verdict yet."""

    judged: TracedVerdict
    node: str
    since: float


class Merging:
    """One connection from what one node or two say of it. Pure: `now` is in seconds of any clock."""

    def __init__(self, names: Callable[[bytes], Name | None]) -> None:
        self._names = names
        self._held: OrderedDict[tuple[object, ...], _Held] = OrderedDict()
        self._seen: OrderedDict[tuple[object, ...], float] = OrderedDict()

    def add(self, node: str, judged: TracedVerdict, now: float) -> Iterator[tuple[str, TracedVerdict]]:
        """What is certain now: each with the node that decided."""
        which = (judged.source, judged.destination, judged.protocol, judged.source_port, judged.port)
        if now - self._seen.get(which, -_SAME) < _SAME:
            return
        held = self._held.pop(which, None)
        if held is not None and held.node != node:
            if self._node_of(judged.destination) == held.node:  # its socket was read first
                node, judged, held = held.node, held.judged, _Held(judged, node, now)
            judged = replace(judged, rules=(*held.judged.rules, *judged.rules))
        elif judged.allowed and self._has_other_node(node, judged):
            self._held[which] = held or _Held(judged, node, now)
            return
        self._remember(which, now)
        yield node, judged

    def late(self, now: float) -> Iterator[tuple[str, TracedVerdict]]:
        """What has waited long enough for another node."""
        while self._held and now - next(iter(self._held.values())).since >= _OTHER_NODE:
            which, held = self._held.popitem(last=False)
            self._remember(which, now)
            yield held.node, held.judged

    def _has_other_node(self, node: str, judged: TracedVerdict) -> bool:
        """Whether an end is a pod on another node, which evaluates the connection as well. Nodes are read in any order."""
        return not {self._node_of(judged.source), self._node_of(judged.destination)} <= {"", node}

    def _node_of(self, address: bytes) -> str:
        """The node of a pod; "" for others."""
        name = self._names(address)
        return name.node if name is not None else ""

    def _remember(self, which: tuple[object, ...], now: float) -> None:
        self._seen[which] = now
        if len(self._seen) > _MOST_REMEMBERED:
            self._seen.popitem(last=False)


class _Names:
    """Who has which address, asked of the lab again when somebody unknown turns up."""

    def __init__(self, place: LabPlace) -> None:
        self._place = place
        self._known: Mapping[bytes, Name] = {}
        self._asked = -_REFRESH

    def __call__(self, address: bytes) -> Name | None:
        if address not in self._known and time.monotonic() - self._asked > _REFRESH:
            self._known = {
                ip_address(text).packed: Name(*who) for text, who in ask(self._place, "names")["names"].items()
            }
            self._asked = time.monotonic()
        return self._known.get(address)


def watch(place: LabPlace, rate: int, *, over: Callable[[], bool]) -> Generator[Connection | LeftOut, None, None]:
    """Connections as they are decided, until it is `over`, which is asked again and again.

    At most `rate` a second are looked at on each node; how many were not, is said when it grows. Raises LabError, NoSuchLab.
    """
    names = _Names(place)
    merging = Merging(names)
    tracers = _open(place, rate)
    by_descriptor = {tracer.fileno(): node for node, tracer in tracers.items()}
    poll = select.poll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    left_out, asked = 0, time.monotonic()
    try:
        while not over():
            for descriptor, _ in poll.poll(_TICK * 1000):
                node = by_descriptor[descriptor]
                for judged in tracers[node].verdicts():
                    for where, certain in merging.add(node, judged, time.monotonic()):
                        yield _shown(certain, where, names)
            for where, certain in merging.late(time.monotonic()):
                yield _shown(certain, where, names)
            if time.monotonic() - asked > 1.0:
                asked = time.monotonic()
                require_running(place)
                count = sum(tracer.left_out() for tracer in tracers.values())
                if count > left_out:
                    left_out = count
                    yield LeftOut(count)
        for where, certain in merging.late(float("inf")):
            yield _shown(certain, where, names)
    finally:
        for tracer in tracers.values():
            tracer.close()


def _open(place: LabPlace, rate: int) -> dict[str, Tracer]:
    """A tracer in each node. The process is in the lab's user namespace afterwards."""
    init = require_running(place)
    nodes = ask(place, "names")["nodes"]
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
            f"cannot watch {place.name}: {error.strerror or error}", hint="is another watch running?"
        ) from error
    finally:
        for descriptor in opened.values():
            os.close(descriptor)
    return tracers


def _shown(judged: TracedVerdict, node: str, names: Callable[[bytes], Name | None]) -> Connection:
    source, destination = names(judged.source), names(judged.destination)
    address = str(ip_address(judged.destination))
    return Connection(
        time=time.time(),
        allowed=judged.allowed,
        source=source.text if source is not None else str(ip_address(judged.source)),
        destination=destination.text if destination is not None else address,
        address=address,
        port=judged.port or None,
        protocol=_PROTOCOLS.get(judged.protocol, str(judged.protocol)),
        rules=judged.rules,
        node=node,
    )
