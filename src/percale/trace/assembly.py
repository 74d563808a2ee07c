"""Puts what all places saw of a probe in order: hops, as they happened; pure.

sightings by time ─┬─▶ a DeviceHop each
a packet's steps ──┤   behind the device it came in by, or before the one it left by: a RuleHop each
look-ups ──────────┤   a RouteHop between the chains before and after the routing decision
headers ───────────┘   a NatHop where they change
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from percale.kernel.netlink.route import RouteQuery
from percale.kernel.packet_tap import Sighting
from percale.kernel.probe_packet import Found, Header
from percale.kernel.rtnl.path_lookup import PathLookup
from percale.service.service_ports import format_endpoint
from percale.trace.evidence import Evidence, Observation, Step
from percale.trace.hops import (
    AnyHop,
    DeviceHop,
    Direction,
    ForwardingHop,
    NatHop,
    NeighbourHop,
    Packet,
    RouteHop,
    RuleHop,
    Stage,
    Translation,
)

_STAGES: tuple[tuple[str, Stage], ...] = (
    ("antispoof", "guard"),
    ("icmp-errors", "guard"),
    ("egress", "egress"),
    ("ingress", "ingress"),
    ("policies", "policy"),
    ("own-node", "policy"),
    ("discovery", "policy"),
    ("hostports", "host port"),
    ("tunnel", "tunnel"),
    ("session", "tunnel"),
    ("postrouting", "snat"),
)
"""By the beginning of a chain's name, of our tables."""


Ends: TypeAlias = tuple[str, str]
"""Source and destination, with their ports."""


class Run(NamedTuple):
    """One packet's steps through the rules of a place."""

    place: str
    steps: tuple[Step, ...]
    direction: Direction
    is_outer: bool

    @property
    def input(self) -> str | None:
        return next((each.input for each in self.steps if each.header is not None), None)

    @property
    def output(self) -> str | None:
        return next((each.output for each in reversed(self.steps) if each.output is not None), None)

    @property
    def routed(self) -> bool:
        """A chain behind the routing decision saw it."""
        return self.output is not None

    @property
    def first_header(self) -> Header | None:
        return next((each.header for each in self.steps if each.header is not None), None)

    @property
    def last_header(self) -> Header | None:
        return next((each.header for each in reversed(self.steps) if each.header is not None), None)


def direction_of(found: Found) -> Direction:
    """Where it goes."""
    if found.error is not None:
        return "error"
    return "reply" if found.is_answer else "request"


def end_text(header: Header, *, source: bool) -> str:
    """`10.1.2.3:80`, without the port where there is none."""
    address, port = (header.source, header.source_port) if source else (header.destination, header.destination_port)
    return format_endpoint(address.packed, port) if port else str(address)


def packet_of(header: Header, what: str = "", length: int = 0) -> Packet:
    return Packet(end_text(header, source=True), end_text(header, source=False), what, length)


def assemble(evidence: Evidence) -> tuple[AnyHop, ...]:
    """All hops, in order."""
    ordered = evidence.sightings()
    placed: list[tuple[float, int, AnyHop]] = []

    def add(at: float, hops: Iterable[AnyHop]) -> None:
        placed.extend((at, len(placed) + number, hop) for number, hop in enumerate(hops))

    mtus = {(each.place, device.name): device.mtu for each in evidence.observations for device in each.devices}
    for index, (place, seen) in enumerate(ordered):
        add(index, [_device_hop(evidence, place, seen, mtus.get((place, seen.device)))])
    anchored: set[int] = set()
    for run in runs(evidence):
        at, index = _anchor(run, ordered, anchored)
        anchored.add(index)
        add(at, _run_hops(evidence, run))
    for index, (place, seen) in enumerate(ordered):
        if index not in anchored:
            add(
                index + 0.25 if not seen.outgoing else index - 0.75,
                _plain_route(evidence, place, seen, ordered[:index]),
            )
    return tuple(_with_translations(hop for _, _, hop in sorted(placed, key=lambda each: each[:2])))


def runs(evidence: Evidence) -> Iterator[Run]:
    """Every packet that met rules."""
    for observation in evidence.observations:
        by_packet: dict[int, list[Step]] = {}
        for step in observation.steps:
            if step.family != "netdev":  # our fast path's table: it drops nothing
                by_packet.setdefault(step.packet, []).append(step)
        for steps in by_packet.values():
            direction, is_outer = _meaning(evidence, observation, steps)
            yield Run(observation.place, tuple(steps), direction, is_outer)


def _meaning(evidence: Evidence, observation: Observation, steps: Sequence[Step]) -> tuple[Direction, bool]:
    """Which packet it is, by its headers as devices saw them; one that no device saw is known by its ends."""
    headers = {each.header for each in steps if each.header is not None}
    for seen in observation.sightings:
        found = seen.found
        if found.outer is not None and found.outer in headers:
            return direction_of(found), found.is_carried
        if found.header in headers and found.outer is None:
            return direction_of(found), False
    server = evidence.destination
    for header in headers:
        if header.destination == server and header.protocol == evidence.probe.number:
            return "request", False
        if header.source == server and header.protocol == evidence.probe.number:
            return "reply", False
    known = {seen.found.header: seen.found for _, seen in evidence.sightings()}
    for header in headers & known.keys():
        return direction_of(known[header]), False
    answers = any(seen.found.is_answer for seen in observation.sightings)
    is_outer = all(each.protocol != evidence.probe.number for each in headers)
    return ("reply" if answers else "request"), is_outer


def _anchor(run: Run, ordered: Sequence[tuple[str, Sighting]], taken: set[int]) -> tuple[float, int]:
    """Where its hops belong, and the sighting that they belong to."""
    device, outgoing = (run.input, False) if run.input is not None else (run.output, True)
    candidates = [
        index
        for index, (place, seen) in enumerate(ordered)
        if place == run.place and direction_of(seen.found) == run.direction and index not in taken
    ]
    for index in candidates:
        seen = ordered[index][1]
        if (seen.device, seen.outgoing, seen.found.is_carried) == (device, outgoing, run.is_outer):
            return (index - 0.5 if outgoing else index + 0.5), index
    before = [index for index, (place, _) in enumerate(ordered) if place == run.place]
    if not before:
        return (-0.5, -1) if run.direction == "request" else (len(ordered) + 0.5, -1)
    return before[-1] + 0.5, -1


def _us(evidence: Evidence, seen: Sighting) -> float:
    return round((seen.time - evidence.sent) / 1000, 1)


def _device_hop(evidence: Evidence, place: str, seen: Sighting, mtu: int | None) -> DeviceHop:
    found = seen.found
    outer = packet_of(found.outer, outer_text(found)) if found.outer is not None else None
    return DeviceHop(
        place,
        direction_of(found),
        _us(evidence, seen),
        seen.device,
        "out" if seen.outgoing else "in",
        packet_of(found.header, found.detail, found.length),
        outer,
        found.is_carried,
        mtu,
    )


_ICMP_ERRORS = {
    (3, 0): "network unreachable",
    (3, 1): "host unreachable",
    (3, 3): "port unreachable",
    (3, 4): "fragmentation needed",
    (3, 9): "network prohibited",
    (3, 10): "host prohibited",
    (3, 13): "administratively prohibited",
    (11, 0): "time exceeded",
}
_ICMP6_ERRORS = {
    (1, 0): "no route",
    (1, 1): "administratively prohibited",
    (1, 3): "address unreachable",
    (1, 4): "port unreachable",
    (2, 0): "packet too big",
    (3, 0): "time exceeded",
}


def error_text(found: Found) -> str:
    """What the ICMP error says, in words."""
    kind = found.error or (0, 0)
    names = _ICMP6_ERRORS if found.header.source.version == 6 else _ICMP_ERRORS
    return names.get(kind, f"ICMP type {kind[0]} code {kind[1]}")


def outer_text(found: Found) -> str:
    """What the outer packet is."""
    if not found.is_carried:
        return error_text(found)
    protocol = found.outer.protocol if found.outer is not None else 0
    return {17: "udp", 4: "ip in ip", 41: "ip in ip"}.get(protocol, f"protocol {protocol}")


def _run_hops(evidence: Evidence, run: Run) -> Iterator[AnyHop]:
    header, routed = run.first_header, run.input is None
    if routed and header is not None:
        yield from _route_hops(evidence, run.place, run.direction, header, None)
    for step in run.steps:
        if step.header is not None and header is not None and step.header != header:
            yield from _nat_hops(run.place, run.direction, _ends(header), _ends(step.header))
            header = step.header
        if not routed and step.output is not None and step.family != "bridge" and header is not None:
            routed = True
            yield from _route_hops(evidence, run.place, run.direction, header, run.input)
        if not step.is_policy or step.drops:
            yield _rule_hop(run, step)
    if header is not None and not routed and not run.steps[-1].drops:
        yield from _route_hops(evidence, run.place, run.direction, header, run.input)


def _with_translations(hops: Iterable[AnyHop]) -> Iterator[AnyHop]:
    """A translation that no rule's header shows is between two devices: masquerading, and what is undone in answers."""
    known: dict[tuple[str, Direction], Ends] = {}
    for hop in hops:
        key = (hop.place, hop.direction)
        if isinstance(hop, NatHop):
            source, destination = known.get(key, ("", ""))
            is_source = (hop.what == "snat") != hop.restored
            known[key] = (hop.after, destination) if is_source else (source, hop.after)
        elif isinstance(hop, DeviceHop) and not hop.tunnel:
            packet = hop.outer or hop.packet
            ends = packet.source, packet.destination
            yield from _nat_hops(hop.place, hop.direction, known.get(key, ends), ends)
            known[key] = ends
        yield hop


def _ends(header: Header) -> Ends:
    return end_text(header, source=True), end_text(header, source=False)


def _nat_hops(place: str, direction: Direction, before: Ends, after: Ends) -> Iterator[NatHop]:
    """An answer's source is the request's destination."""
    restored = direction != "request"
    kinds: tuple[Translation, Translation] = ("dnat", "snat") if restored else ("snat", "dnat")
    for what, old, new in zip(kinds, before, after, strict=True):
        if old != new:
            yield NatHop(place, direction, None, what, restored, old, new)


def find_path(evidence: Evidence, place: str, header: Header, device: str | None) -> PathLookup | None:
    """What the tables of this place say of the packet."""
    query = RouteQuery(header.destination, header.source, header.protocol, header.source_port, header.destination_port)
    return next((each for each in evidence.of(place).paths if (each.query, each.input) == (query, device)), None)


def _route_hops(
    evidence: Evidence, place: str, direction: Direction, header: Header, device: str | None
) -> Iterator[RouteHop]:
    found = find_path(evidence, place, header, device)
    if found is None:
        return
    neighbour, entry = found.neighbour, found.forwarding
    yield RouteHop(
        place,
        direction,
        None,
        str(header.destination),
        device,
        found.kind,
        "local" if found.kind == "local" else found.table,
        found.prefix,
        str(found.via) if found.via is not None else None,
        found.device,
        NeighbourHop(str(neighbour.address), neighbour.mac, neighbour.state) if neighbour is not None else None,
        ForwardingHop(entry.mac, entry.port, str(entry.remote) if entry.remote else None)
        if entry is not None
        else None,
        found.error,
    )


def _plain_route(
    evidence: Evidence, place: str, seen: Sighting, before: Sequence[tuple[str, Sighting]]
) -> Iterator[RouteHop]:
    """Where no rule saw the packet: a pod, a host, a router. What comes in is routed, and what begins here."""
    header = seen.found.header if seen.found.outer is None else seen.found.outer
    direction = direction_of(seen.found)
    if not seen.outgoing:
        yield from _route_hops(evidence, place, direction, header, seen.device)
    elif not any(other == place and direction_of(each.found) == direction for other, each in before):
        yield from _route_hops(evidence, place, direction, header, None)


def _rule_hop(run: Run, step: Step) -> RuleHop:
    stage = _stage(step)
    is_policy_rule = stage in ("egress", "ingress") and "#" in step.comment
    return RuleHop(
        run.place,
        run.direction,
        None,
        stage,
        step.family,
        step.table,
        step.chain,
        0 if step.is_policy else step.handle,
        step.verdict,
        step.comment,
        step.comment if is_policy_rule else None,
        text=step.text,
    )


def _stage(step: Step) -> Stage:
    if not step.is_ours:
        return "foreign"
    if step.table.endswith("-services"):
        return "service"
    return next((stage for name, stage in _STAGES if step.chain.startswith(name)), "filter")
