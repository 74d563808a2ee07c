"""What `percale lab up` prints: a table that grows as nodes and pods get ready, and what to type next. Used by `up`."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import percale
from percale.counted import counted
from percale.lab.commands import default_lab, lab_command, lab_words, run_at
from percale.lab.controller import LabConfig
from percale.lab.process.bootstrap import Event
from percale.lab.spec.topology import Topology
from percale.model.netconf import NetworkConfig
from percale.text_columns import columns

Echo = Callable[[str], None]

_READY_AFTER = "READY AFTER"
_FIRST_EXAMPLE = "services/by-name.yaml"
"""For a lab without pods."""
_MOST_PODS = 20
"""Rows of a large lab's table; the others are counted."""


@dataclass(slots=True)
class UpProgress:
    """Nodes first; pods that are ready earlier wait for their own table."""

    name: str
    config: LabConfig
    network: NetworkConfig
    echo: Echo
    started: float
    """By time.monotonic()."""
    _pending_pods: list[Event] = field(default_factory=list)
    _pods_printed: int = 0
    _nodes_left: int = 0
    _node_widths: tuple[int, ...] = ()
    """The widths of the nodes' columns."""
    _pod_width: int = len("POD")

    def print_header(self, notes: Sequence[str]) -> None:
        """The lab's network, notes and the heads of the columns."""
        machines = self.config.topology
        self._nodes_left = len(machines.nodes)
        networks = " and ".join(map(str, self.network.networks))
        kubernetes = "Kubernetes, " if self.config.kubernetes is not None else ""
        self.echo(f"lab {self.name}: {kubernetes}pods in {networks}, nodes joined by {self.network.backend_type}")
        for note in (*notes, *warnings(machines, self.network)):
            self.echo(note)
        self.echo("")
        self._node_widths = (
            max(map(len, ("NODE", *(machine.name for machine in machines.machines)))),
            max(map(len, ("SEGMENT", *(segment.name for segment in machines.segments)))),
            max(map(len, ("ADDRESS", *(str(machine.address.ip) for machine in machines.machines)))),
            len(_READY_AFTER),
        )
        self._row(self._node_widths, "NODE", "SEGMENT", "ADDRESS", _READY_AFTER, "PODS")

    def show(self, event: Event) -> bool:
        """One event; True: it was the last."""
        event["seconds"] = time.monotonic() - self.started
        match event["event"]:
            case "expected":
                self._pod_width = max(map(len, event["pods"]))
            case "node":
                self._print_node(event)
            case "pod":
                self._pending_pods.append(event)
                if not self._nodes_left:
                    self._print_pods()
            case "ready":
                self._finish(event)
                return True
        return False

    def timed_out(self, timeout: float, missing: Sequence[str]) -> None:
        """Not all is ready in time; the lab goes on running."""
        self.echo(f"\nnot ready after {timeout:.0f} s:")
        for line in missing:
            self.echo(f"  {line}")
        self._print_suggestions([lab_command(self.name, "status"), f"percale lab down{self._argument}"])

    def _print_node(self, event: Event) -> None:
        machine = self.config.topology.find(event["name"])
        assert machine is not None
        seconds = f"{event['seconds']:.2f} s"
        self._row(
            self._node_widths, machine.name, machine.segment.name, str(machine.address.ip), seconds, event["subnet"]
        )
        self._nodes_left -= 1
        if not self._nodes_left:
            for host in self.config.topology.hosts:
                self._row(
                    self._node_widths, host.name, host.segment.name, str(host.address.ip), "", "outside the cluster"
                )
            self._print_pods()

    def _print_pods(self) -> None:
        widths = (self._pod_width, self._node_widths[0], len(_READY_AFTER))
        for event in self._pending_pods:
            if not self._pods_printed:
                self.echo("")
                self._row(widths, "POD", "NODE", _READY_AFTER, "ADDRESS")
            self._pods_printed += 1
            if self._pods_printed <= _MOST_PODS:
                seconds = f"{event['seconds']:.2f} s"
                self._row(widths, event["name"], event["on"], seconds, " ".join(event["addresses"]))
        self._pending_pods.clear()

    def _finish(self, event: Event) -> None:
        if self._pods_printed > _MOST_PODS:
            self.echo(f"… and {counted(self._pods_printed - _MOST_PODS, 'more pod')}")
        missing = event["missing"]
        nodes = len(self.config.topology.nodes)
        what = f"{counted(nodes, 'node')} and {counted(self._pods_printed, 'pod')} are ready after {event['seconds']:.2f} s"
        self.echo(f"\n{what}{'; these cannot be:' if missing else ''}")
        for line in missing:
            self.echo(f"  {line}")
        self._print_suggestions(list(self._suggestions(event.get("pairs", ()))))

    def _suggestions(self, pairs: Sequence[dict[str, str]]) -> Iterator[str]:
        """Commands that work with the pods that are there."""
        if self.config.kubernetes is not None:
            yield f"export KUBECONFIG=$({lab_command(self.name, 'kubeconfig')})"
            yield "kubectl get pods -A -o wide"
        if not self._pods_printed:
            yield lab_command(self.name, f"apply -f {shlex.quote(str(_example(_FIRST_EXAMPLE)))}")
            yield lab_command(self.name, "wait --for=condition=Ready pod --all -n by-name")
            yield lab_command(self.name, "probe -n by-name client nginx 80")
        yield f"percale lab get pods -A -o wide{lab_words(self.name)}"
        for pair in pairs:
            yield lab_command(self.name, f"probe {pair['from']} {pair['to']} {pair['port']}")
            yield run_at(self.name, pair["from"], "ip route", "exec")
        nodes = self.config.topology.nodes
        yield run_at(self.name, nodes[0].name, "ip route") if nodes else lab_command(self.name, "add-node node1")
        yield f"percale lab down{self._argument}"

    def _print_suggestions(self, commands: Sequence[str]) -> None:
        self.echo("\ntry:")
        for command in commands:
            self.echo(f"  {command}")

    @property
    def _argument(self) -> str:
        return "" if self.name == default_lab() else f" {self.name}"

    def _row(self, widths: Sequence[int], *cells: str) -> None:
        self.echo(next(columns([cells], least=widths)))


def _example(name: str) -> Path:
    """An example of the checkout, or of the installed package; as it is typed here."""
    package = Path(percale.__file__).parent
    found = next((each for each in (package / "examples", package.parents[1] / "examples") if each.is_dir()), package)
    with suppress(ValueError):
        return (found / name).relative_to(Path.cwd())
    return found / name


def warnings(machines: Topology, network: NetworkConfig) -> Iterator[str]:
    """What will not work with these machines and this network."""
    if network.backend_type == "host-gw" and machines.nodes:
        first_segment = machines.nodes[0].segment
        elsewhere = [node.name for node in machines.nodes if node.segment != first_segment]
        if elsewhere:
            yield (
                f"note: host-gw joins nodes of one segment only, and {', '.join(elsewhere)} is behind the router:"
                " its pods will not be reached; use vxlan, or one segment (examples/lab/one-segment.yaml)"
            )
