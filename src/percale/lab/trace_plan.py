"""What `percale trace` sends in a lab, and where it looks for it. Answered by `api/trace_verbs.py`, used by `trace.py`."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class Place(Struct, frozen=True):
    """Somewhere that the probe may come to: its network namespace, as the lab's init has it."""

    name: str
    kind: Literal["pod", "node", "host", "router"]
    namespace: str
    node: str | None = None
    """Of a pod."""


class TracePlan(Struct, frozen=True):
    """What is sent, from where, and where it is looked for; the answer of the lab's verb `trace_places`."""

    source: str
    target: str
    question: tuple[str, str, str]
    """FROM, TO and PORT for `percale why`."""
    address: str
    protocol: Literal["TCP", "UDP", "ICMP"]
    port: int | None
    server_ports: tuple[int, ...]
    start: str
    """FROM's place."""
    places: tuple[Place, ...]
    names: dict[str, str]
    """Of pods, nodes and hosts, by address: NS/POD, node/NAME, external/NAME."""
    cuts: tuple[tuple[str, str], ...] = ()
    """Pairs of machines between which the lab drops all packets."""
    troubles: dict[str, str] = {}
    """Nodes whose agent is not ready, with the reason."""
