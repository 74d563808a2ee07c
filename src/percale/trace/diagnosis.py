"""What came of a probe, and where it was lost: the first cause that the evidence shows, and what to type; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from percale.kernel.packet_tap import Sighting
from percale.kernel.probe_packet import Header
from percale.kernel.rtnl.path_lookup import DeviceFacts, PathLookup
from percale.trace.assembly import direction_of, end_text, error_text, find_path
from percale.trace.evidence import Evidence
from percale.trace.hops import AnyHop, End, RouteHop, RuleHop

_RESET = "RST"
_PORT_UNREACHABLE = ((3, 3), (1, 4))
_NO_NEIGHBOUR = ("none", "INCOMPLETE", "FAILED")
_NOWHERE = ("blackhole", "unreachable", "prohibit", "throw")
_STRICT = 1


class TypedCommands(Protocol):
    """How a cluster is worked on: commands to be typed."""

    def at(self, place: str, command: str) -> str:
        """This program in that place."""

    def restart_agent(self, node: str) -> str:
        """The agent declares its objects again."""

    def why(self) -> str:
        """The command that explains the verdict."""

    def mend(self, rule: RuleHop) -> End | None:
        """Of a rule that the place itself is known to have, such as a cut cable of a lab."""


class _Case(Struct, frozen=True):
    """The last that was seen of the packet."""

    evidence: Evidence
    hops: Sequence[AnyHop]
    typed: TypedCommands
    place: str
    seen: Sighting

    @property
    def device(self) -> DeviceFacts | None:
        return next((each for each in self.evidence.of(self.place).devices if each.name == self.seen.device), None)

    @property
    def header(self) -> Header:
        return self.seen.found.header if self.seen.found.outer is None else self.seen.found.outer

    @property
    def is_tunnel(self) -> bool:
        return self.seen.found.is_carried

    @property
    def path(self) -> PathLookup | None:
        return find_path(self.evidence, self.place, self.header, self.seen.device)

    def facts(self, name: str | None) -> DeviceFacts | None:
        return next((each for each in self.evidence.of(self.place).devices if each.name == name), None)


def diagnose(evidence: Evidence, hops: Sequence[AnyHop], typed: TypedCommands) -> End:
    """The end of the way."""
    if (end := _answer(evidence, hops, typed)) is not None:
        return end
    if (end := _dropped(hops, typed)) is not None:
        return end
    ordered = evidence.sightings()
    if not ordered:
        return _never_seen(evidence, hops, typed)
    place, seen = _furthest(ordered)
    case = _Case(evidence, hops, typed, place, seen)
    for find in _CAUSES:
        if (end := find(case)) is not None:
            return end
    return _lost(case, f"it was last seen at {place}, {_where(seen)}, and then lost", "ip -s link")


def _furthest(ordered: Sequence[tuple[str, Sighting]]) -> tuple[str, Sighting]:
    """The last sighting of what came furthest; a server repeats its answer."""
    for direction in ("error", "reply", "request"):
        found = [each for each in ordered if direction_of(each[1].found) == direction]
        if found:
            first = [each for each in found if each[1].time - found[0][1].time < 500_000_000]
            return first[-1]
    return ordered[-1]


def _answer(evidence: Evidence, hops: Sequence[AnyHop], typed: TypedCommands) -> End | None:
    """By the first packet that came back to FROM."""
    came = (seen for place, seen in evidence.sightings() if place == evidence.start and not seen.outgoing)
    seen = next((each for each in came if each.is_answer), None)
    if seen is None:
        return None
    found, place = seen.found, evidence.start
    if found.error is None and _RESET not in found.detail:
        return End("answered", place, f"{found.detail} from {end_text(found.header, source=True)}")
    who = end_text(found.header, source=True) if found.outer is None else str(found.outer.source)
    said = error_text(found) if found.error is not None else "RST"
    if (dropped := _dropped(hops, typed)) is not None:
        return replace(dropped, outcome="refused", what=f"{dropped.what} ({said} from {who})")
    if found.error is None or found.error in _PORT_UNREACHABLE:
        return End("refused", place, f"{who} answers {said}: no socket listens there")
    return End("unreachable", place, f"{who} answers {said}", _unreachable_commands(hops, typed))


def _unreachable_commands(hops: Sequence[AnyHop], typed: TypedCommands) -> tuple[str, ...]:
    route = next((each for each in hops if isinstance(each, RouteHop) and _is_bad(each)), None)
    if route is None:
        return ()
    return (typed.at(route.place, f"ip route get {route.destination}"),)


def _is_bad(hop: RouteHop) -> bool:
    return hop.error is not None or hop.kind in _NOWHERE


def _dropped(hops: Sequence[AnyHop], typed: TypedCommands) -> End | None:
    rule = next((each for each in reversed(hops) if isinstance(each, RuleHop) and each.drops), None)
    if rule is None:
        return None
    if (known := typed.mend(rule)) is not None:
        return known
    chain = f"{rule.family} {rule.table} {rule.chain}"
    match rule.stage:
        case "egress" | "ingress" | "policy":
            by, command = f"by policy: {rule.rule or rule.comment}", typed.why()
        case "service" if rule.chain == "reject-chain":
            by, command = "for the Service has no ready endpoint, or not this port", typed.why()
        case "service":
            by, command = f"by Services' rules: {rule.comment or chain}", typed.why()
        case "foreign":
            text = rule.text or (f"handle {rule.handle}" if rule.handle else "its policy")
            by = f"by a rule of another program: {chain}: {text}"
            command = typed.at(rule.place, f"nft {_undo(rule, chain)}")
        case _:
            by, command = f"by {chain}: {rule.comment}", typed.at(rule.place, "percale status")
    return End("dropped", rule.place, f"{rule.place}: the {rule.direction} is dropped {by}", (command,))


def _undo(rule: RuleHop, chain: str) -> str:
    return f"delete rule {chain} handle {rule.handle}" if rule.handle else f"chain {chain} '{{ policy accept; }}'"


def _never_seen(evidence: Evidence, hops: Sequence[AnyHop], typed: TypedCommands) -> End:
    place = evidence.start
    for path in evidence.of(place).paths:
        if path.input is None and (end := _neighbour(place, path, typed)) is not None:
            return end
    why = evidence.refusal or "it was not seen at any device"
    command = typed.at(place, f"ip route get {evidence.destination}")
    return End("unsent", place, f"{place} cannot send: {why}", (command,))


def _neighbour(place: str, path: PathLookup, typed: TypedCommands) -> End | None:
    entry = path.neighbour
    if entry is None or entry.state not in _NO_NEIGHBOUR:
        return None
    what = f"{place}: {entry.address} has no MAC on {path.device} (neighbour {entry.state})"
    return End("lost", place, what, (typed.at(place, f"ip neigh show dev {path.device}"),))


def _where(seen: Sighting) -> str:
    return f"{'leaving by' if seen.outgoing else 'coming in by'} {seen.device}"


def _lost(case: _Case, what: str, *commands: str) -> End:
    return End("lost", case.place, what, tuple(case.typed.at(case.place, each) for each in commands))


# Causes, each by what was seen last


def _error_on_the_way(case: _Case) -> End | None:
    """An ICMP error that never came to FROM: about a tunnel's packet it is for the node."""
    found = case.seen.found
    if found.error is None or found.outer is None or found.is_carried:
        return None
    said = error_text(case.seen.found)
    if found.error in _PORT_UNREACHABLE and case.evidence.of(case.place).kind == "node":
        sender = _place_of(case, str(found.outer.source))
        what = f"{sender}: no program or device takes the tunnel's packets ({said})"
        return End("lost", sender, what, (case.typed.restart_agent(sender), case.typed.at(sender, "ss -lun")))
    return _lost(case, f"{found.outer.source} says: {said}, to {case.place}", f"ip route get {case.header.source}")


def _place_of(case: _Case, address: str) -> str:
    """The place that sent from this address."""
    for place, seen in case.evidence.sightings():
        outer = seen.found.outer
        if seen.outgoing and outer is not None and str(outer.source) == address and not seen.found.is_carried:
            return place
    return case.place


def _wrong_mac(case: _Case) -> End | None:
    seen = case.seen
    if not seen.to_others or seen.outgoing:
        return None
    own = case.device.mac if case.device is not None else None
    what = f"{case.place}: {seen.device} takes no packets for MAC {seen.destination_mac}: its own is {own}"
    return _lost(case, what, f"ip link show {seen.device}")


def _wrong_end(case: _Case) -> End | None:
    """The tunnel leads to an address that no machine has."""
    evidence, destination, typed = case.evidence, str(case.header.destination), case.typed
    if not case.is_tunnel or not evidence.names or _machine_with(evidence, destination) is not None:
        return None
    carried = (at for at, seen in evidence.sightings() if seen.found.is_carried and seen.found.outer == case.header)
    place = next(carried, case.place)
    what = f"{place}: its tunnel sends to {destination}, and no node has this address"
    return End("lost", place, what, (typed.restart_agent(place), typed.at(place, "bridge fdb show")))


def _refused_by_routing(case: _Case) -> End | None:
    path = case.path
    if case.seen.outgoing or path is None or path.error is None:
        return None
    place, device = case.place, case.seen.device
    facts = case.facts(device)
    if path.back is not None and path.back != device and facts is not None and facts.rp_filter == _STRICT:
        what = f"{place}: rp_filter drops it at {device}: the route back to {case.header.source} leads by {path.back}"
        return _lost(case, what, f"sysctl -w net/ipv4/conf/{device}/rp_filter=2")
    if case.evidence.of(place).kind in ("node", "router") and not case.evidence.of(place).forwards:
        return _not_forwarding(case)
    barrier = f"{path.kind} {path.prefix} in table {path.table}"
    return _no_route(case, barrier if path.kind in _NOWHERE else path.error)


def _no_route(case: _Case, why: str) -> End:
    place = case.place
    commands = [case.typed.at(place, f"ip route get {case.header.destination}")]
    if case.evidence.of(place).kind == "node":
        commands.append(case.typed.restart_agent(place))
    return End("lost", place, f"{place}: no route to {case.header.destination}: {why}", tuple(commands))


def _not_forwarding(case: _Case) -> End:
    name = "net.ipv4.ip_forward" if case.evidence.probe.version == 4 else "net.ipv6.conf.all.forwarding"
    return _lost(case, f"{case.place} forwards no packets: {name} is 0", f"sysctl -w {name}=1")


def _routed_nowhere(case: _Case) -> End | None:
    path = case.path
    if case.seen.outgoing or path is None:
        return None
    if path.kind in _NOWHERE:
        return _no_route(case, f"{path.kind} {path.prefix} in table {path.table}")
    if path.kind != "local" and not case.evidence.of(case.place).forwards:
        return _not_forwarding(case)
    return None


def _too_big(case: _Case) -> End | None:
    path = case.path
    out = case.facts(path.device) if path is not None else None
    if case.seen.outgoing or out is None or path is None or path.kind == "local":
        return None
    if case.seen.found.length <= out.mtu:
        return None
    what = f"{case.place}: {case.seen.found.length} bytes do not fit {out.name}, whose MTU is {out.mtu}"
    return _lost(case, what, f"ip link show {out.name}")


def _no_neighbour(case: _Case) -> End | None:
    path = case.path
    if case.seen.outgoing or path is None:
        return None
    return _neighbour(case.place, path, case.typed)


def _not_encapsulated(case: _Case) -> End | None:
    """It left by a tunnel's device, and no packet of the tunnel left the node."""
    device = case.device
    if not case.seen.outgoing or device is None or device.kind not in ("vxlan", "tun", "ipip", "wireguard", "sit"):
        return None
    place, typed = case.place, case.typed
    route = next(
        (each for each in reversed(case.hops) if isinstance(each, RouteHop) and each.device == device.name), None
    )
    if route is not None and route.forwarding is not None and route.forwarding.remote is None:
        what = f"{place}: no forwarding entry of {device.name} for {route.forwarding.mac}, the MAC of {route.via}"
        return End(
            "lost", place, what, (typed.at(place, f"bridge fdb show dev {device.name}"), typed.restart_agent(place))
        )
    what = f"{place}: {device.name} sent no packet to the other node"
    return End("lost", place, what, (typed.at(place, f"ip -s -d link show {device.name}"), typed.restart_agent(place)))


def _bridge_port(case: _Case) -> End | None:
    device = case.device
    if not case.seen.outgoing or device is None or device.kind != "bridge":
        return None
    return _lost(case, f"{case.place}: bridge {device.name} sent it to no port", f"bridge fdb show br {device.name}")


def _on_the_wire(case: _Case) -> End | None:
    """It left a machine and came to none."""
    if not case.seen.outgoing:
        return None
    what = f"it left {case.place} by {case.seen.device} for {case.header.destination}, and came nowhere"
    return _lost(case, what, f"ip neigh show dev {case.seen.device}", f"ip -s link show {case.seen.device}")


def _machine_with(evidence: Evidence, address: str) -> str | None:
    """The node or host that has this address."""
    sort, slash, name = evidence.names.get(address, "").partition("/")
    return name if slash and sort in ("node", "external") else None


def _not_decapsulated(case: _Case) -> End | None:
    """The tunnel's packet came in, and nothing out of it."""
    if case.seen.outgoing or not case.is_tunnel or case.path is None or case.path.kind != "local":
        return None
    place, counted = case.place, case.evidence.of(case.place).counted
    sums = [name for name in counted if "Csum" in name]
    why = f"checksum errors ({', '.join(sums)})" if sums else "no tunnel takes it: its device, its id, or its program"
    what = f"{place}: the tunnel's packet came in by {case.seen.device}, and nothing came out of it: {why}"
    commands = (case.typed.at(place, "ip -d link show type vxlan"), case.typed.restart_agent(place))
    return End("lost", place, what, commands)


def _silent_server(case: _Case) -> End | None:
    path = case.path
    if case.seen.outgoing or case.is_tunnel or path is None or path.kind != "local" or case.seen.found.is_answer:
        return None
    what = f"{case.place} has it and does not answer"
    return _lost(case, what, "ss -lntu")


_CAUSES: tuple[Callable[[_Case], End | None], ...] = (
    _wrong_end,
    _error_on_the_way,
    _wrong_mac,
    _refused_by_routing,
    _routed_nowhere,
    _too_big,
    _not_encapsulated,
    _bridge_port,
    _on_the_wire,
    _not_decapsulated,
    _no_neighbour,
    _silent_server,
)


def notes(
    evidence: Evidence, hops: Sequence[AnyHop], troubles: Mapping[str, str], typed: TypedCommands
) -> Iterator[str]:
    """What else is wrong on the way."""
    places = {each.place for each in hops}
    for node, trouble in troubles.items():
        if node in places:
            yield f"the agent of {node} is not ready: {trouble}; type: {typed.restart_agent(node)}"
    for each in evidence.observations:
        if each.lost_messages:
            yield f"{each.place}: the kernel has lost trace messages: some rules are missing here"
    yield from _mtu_notes(evidence)


def _mtu_notes(evidence: Evidence) -> Iterator[str]:
    """A tunnel's device whose full packets do not fit the underlay."""
    told: set[tuple[str, str]] = set()
    for place, seen in evidence.sightings():
        if not seen.outgoing or not seen.found.is_carried or seen.found.error is not None:
            continue
        devices = {device.name: device for device in evidence.of(place).devices}
        inner = next(
            (
                other.device
                for at, other in evidence.sightings()
                if at == place
                and other.outgoing
                and other.found.outer is None
                and other.found.header == seen.found.header
            ),
            None,
        )
        tunnel, under = devices.get(inner or ""), devices.get(seen.device)
        if tunnel is None or under is None or (place, tunnel.name) in told:
            continue
        told.add((place, tunnel.name))
        overhead = seen.length - seen.found.length
        if tunnel.mtu + overhead > under.mtu:
            yield (
                f"{place}: MTU {tunnel.mtu} of {tunnel.name} and {overhead} bytes of the tunnel are more than "
                f"{under.mtu} of {under.name}: large packets hang"
            )
