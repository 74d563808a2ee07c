"""A packet's way as values: hops in the order in which they happened, and its end. Made by `assembly.py`, `diagnosis.py`."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

Direction: TypeAlias = Literal["request", "reply", "error"]
"""An error is an ICMP message that quotes the request or the reply."""
Stage: TypeAlias = Literal[
    "guard", "service", "host port", "egress", "ingress", "policy", "snat", "tunnel", "filter", "foreign"
]
Translation: TypeAlias = Literal["dnat", "snat"]
Outcome: TypeAlias = Literal["answered", "refused", "unreachable", "dropped", "lost", "unsent"]


class Packet(Struct, frozen=True, omit_defaults=True):
    """The ends with their ports, what it is, and its length with the IP header in bytes."""

    source: str
    destination: str
    what: str = ""
    length: int = 0


class Hop(Struct, frozen=True):
    """What all hops have. `us`: microseconds since the probe was sent; None: the kernel tells no time of it."""

    place: str
    direction: Direction
    us: float | None


class DeviceHop(Hop, frozen=True, tag_field="hop", tag="device"):
    """The packet at a device; `outer` is the packet of a tunnel that carries it, or the ICMP message that quotes it."""

    device: str
    way: Literal["in", "out"]
    packet: Packet
    outer: Packet | None = None
    tunnel: bool = False
    """`outer` is a tunnel's."""
    mtu: int | None = None


class NeighbourHop(Struct, frozen=True):
    """The entry of the next hop's MAC; `state` as `ip neigh` has it, "none" without an entry."""

    address: str
    mac: str | None
    state: str


class ForwardingHop(Struct, frozen=True):
    """Where the MAC is: a bridge's port, or the VTEP's address; None: unknown."""

    mac: str
    port: str | None
    remote: str | None


class RouteHop(Hop, frozen=True, tag_field="hop", tag="route"):
    """The routing decision: looked up again after the probe, with its source and input device."""

    destination: str
    input: str | None
    kind: str
    table: str
    prefix: str
    via: str | None
    device: str | None
    neighbour: NeighbourHop | None = None
    forwarding: ForwardingHop | None = None
    error: str | None = None


class RuleHop(Hop, frozen=True, tag_field="hop", tag="rule"):
    """A rule that matched, or the policy of a base chain (`handle` 0)."""

    stage: Stage
    family: str
    table: str
    chain: str
    handle: int
    verdict: str
    comment: str
    rule: str | None = None
    """The rule of a policy: np:ns/name#ingress[0]."""
    text: str | None = None
    """A foreign rule, as nft lists it."""

    @property
    def drops(self) -> bool:
        return self.verdict == "drop"


class NatHop(Hop, frozen=True, tag_field="hop", tag="nat"):
    """An address that was replaced; of an answer, restored."""

    what: Translation
    restored: bool
    before: str
    after: str
    service: str | None = None


AnyHop: TypeAlias = DeviceHop | RouteHop | RuleHop | NatHop


class End(Struct, frozen=True):
    """What came of it, where, why, and what to type."""

    outcome: Outcome
    place: str
    what: str
    commands: tuple[str, ...] = ()


class Trace(Struct, frozen=True):
    """All that there is to tell. `differences`: where the kernel does not do what the model says: a bug of ours."""

    hops: tuple[AnyHop, ...]
    end: End
    differences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
