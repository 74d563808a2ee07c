"""The status of a lab: machines, agents, and the peers as each agent sees them. Made by `machine_verbs`, shown by cli/lab.

The field names are those of `lab status -o json` and `lab list -o json`, an interface.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from percale.lab.machines.agent_state import AgentState


class Summary(Struct, frozen=True):
    """A lab in a line."""

    nodes: int
    pods: int
    ready: int
    """Pods."""
    network: str
    backend: str


class RunningLab(Summary, frozen=True, kw_only=True):
    """An entry of `lab list`; `pid` is that of the lab's init."""

    name: str
    pid: int


class PeerStatus(Struct, frozen=True):
    """Another node as an agent sees it."""

    node: str
    path: Literal["direct", "tunnel"] | None
    reached: bool
    problem: str | None


class MachineStatus(Struct, frozen=True):
    """A node, or a host outside the cluster, which has no agent. `peers` is None where no agent answers."""

    name: str
    segment: str
    address: str
    subnets: tuple[str, ...] = ()
    agent: AgentState | None = None
    peers: tuple[PeerStatus, ...] | None = None


class LabStatus(Summary, frozen=True, kw_only=True):
    """All of it; `cuts` are pairs of machines."""

    machines: tuple[MachineStatus, ...]
    cuts: tuple[tuple[str, ...], ...]
    problems: tuple[str, ...]
