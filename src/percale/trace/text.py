"""A trace in words: a picture of the way, place by place, and its end. Called by cli/trace.py; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from percale.trace.hops import AnyHop, DeviceHop, Direction, NatHop, Packet, RouteHop, RuleHop, Trace

_HEADS: Mapping[Direction, str] = {"request": "request", "reply": "answer", "error": "ICMP error"}
_TELLING = frozenset(("egress", "ingress", "foreign"))
"""Stages whose rules are told even when they let the packet pass."""
_MARKS = {"answered": "answered", "refused": "refused", "dropped": "dropped", "lost": "lost", "unsent": "not sent"}


def to_text(trace: Trace, question: str, *, wide: bool = False) -> Iterator[str]:
    """For a person; the outcome first. `wide`: every rule that matched."""
    yield f"{_MARKS.get(trace.end.outcome, trace.end.outcome)}: {question}: {trace.end.what}"
    direction, place = None, None
    for hop in _shown(trace.hops, wide=wide):
        if hop.direction != direction:
            direction, place = hop.direction, None
            yield f"{_HEADS[direction]}"
        if hop.place != place:
            place = hop.place
            yield f"  {place}"
        yield f"    {_time(hop)}  {_line(hop)}"
    if trace.end.outcome != "answered":
        yield f"end: {trace.end.what}"
    yield from (f"type: {command}" for command in trace.end.commands)
    yield from (f"note: {note}" for note in trace.notes)
    for difference in trace.differences:
        yield f"bug of Percale: {difference}; please report it with the output of -o json"


def _shown(hops: Sequence[AnyHop], *, wide: bool) -> Iterator[AnyHop]:
    for hop in hops:
        match hop:
            case RuleHop() if not wide and not (hop.drops or (hop.stage in _TELLING and hop.comment)):
                continue
            case RouteHop(kind="local", error=None) if not wide:
                continue
        yield hop


def _time(hop: AnyHop) -> str:
    return f"{hop.us:>9.1f} µs" if hop.us is not None else " " * 12


def _line(hop: AnyHop) -> str:
    match hop:
        case DeviceHop():
            return _device_line(hop)
        case RouteHop():
            return _route_line(hop)
        case RuleHop():
            return _rule_line(hop)
        case NatHop():
            return _nat_line(hop)


def _packet(packet: Packet) -> str:
    return f"{packet.source} → {packet.destination} {packet.what}".rstrip()


def _device_line(hop: DeviceHop) -> str:
    arrow = "◀" if hop.way == "in" else "▶"
    if hop.outer is None:
        return f"{arrow} {hop.device:<15} {_packet(hop.packet)}"
    inside = {(True, True): "carries an error about", (True, False): "carries"}.get(
        (hop.tunnel, hop.direction == "error"), "about"
    )
    return f"{arrow} {hop.device:<15} {_packet(hop.outer)}, {inside} {_packet(hop.packet)}"


def _route_line(hop: RouteHop) -> str:
    if hop.error is not None:
        return f"  route           {hop.destination}: {hop.error}"
    kind = "" if hop.kind == "unicast" else f"{hop.kind} "
    prefix = "default" if hop.prefix in ("0.0.0.0/0", "::/0") else hop.prefix or hop.destination
    words = [f"{kind}{prefix} in table {hop.table}"]
    words += [f"via {hop.via}"] if hop.via is not None else []
    words += [f"dev {hop.device}"] if hop.device is not None else []
    line = f"  route           {' '.join(words)}"
    if hop.neighbour is not None:
        line += f", neighbour {hop.neighbour.address} {hop.neighbour.mac or 'without a MAC'} {hop.neighbour.state}"
    if hop.forwarding is not None:
        line += f", fdb {hop.forwarding.remote or hop.forwarding.port or 'no entry'}"
    return line


def _rule_line(hop: RuleHop) -> str:
    said = hop.comment or hop.text or ("chain's policy" if not hop.handle else f"handle {hop.handle}")
    verdict = "allowed" if hop.stage in ("egress", "ingress") and not hop.drops else hop.verdict
    where = f", {hop.family} {hop.table} {hop.chain}" if hop.stage not in ("egress", "ingress") else ""
    return f"  {hop.stage:<15} {verdict}: {said}{where}"


def _nat_line(hop: NatHop) -> str:
    service = f", {hop.service}" if hop.service is not None else ""
    return f"  {hop.what + (' undone' if hop.restored else ''):<15} {hop.before} → {hop.after}{service}"
