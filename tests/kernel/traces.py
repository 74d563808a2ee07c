"""Traces between pods of two nodes by hand-made namespaces, and faults there: what tests of traces share."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from typing import Any

from msgspec.structs import replace
from tests.kernel.inside import inside
from tests.kernel.nodes import Fabric, Machine, Node

from percale.kernel.netns import NetnsThread
from percale.kernel.probe_packet import Probe, Protocol
from percale.trace.assembly import assemble
from percale.trace.diagnosis import diagnose, notes
from percale.trace.evidence import Evidence
from percale.trace.hops import DeviceHop, End, RuleHop, Trace
from percale.trace.session import Watched, observe

PORT = 80


class Words:
    """Commands as they are typed in a place."""

    def at(self, place: str, command: str) -> str:
        return f"{place}: {command}"

    def restart_agent(self, node: str) -> str:
        return f"restart {node}"

    def why(self) -> str:
        return "why"

    def mend(self, rule: RuleHop) -> End | None:
        return None


class Way:
    """From the pod of one node to that of another."""

    def __init__(self, fabric: Fabric, one: Node, two: Node) -> None:
        self.one, self.two = one, two
        self.places: dict[str, Machine] = {"pod1": one.pods[0], "n1": one, "n2": two, "pod2": two.pods[0]}
        self._router = fabric.router

    def evidence(self, protocol: Protocol, version: int = 4, to: str | None = None, timeout: float = 0.5) -> Evidence:
        target = ip_address(to or self.two.pods[0].addresses[version])
        port = 0 if protocol == "ICMP" else PORT
        probe = Probe.new(protocol, target.version, port, (port,), os.urandom(4))
        with ExitStack() as opened:
            watched = {}
            paths = {name: machine.path for name, machine in self.places.items()}
            for name, path in {**paths, "router": self._router.path}.items():
                with path.open() as namespace:
                    thread = NetnsThread(namespace.fileno())
                opened.callback(thread.close)
                kind: Any = {"p": "pod", "n": "node", "r": "router"}[name[0]]
                watched[name] = Watched(kind, thread)
            found = observe(probe, target, "pod1", watched, timeout)
        names = {f"192.168.1.{node.number}": f"node/{node.name}" for node in (self.one, self.two)}
        return replace(found, names=names)

    def trace(self, protocol: Protocol, version: int = 4, to: str | None = None, timeout: float = 0.5) -> Trace:
        evidence = self.evidence(protocol, version, to, timeout)
        hops = assemble(evidence)
        return Trace(hops, diagnose(evidence, hops, Words()), notes=tuple(notes(evidence, hops, {}, Words())))

    @contextmanager
    def server(self) -> Iterator[socket.socket]:
        """Something listens at the port of the second pod, by TCP."""

        def listening() -> socket.socket:
            made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
            made.bind(("::", PORT))
            made.listen()
            return made

        with inside(self.two.pods[0], listening) as made:
            yield made


def devices(trace: Trace, direction: str) -> list[str]:
    """`n1 ▶ eth0`, in order, without the router."""
    return [
        f"{hop.place} {'▶' if hop.way == 'out' else '◀'} {hop.device}"
        for hop in trace.hops
        if isinstance(hop, DeviceHop) and hop.direction == direction and hop.place != "router"
    ]
