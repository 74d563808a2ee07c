"""One fault: what is seen, what is done to the lab, how it is undone, and when it counts as mended. Pure."""

from __future__ import annotations

from msgspec import Struct

from percale.lab.process.bootstrap import FABRIC

ROUTER = FABRIC
"""Where a line runs: the router between the nodes."""


class Line(Struct, frozen=True):
    """A line for a shell on this machine; `ADDRESS-OF-node2` and the like stand for what a lab has (`world.names`)."""

    machine: str
    text: str


class Connection(Struct, frozen=True):
    """It is mended when this is answered. `size`: asked by an echo request with so many bytes, instead of a connection."""

    source: str
    target: str
    port: str = "80"
    size: int | None = None

    def __str__(self) -> str:
        return f"{self.source} → {self.target}" + (f", {self.size} bytes" if self.size is not None else f":{self.port}")


class Agent(Struct, frozen=True):
    """It is mended when this node's agent answers."""

    node: str

    def __str__(self) -> str:
        return f"the agent of {self.node}"


class Fault(Struct, frozen=True):
    """`seen` is all that a player is told; `hints` lead from where to look to what to look at, `cause` is the answer."""

    number: int
    seen: str
    mended: tuple[Connection | Agent, ...]
    hints: tuple[str, ...]
    cause: str
    lines: tuple[Line, ...] = ()
    undo: tuple[Line, ...] = ()
    manifest: str | None = None
    """Objects that are put in place of those of the world."""
    added: str | None = None
    """An object of the manifest that the world has not: KIND NAME."""
