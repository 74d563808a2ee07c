"""What one service asks of the services' table: elements of the text's maps, and chains and sets that it shares with others.

    ResolvedService ─ shown() ─▶ Shown ─ pieces_of() ─▶ Pieces        called by `renderer.py`

    guard4-…      only some clients may use this load balancer address ──┐
    cluster4-…    pods keep their source, all others get the node's ◀────┤
    outside4-…    everybody gets the node's                         ◀────┤
    split4-…      pods: all endpoints; others: those of this node   ◀────┘
       └─▶ stay4-…  the endpoint of last time ─▶ endpoints4-random-10 ─▶ dnat to endpoints4[VIP . protocol . port . turn]

A chain's name says all that is in it, so that equal names are equal chains.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Literal, NamedTuple, TypeAlias

from msgspec.structs import replace

from percale.model.addresses import Network
from percale.policy.rule_terms import digest
from percale.render.nft.objects import (
    Chain,
    Dnat,
    ElementBatch,
    Equals,
    Field,
    InSet,
    MapUpdate,
    Match,
    Operand,
    Rule,
    SetMark,
    SetSpec,
    SlotExpr,
    Verdict,
)
from percale.render.policy.class_chains import PROTOCOLS
from percale.render.service.base_chains import MASQUERADE_MARK, REFUSE
from percale.service.endpoint_selection import Record
from percale.service.node_context import is_in
from percale.service.resolved_service import ResolvedPort, ResolvedService, Slots
from percale.service.service_ports import Vip
from percale.service.strategies import by_connections

By: TypeAlias = Literal["random", "inc", "source"]

_TARGETS: dict[int, Operand] = {4: "ip daddr", 6: "ip6 daddr"}
_BY: dict[str, By] = {
    "random": "random",
    "lc": "random",
    "rr": "inc",
    "wrr": "inc",
    "sh": "source",
    "mh": "source",
}
_DROP, _REFUSE = Verdict("drop"), Verdict("goto", REFUSE)
_LONGEST_NAME = 110
"""Characters in a comment; nft takes 128 bytes."""

Connections: TypeAlias = Mapping[tuple[int, Record], int]
"""By protocol number and endpoint."""


class Place(NamedTuple):
    """An element's set and key."""

    set: str
    key: bytes


class Remembering(NamedTuple):
    """Where clients are remembered: an address, or all node ports when it is empty."""

    version: int
    address: bytes
    protocol: int


class Shown(NamedTuple):
    """A service with everything else that its pieces depend on."""

    service: ResolvedService
    masquerade_all: bool
    node_addresses: tuple[bytes, ...]
    """Empty when they do not matter."""

    @property
    def is_guarded(self) -> bool:
        return any(port.spec.source_ranges for port in self.service.ports)


def shown(
    service: ResolvedService,
    *,
    masquerade_all: bool = False,
    node_addresses: tuple[bytes, ...] = (),
    connections: Connections | None = None,
) -> Shown:
    """The service as it is now; `connections` weigh endpoints where the strategy is `lc`."""
    if any(port.strategy.name == "lc" for port in service.ports):
        service = replace(service, ports=tuple(_weighed(port, connections or {}) for port in service.ports))
    plain = Shown(service, masquerade_all, ())
    return plain._replace(node_addresses=node_addresses) if plain.is_guarded else plain


def _weighed(port: ResolvedPort, connections: Connections) -> ResolvedPort:
    """With more slots for endpoints that have few connections."""
    if port.strategy.name != "lc":
        return port

    def weigh(slots: Slots) -> Slots:
        records = list(port.records(slots))
        return b"".join(
            by_connections(
                records, {each: connections.get((PROTOCOLS[port.name.protocol], each), 0) for each in records}
            )
        )

    return replace(port, cluster=weigh(port.cluster), local=weigh(port.local))


@dataclass(slots=True)
class Pieces:
    """What some services need; chains and sets by name."""

    elements: list[ElementBatch] = field(default_factory=list)
    chains: dict[str, Chain] = field(default_factory=dict)
    sets: dict[str, SetSpec] = field(default_factory=dict)
    remembered: dict[Remembering, tuple[Rule, ...]] = field(default_factory=dict)
    stays: dict[str, frozenset[bytes]] = field(default_factory=dict)
    """Maps of remembered clients, with the endpoints that these may stay with (as the map has them)."""
    cluster_ips: dict[Place, bool] = field(default_factory=dict)
    """Those in use are True."""

    def way(self, chain: Chain) -> Verdict:
        """To this chain, which may be there already."""
        self.chains[chain.name] = chain
        return _way(chain.name)


@lru_cache(maxsize=4096)
def _way(chain: str) -> Verdict:
    return Verdict("goto", chain)


def pieces_of(shown: Shown) -> Pieces:
    """Everything that this service alone asks for."""
    pieces = Pieces()
    for port in shown.service.ports:
        writer = _Port(port, pieces, shown)
        for vip in port.vips:
            writer.write(vip)
    return pieces


_Which: TypeAlias = Literal["endpoints", "locals"]
"""All endpoints, or those of this node."""


class _At:
    """A service's address in the keys of maps."""

    def __init__(self, vip: Vip, version: int, protocol: int) -> None:
        self.vip = vip
        self.is_node_port = vip.kind == "node-port"
        self._of = f"ports{version}" if self.is_node_port else str(version)
        self.key = vip.address + bytes((protocol, 0, 0, 0)) + vip.port.to_bytes(2, "big") + b"\0\0"

    def set(self, name: str) -> str:
        """The text's set for such an address."""
        return name + self._of


class _Port:
    """One service port in one address family."""

    def __init__(self, port: ResolvedPort, pieces: Pieces, shown: Shown) -> None:
        self._port, self._pieces, self._shown = port, pieces, shown
        self._version: Literal[4, 6] = port.family
        self._protocol = PROTOCOLS[port.name.protocol]
        self._source: Operand = "ip saddr" if port.family == 4 else "ip6 saddr"
        self._target = _TARGETS[port.family]
        self._endpoint: tuple[Field, Field] = ("ipv4_addr" if port.family == 4 else "ipv6_addr", "inet_service")

    @property
    def _said(self) -> str:
        return str(self._port.name)[:_LONGEST_NAME]

    def write(self, vip: Vip) -> None:
        """Who asks at this address is served, refused or dropped."""
        port = self._port
        at = _At(vip, self._version, self._protocol)
        if vip.kind == "cluster":
            self._pieces.cluster_ips[Place(f"clusterips{self._version}", vip.address)] = True
            which: _Which = "locals" if port.spec.internal_local else "endpoints"
            self._lead(
                "services", at, self._either(port.inside, lambda slots: self._cluster(self._pick(at, slots, which)))
            )
        elif not port.spec.external_local:
            served = self._either(port.outside, lambda slots: self._outside(self._pick(at, slots, "endpoints")))
            self._lead("services", at, served)
        elif isinstance(port.near, str):
            self._lead("services", at, _REFUSE if port.near == "reject" else _DROP)
        else:
            anywhere = self._pick(at, port.near, "endpoints")
            here = self._either(port.outside, lambda slots: self._pick(at, slots, "locals"))
            self._lead("services", at, self._split(anywhere, here))
            self._lead("own", at, self._outside(anywhere))
        if vip.kind == "load-balancer" and port.spec.source_ranges:
            self._admit(at, vip.address)

    def _either(self, slots: Slots | str, serve: Callable[[Slots], Verdict]) -> Verdict:
        if isinstance(slots, str):
            return _REFUSE if slots == "reject" else _DROP
        return serve(slots)

    def _lead(self, name: str, at: _At, verdict: Verdict) -> None:
        if at.vip.kind == "load-balancer" and self._port.spec.source_ranges and verdict != _DROP:
            verdict = self._guard(verdict)
        self._put(at.set(name), at.key, verdict=verdict)

    def _put(self, name: str, keys: bytes, *, data: bytes = b"", verdict: Verdict | None = None) -> None:
        self._pieces.elements.append(ElementBatch(name, keys, data, verdict))

    # Kinds

    def _cluster(self, pick: Verdict) -> Verdict:
        if self._shown.masquerade_all:
            return self._outside(pick)
        return self._pieces.way(_for_pods_and_others(self._version, pick))

    def _outside(self, pick: Verdict) -> Verdict:
        return self._pieces.way(_for_others(self._version, pick))

    def _split(self, anywhere: Verdict, here: Verdict) -> Verdict:
        """externalTrafficPolicy Local: pods may go anywhere, and this node's own connections do not come here."""
        name = f"split{self._version}-{anywhere.chain}-{here.chain or here.code}"
        from_pods = Rule((_from_pods(self._version),), anywhere, "pods of the cluster")
        return self._pieces.way(Chain(name, (from_pods, Rule((), here, "externalTrafficPolicy: Local"))))

    def _guard(self, then: Verdict) -> Verdict:
        admitted = InSet((self._target, "l4proto", "th dport", self._source), f"admitted{self._version}")
        rules = (Rule((admitted,), then, "loadBalancerSourceRanges"), Rule((), _DROP, "loadBalancerSourceRanges"))
        return self._pieces.way(Chain(f"guard{self._version}-{then.chain}", rules))

    # Endpoints

    def _pick(self, at: _At, slots: Slots, which: _Which) -> Verdict:
        """The chain that chooses among these endpoints, which are now elements."""
        table, by = at.set(which), _BY[self._port.strategy.name]
        count = len(slots) // self._port.record_size
        # Each record with its two zeros.
        self._put(table, at.key.join(_turns(count)), data=b"\0\0".join((*self._port.records(slots), b"")))
        whose = f"-{digest(self._port.name)}" if by == "inc" else ""  # turns are a service's own
        pick = self._pieces.way(_one_of(table, by, self._version, count, whose))
        return pick if self._port.spec.affinity is None else self._stay(at, pick, which)

    def _stay(self, at: _At, pick: Verdict, which: _Which) -> Verdict:
        """The client's endpoint of last time, for as long as it is remembered."""
        known = self._known(which)
        self._remember(at)
        again = Dnat(self._version, (self._source,), known)
        rules = (Rule((), None, f"as before: {self._said}", statements=(again,)), Rule((), pick, "a new client"))
        return self._pieces.way(Chain(f"{known}-{pick.chain}", rules))

    def _known(self, which: _Which) -> str:
        """The map of the clients that are remembered for all endpoints, or for those of this node."""
        port = self._port
        known = f"stay{which if which == 'locals' else ''}{self._version}-{digest(port.name, port.spec.affinity)}"
        address, number = self._endpoint
        self._pieces.sets[known] = SetSpec(
            known, (address,), data=(address, number), comment=self._said, timeout=port.spec.affinity
        )
        slots = port.local if which == "locals" else port.cluster + port.local
        self._pieces.stays[known] = frozenset(map(_padded, port.records(slots)))
        return known

    def _remember(self, at: _At) -> None:
        """What is chosen, by whichever way, is remembered for all endpoints; what is on this node for those here as well."""
        place = Remembering(self._version, b"" if at.is_node_port else at.vip.address, self._protocol)
        asked: tuple[Match, ...] = (Equals("original dport", at.vip.port),)
        endpoint: tuple[Operand, Operand] = (self._target, "th dport")

        def rule(known: str, *matches: Match) -> Rule:
            return Rule((*asked, *matches), None, self._said, statements=(MapUpdate(known, (self._source,), endpoint),))

        rules = [rule(self._known("endpoints"))]
        if self._port.local:
            here = f"here{self._known('endpoints').removeprefix('stay')}"
            if here not in self._pieces.sets:
                self._pieces.sets[here] = SetSpec(here, self._endpoint, comment=self._said)
                self._put(here, b"".join(dict.fromkeys(map(_padded, self._port.records(self._port.local)))))
            rules.append(rule(self._known("locals"), InSet(endpoint, here)))
        known = self._pieces.remembered.get(place, ())
        self._pieces.remembered[place] = (*known, *(each for each in rules if each not in known))

    # Guests

    def _admit(self, at: _At, address: bytes) -> None:
        """A packet of this node to an address that it has itself comes from there: then the node counts."""
        ranges = list(self._port.spec.source_ranges)
        if any(is_in(own, ranges) for own in self._shown.node_addresses):
            ranges.append(ip_network(address))
        self._put(
            f"admitted{self._version}",
            b"".join(
                at.key + each.network_address.packed + at.key + each.broadcast_address.packed for each in apart(ranges)
            ),
        )


# Chains that very many services share


@lru_cache(maxsize=4096)
def _one_of(table: str, by: By, version: Literal[4, 6], count: int, whose: str) -> Chain:
    """Chooses among so many endpoints of the table."""
    target = () if "ports" in table else (_TARGETS[version],)
    chosen = Dnat(version, (*target, "l4proto", "th dport"), table, SlotExpr(by, count))
    return Chain(f"{table}-{by}-{count}{whose}", (Rule((), None, f"one of {count}", statements=(chosen,)),))


@lru_cache(maxsize=4096)
def _for_pods_and_others(version: int, pick: Verdict) -> Chain:
    from_pods = Rule((_from_pods(version),), pick, "pods keep their address")
    return Chain(f"cluster{version}-{pick.chain}", (from_pods, _marking(pick)))


@lru_cache(maxsize=4096)
def _for_others(version: int, pick: Verdict) -> Chain:
    return Chain(f"outside{version}-{pick.chain}", (_marking(pick),))


def _from_pods(version: int) -> InSet:
    return InSet(("ip saddr" if version == 4 else "ip6 saddr",), f"clients{version}")


def _marking(then: Verdict) -> Rule:
    return Rule((), then, "answers come back by this node", statements=(SetMark(MASQUERADE_MARK),))


@lru_cache(maxsize=256)
def _turns(count: int) -> tuple[bytes, ...]:
    """What a key is put between to come once before each number of so many endpoints, in this machine's byte order."""
    return b"", *(number.to_bytes(4, sys.byteorder) for number in range(count))


def _padded(record: Record) -> bytes:
    return record + b"\0\0"


def apart(networks: Iterable[Network]) -> Iterable[Network]:
    """The same addresses, each once: sets of intervals refuse those that overlap."""
    ipv4 = [each for each in networks if isinstance(each, IPv4Network)]
    ipv6 = [each for each in networks if isinstance(each, IPv6Network)]
    return (*collapse_addresses(ipv4), *collapse_addresses(ipv6))
