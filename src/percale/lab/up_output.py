"""What `percale lab up` prints: a table that grows as things get ready, and what to type next. Used by `starting`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from percale.lab.controller import Blueprint
from percale.lab.process.bootstrap import Event
from percale.lab.run_dir import DEFAULT_NAME
from percale.lab.spec.topology import Topology
from percale.model.netconf import NetworkConfig

Say = Callable[[str], None]

_AFTER = "READY AFTER"
_MOST_PODS = 20
"""Rows of a large lab's table; the others are counted."""


@dataclass(slots=True)
class Screen:
    """Nodes first; pods that are faster wait for their own table."""

    name: str
    blueprint: Blueprint
    network: NetworkConfig
    say: Say
    began: float
    """By time.monotonic()."""
    _pods: list[Event] = field(default_factory=list)
    _printed: int = 0
    _nodes_left: int = 0
    _nodes: tuple[int, ...] = ()
    """The widths of the nodes' columns."""
    _width: int = len("POD")

    def head(self, notes: Sequence[str]) -> None:
        """What is being made, and what is left out."""
        machines = self.blueprint.topology
        self._nodes_left = len(machines.nodes)
        networks = " and ".join(map(str, self.network.networks))
        self.say(f"lab {self.name}: pods in {networks}, nodes joined by {self.network.backend_type}")
        for note in (*notes, *warnings(machines, self.network)):
            self.say(note)
        self.say("")
        self._nodes = (
            max(map(len, ("NODE", *(machine.name for machine in machines.machines)))),
            max(map(len, ("SEGMENT", *(wire.name for wire in machines.wires)))),
            max(map(len, ("ADDRESS", *(str(machine.address.ip) for machine in machines.machines)))),
            len(_AFTER),
        )
        self._row(self._nodes, "NODE", "SEGMENT", "ADDRESS", _AFTER, "PODS")

    def show(self, event: Event) -> bool:
        """One event; True: it was the last."""
        event["seconds"] = time.monotonic() - self.began
        match event["event"]:
            case "expected":
                self._width = max(map(len, event["pods"]))
            case "node":
                self._node(event)
            case "pod":
                self._pods.append(event)
                if not self._nodes_left:
                    self._print_pods()
            case "ready":
                self._finish(event)
                return True
        return False

    def late(self, patience: float, missing: Sequence[str]) -> None:
        """Not all is ready in time; the lab stays for a look at it."""
        self.say(f"\nnot ready after {patience:.0f} s:")
        for line in missing:
            self.say(f"  {line}")
        self._next([f"percale lab status{self._option}", f"percale lab down{self._argument}"])

    def _node(self, event: Event) -> None:
        machine = self.blueprint.topology.find(event["name"])
        assert machine is not None
        seconds = f"{event['seconds']:.2f} s"
        self._row(self._nodes, machine.name, machine.wire.name, str(machine.address.ip), seconds, event["subnet"])
        self._nodes_left -= 1
        if not self._nodes_left:
            for host in self.blueprint.topology.hosts:
                self._row(self._nodes, host.name, host.wire.name, str(host.address.ip), "", "outside the cluster")
            self._print_pods()

    def _print_pods(self) -> None:
        widths = (self._width, self._nodes[0], len(_AFTER))
        for event in self._pods:
            if not self._printed:
                self.say("")
                self._row(widths, "POD", "NODE", _AFTER, "ADDRESS")
            self._printed += 1
            if self._printed <= _MOST_PODS:
                seconds = f"{event['seconds']:.2f} s"
                self._row(widths, event["name"], event["on"], seconds, " ".join(event["addresses"]))
        self._pods.clear()

    def _finish(self, event: Event) -> None:
        if self._printed > _MOST_PODS:
            self.say(f"… and {self._printed - _MOST_PODS} pods more")
        missing = event["missing"]
        nodes = len(self.blueprint.topology.nodes)
        what = f"{nodes} nodes and {self._printed} pods are ready after {event['seconds']:.2f} s"
        self.say(f"\n{what}{'; these cannot be:' if missing else ''}")
        for line in missing:
            self.say(f"  {line}")
        self._next(list(self._suggestions(event.get("pairs", ()))))

    def _suggestions(self, pairs: Sequence[dict[str, str]]) -> Iterator[str]:
        """Commands that work with the pods that are there."""
        lab = self._option
        yield f"percale lab get pods -A -o wide{lab}"
        for pair in pairs:
            yield f"percale lab probe{lab} {pair['from']} {pair['to']} {pair['port']}"
            yield f"percale lab exec{lab} {pair['from']} -- ip route"
        yield (
            f"percale lab node{lab} {self.blueprint.topology.nodes[0].name} -- ip route"
            if (self.blueprint.topology.nodes)
            else f"percale lab add-node{lab} node1"
        )
        yield f"percale lab down{self._argument}"

    def _next(self, commands: Sequence[str]) -> None:
        self.say("\ntry:")
        for command in commands:
            self.say(f"  {command}")

    @property
    def _option(self) -> str:
        return "" if self.name == DEFAULT_NAME else f" --lab {self.name}"

    @property
    def _argument(self) -> str:
        return "" if self.name == DEFAULT_NAME else f" {self.name}"

    def _row(self, widths: Sequence[int], *cells: str) -> None:
        self.say("   ".join(cell.ljust(width) for cell, width in zip(cells, (*widths, 0), strict=True)).rstrip())


def warnings(machines: Topology, network: NetworkConfig) -> Iterator[str]:
    """What will not work, said before somebody wonders."""
    if network.backend_type == "host-gw" and machines.nodes:
        home = machines.nodes[0].wire
        away = [node.name for node in machines.nodes if node.wire != home]
        if away:
            yield (
                f"note: host-gw joins nodes of one segment only, and {', '.join(away)} is behind the router:"
                " its pods will not be reached; use vxlan, or one segment (examples/lab/one-segment.yaml)"
            )
