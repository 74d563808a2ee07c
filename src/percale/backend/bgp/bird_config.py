"""A speaker as the text of BIRD 2's configuration. Pure.

Per family BIRD has a table for what is advertised and learned, and one of the underlay, by which next hops are found.

    static confirmed, borrowed, services ─▶ master4 ◀─▶ bgp … (one per neighbour)
                                              └──────▶ kernel table N ─▶ mirrored into main by the agent
    on link, kernel (main, read only) ──────▶ underlay4   next hops

Every text of a user was checked (model/validation/bgp.py): a password is the only one that is copied, in quotes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from percale.backend.bgp.speaker import Session, Speaker
from percale.model.addresses import IPNetwork, parse_network
from percale.model.bgp import BGPFilterRule
from percale.model.ip_family import Family
from percale.render.objects import ROUTE_PROTOCOL

RESTART_WAIT = 15
"""Seconds after a restart for which the kernel's routes stay as they are, for a neighbour that does not come."""
RESTART_TIME = 120
"""Seconds for which neighbours keep our routes."""
_IMPORT_LIMIT = 20000
_MARTIANS = {
    Family.IPV4: ("0.0.0.0/8{8,32}", "127.0.0.0/8+", "169.254.0.0/16+", "224.0.0.0/3+"),
    Family.IPV6: ("::/8{8,128}", "fe80::/10+", "ff00::/8+"),
}


class BirdConfig(Struct, frozen=True):
    """`sessions[name]` are the lines of a session's own, counted from 1: an error there is that session's."""

    text: str
    sessions: dict[str, range]

    def session_at(self, line: int) -> str | None:
        """Whose line it is."""
        return next((name for name, lines in self.sessions.items() if line in lines), None)


def bird_config(speaker: Speaker, log: str) -> BirdConfig:
    """All of it; `log` is the path of the log."""
    lines = list(_head(speaker, log))
    for family in speaker.addresses:
        lines += _family(speaker, family)
    sessions = {}
    for session in speaker.sessions:
        own = list(_session(speaker, session))
        sessions[session.name] = range(len(lines) + 1, len(lines) + len(own) + 1)
        lines += own
    return BirdConfig("\n".join(lines) + "\n", sessions)


def _head(speaker: Speaker, log: str) -> Iterator[str]:
    yield f'log "{log}" 1000000 "{log}.old" {{ info, warning, error, fatal, bug }};'
    yield f"router id {speaker.router_id};"
    yield f"graceful restart wait {RESTART_WAIT};"
    yield "timeformat protocol iso long;"
    yield "timeformat route iso long;"
    yield "protocol device { }"
    if any(session.bfd for session in speaker.sessions):
        yield "protocol bfd { }"


def _family(speaker: Speaker, family: Family) -> Iterator[str]:
    """The tables of one address family and what goes between them."""
    own = [prefix for prefix in speaker.prefixes if prefix.network.version == family]
    services = _of(family, speaker.services)
    yield f"ipv{family} table underlay{family};"
    # Not BIRD's direct protocol: that drops a network with any of the device's addresses in it, and finds it no more.
    yield f"protocol static onlink{family} {{"
    yield f"  ipv{family} {{ table underlay{family}; }};"
    for network in _of(family, speaker.on_link):
        yield f'  route {network} via "{speaker.on_link[network]}";'
    yield "}"
    yield f"protocol kernel main{family} {{"
    yield "  kernel table 254; learn;"
    pods = _set(_of(family, speaker.networks))
    yield f"  ipv{family} {{ table underlay{family}; export none; import where krt_source != {ROUTE_PROTOCOL}{_unless(pods)}; }};"
    yield "}"
    for kind in ("confirmed", "borrowed"):
        yield from _static(f"{kind}{family}", family, (each.network for each in own if each.kind == kind))
    yield from _static(f"services{family}", family, services)
    blocks = _set(_of(family, (*speaker.service_blocks, *speaker.services)))
    yield f"protocol kernel kernel{family} {{"
    yield f"  kernel table {speaker.table}; persist; graceful restart; scan time 10;"
    yield f"  ipv{family} {{ import none; export where source = RTS_BGP{_unless(blocks)}; }};"
    yield "}"
    foreign = ", ".join((*_MARTIANS[family], *(f"{each.network}+" for each in own)))
    yield f"define FOREIGN{family} = [ {foreign} ];"
    yield f"define CLUSTER{family} = {_set(_of(family, (*speaker.networks, *speaker.service_blocks)))};"


def _unless(networks: str) -> str:
    return f" && !(net ~ {networks})" if networks else ""


def _static(name: str, family: Family, networks: Iterable[IPNetwork]) -> Iterator[str]:
    yield f"protocol static {name} {{"
    yield f"  ipv{family};"
    yield from (f"  route {network} blackhole;" for network in networks)
    yield "}"


def _of(family: Family, networks: Iterable[IPNetwork]) -> list[IPNetwork]:
    return sorted({network for network in networks if network.version == family})


def _set(networks: Iterable[IPNetwork]) -> str:
    """A prefix set with all that is in the networks."""
    text = ", ".join(f"{network}+" for network in networks)
    return f"[ {text} ]" if text else ""


def _session(speaker: Speaker, session: Session) -> Iterator[str]:
    family = session.family
    source = "" if session.any_source and not session.bfd else f"{speaker.addresses[family]} "
    yield f"protocol bgp {session.name} {{"
    yield f"  local {source}port {session.local_port} as {session.local_as};"
    yield f"  neighbor {session.neighbor} port {session.port} as {session.as_number};"
    yield f"  multihop{f' {session.ttl_hops}' if session.ttl_hops is not None else ''};"
    if session.ttl_hops is not None:
        yield "  ttl security on;"
    yield "  connect delay time 1; connect retry time 5; error wait time 1,5;"
    yield f"  graceful restart on; graceful restart time {session.restart_time or RESTART_TIME};"
    if session.keepalive is not None:
        yield f"  keepalive time {session.keepalive}; hold time {3 * session.keepalive};"
    if session.passive:
        yield "  passive on;"
    if session.password is not None:
        yield f'  password "{session.password}";'
    if session.bfd:
        yield "  bfd on;"
    if session.client_of is not None:
        yield f"  rr client; rr cluster id {session.client_of};"
    if session.own_as_allowed:
        yield f"  allow local as {session.own_as_allowed};"
    yield f"  ipv{family} {{"
    yield f"    igp table underlay{family}; gateway recursive; add paths on; import table on;"
    yield f"    import limit {_IMPORT_LIMIT} action restart;"
    if session.next_hop != "auto":
        yield f"    next hop {session.next_hop};"
    yield "    import filter {"
    yield f"      if net ~ FOREIGN{family} then reject;"
    if session.node is not None:
        yield f"      if !(net ~ CLUSTER{family}) then reject;"
    yield from _rules(session.imports, family)
    yield "      accept;"
    yield "    };"
    yield "    export filter {"
    yield from _rules(session.exports, family)
    yield "      if source != RTS_BGP then accept;"
    if speaker.reflector:
        yield f"      if net ~ CLUSTER{family} then accept;"
    yield "      reject;"
    yield "    };"
    yield "  };"
    yield "}"


def _rules(rules: Iterable[BGPFilterRule], family: Family) -> Iterator[str]:
    for rule in rules:
        conditions = []
        if rule.source == "RemotePeers":
            conditions.append("source = RTS_BGP")
        if rule.cidr:
            conditions.append(_matches(rule, family))
        action = "accept" if rule.action == "Accept" else "reject"
        matching = " && ".join(conditions)
        yield f"      if {matching} then {action};" if matching else f"      {action};"


def _matches(rule: BGPFilterRule, family: Family) -> str:
    """`prefixLength` bounds the lengths of In and NotIn; without it they are all those in the network."""
    network = parse_network(rule.cidr)
    lengths = rule.prefixLength
    low = lengths.min if lengths is not None and lengths.min is not None else network.prefixlen
    high = lengths.max if lengths is not None and lengths.max is not None else family.size * 8
    low = max(low, network.prefixlen)
    wanted = f"net ~ [ {network}{{{low},{max(low, high)}}} ]"
    match rule.matchOperator:
        case "Equal":
            return f"net = {network}"
        case "NotEqual":
            return f"net != {network}"
        case "NotIn":
            return f"!({wanted})"
        case _:
            return wanted
