"""Renders one Service: elements of the base maps, and chains and sets that Services share.

    ResolvedService ─ render_input() ─▶ RenderInput ─ service_chains() ─▶ ServiceChains        called by `renderer.py`

    source-ranges4-…  loadBalancerSourceRanges: other clients are dropped ──┐
    cluster-ip4-…     pods keep their source, others are masqueraded   ◀────┤
    masquerade4-…     all clients are masqueraded                      ◀────┤
    local-policy4-…   pods: all endpoints; others: those of this node  ◀────┘
       └─▶ affinity4-…  the client's last endpoint ─▶ endpoints4-random-10 ─▶ dnat to endpoints4[VIP . protocol . port . slot]

A chain's name is derived from its whole content, so that equal names are equal chains.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Literal, NamedTuple, TypeAlias

from msgspec.structs import replace

from percale.model.addresses import IPNetwork
from percale.model.ip_family import Family
from percale.model.pod import PROTOCOL_NUMBERS
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
from percale.render.service.base_chains import KEEP_SOURCE_MARK, MASQUERADE_MARK, REJECT_CHAIN
from percale.service.endpoint_selection import Record
from percale.service.node_context import ClusterIPMasquerade, is_in
from percale.service.resolved_service import ResolvedPort, ResolvedService, Slots
from percale.service.service_ports import Vip
from percale.service.strategies import by_connections

By: TypeAlias = Literal["random", "inc", "source"]

_SOURCES: dict[int, Operand] = {Family.IPV4: "ip saddr", Family.IPV6: "ip6 saddr"}
_TARGETS: dict[int, Operand] = {Family.IPV4: "ip daddr", Family.IPV6: "ip6 daddr"}
_BY: dict[str, By] = {
    "random": "random",
    "lc": "random",
    "rr": "inc",
    "wrr": "inc",
    "sh": "source",
    "mh": "source",
}
_DROP, _REJECT = Verdict("drop"), Verdict("goto", REJECT_CHAIN)
_LONGEST_NAME = 110
"""Characters in a comment; nft takes 128 bytes."""

Connections: TypeAlias = Mapping[tuple[int, Record], int]
"""Connections by protocol number and endpoint."""


class ElementKey(NamedTuple):
    """An element's set and key."""

    set: str
    key: bytes


class AffinityKey(NamedTuple):
    """Scope of an affinity chain: an address, or all node ports when it is empty."""

    version: int
    address: bytes
    protocol: int


class RenderInput(NamedTuple):
    """A Service with everything else that its rendering depends on."""

    service: ResolvedService
    masquerade: ClusterIPMasquerade
    own_source: frozenset[Family]
    """Families in which this node's connections under externalTrafficPolicy Local keep its address."""
    node_addresses: tuple[bytes, ...]
    """Empty when they are irrelevant."""

    @property
    def has_source_ranges(self) -> bool:
        return any(port.spec.source_ranges for port in self.service.ports)


def render_input(
    service: ResolvedService,
    *,
    masquerade: ClusterIPMasquerade,
    own_source: frozenset[Family],
    node_addresses: tuple[bytes, ...] = (),
    connections: Connections | None = None,
) -> RenderInput:
    """The current Service; `connections` weigh endpoints where the strategy is `lc`."""
    if any(port.strategy.name == "lc" for port in service.ports):
        service = replace(service, ports=tuple(_weighed(port, connections or {}) for port in service.ports))
    plain = RenderInput(service, masquerade, own_source, ())
    return plain._replace(node_addresses=node_addresses) if plain.has_source_ranges else plain


def _weighed(port: ResolvedPort, connections: Connections) -> ResolvedPort:
    """With more slots for endpoints with fewer connections."""
    if port.strategy.name != "lc":
        return port

    def weigh(slots: Slots) -> Slots:
        records = list(port.records(slots))
        return b"".join(
            by_connections(
                records, {each: connections.get((PROTOCOL_NUMBERS[port.name.protocol], each), 0) for each in records}
            )
        )

    return replace(port, cluster=weigh(port.cluster), local=weigh(port.local))


@dataclass(slots=True)
class ServiceChains:
    """The elements, chains and sets of one Service; chains and sets by name."""

    elements: list[ElementBatch] = field(default_factory=list)
    chains: dict[str, Chain] = field(default_factory=dict)
    sets: dict[str, SetSpec] = field(default_factory=dict)
    affinity_rules: dict[AffinityKey, tuple[Rule, ...]] = field(default_factory=dict)
    affinity_maps: dict[str, frozenset[bytes]] = field(default_factory=dict)
    """Affinity maps, with their valid endpoints (as map data)."""
    cluster_ips: dict[ElementKey, bool] = field(default_factory=dict)
    """Cluster IPs in use are True."""

    def goto(self, chain: Chain) -> Verdict:
        """Add the chain unless it exists; a verdict that goes to it."""
        self.chains[chain.name] = chain
        return _goto(chain.name)


@lru_cache(maxsize=4096)
def _goto(chain: str) -> Verdict:
    return Verdict("goto", chain)


def service_chains(render_input: RenderInput) -> ServiceChains:
    """Everything that this Service needs."""
    rendered = ServiceChains()
    for port in render_input.service.ports:
        renderer = _PortRenderer(port, rendered, render_input)
        for vip in port.vips:
            renderer.render(vip)
    return rendered


_Which: TypeAlias = Literal["endpoints", "localendpoints"]
"""All endpoints, or those of this node."""


class _MapKey:
    """A Service's address as the key of map elements."""

    def __init__(self, vip: Vip, version: int, protocol: int) -> None:
        self.vip = vip
        self.is_node_port = vip.kind == "node-port"
        self._of = f"ports{version}" if self.is_node_port else str(version)
        self.key = vip.address + bytes((protocol, 0, 0, 0)) + vip.port.to_bytes(2, "big") + b"\0\0"

    def set(self, name: str) -> str:
        """The name of the base set for such an address."""
        return name + self._of


class _PortRenderer:
    """Renders one service port in one address family."""

    def __init__(self, port: ResolvedPort, rendered: ServiceChains, render_input: RenderInput) -> None:
        self._port, self._rendered, self._input = port, rendered, render_input
        self._version = port.family
        self._protocol = PROTOCOL_NUMBERS[port.name.protocol]
        self._source = _SOURCES[port.family]
        self._target = _TARGETS[port.family]
        self._endpoint: tuple[Field, Field] = (port.family.nft_address, "inet_service")

    @property
    def _comment(self) -> str:
        return str(self._port.name)[:_LONGEST_NAME]

    def render(self, vip: Vip) -> None:
        """Render one address: its clients are served, rejected or dropped."""
        port = self._port
        at = _MapKey(vip, self._version, self._protocol)
        if vip.kind == "cluster":
            self._rendered.cluster_ips[ElementKey(f"clusterips{self._version}", vip.address)] = True
            which: _Which = "localendpoints" if port.spec.internal_local else "endpoints"
            self._put_verdict(
                "services",
                at,
                self._verdict(
                    port.cluster_ip_clients, lambda slots: self._cluster_ip(self._select_endpoint(at, slots, which))
                ),
            )
        elif not port.spec.external_local:
            served = self._verdict(
                port.external_clients, lambda slots: self._masquerade(self._select_endpoint(at, slots, "endpoints"))
            )
            self._put_verdict("services", at, served)
        elif isinstance(port.node_local_clients, str):
            self._put_verdict("services", at, _REJECT if port.node_local_clients == "reject" else _DROP)
        else:
            anywhere = self._select_endpoint(at, port.node_local_clients, "endpoints")
            here = self._verdict(
                port.external_clients, lambda slots: self._select_endpoint(at, slots, "localendpoints")
            )
            self._put_verdict("services", at, self._local_policy(anywhere, here))
            self._put_verdict("output", at, self._from_this_node(anywhere))
        if vip.kind == "load-balancer" and port.spec.source_ranges:
            self._allow_source_ranges(at, vip.address)

    def _verdict(self, slots: Slots | str, serve: Callable[[Slots], Verdict]) -> Verdict:
        if isinstance(slots, str):
            return _REJECT if slots == "reject" else _DROP
        return serve(slots)

    def _put_verdict(self, name: str, at: _MapKey, verdict: Verdict) -> None:
        if at.vip.kind == "load-balancer" and self._port.spec.source_ranges and verdict != _DROP:
            verdict = self._source_ranges(verdict)
        self._put(at.set(name), at.key, verdict=verdict)

    def _put(self, name: str, keys: bytes, *, data: bytes = b"", verdict: Verdict | None = None) -> None:
        self._rendered.elements.append(ElementBatch(name, keys, data, verdict))

    # Kinds

    def _cluster_ip(self, pick: Verdict) -> Verdict:
        if self._input.masquerade == "none":
            return pick
        if self._input.masquerade == "all":
            return self._masquerade(pick)
        return self._rendered.goto(_masquerade_all_but_pods(self._version, pick))

    def _masquerade(self, pick: Verdict) -> Verdict:
        return self._rendered.goto(_masquerade_all(self._version, pick))

    def _local_policy(self, anywhere: Verdict, here: Verdict) -> Verdict:
        """externalTrafficPolicy Local: pods use all endpoints; the node's own connections are in the output map."""
        name = f"local-policy{self._version}-{anywhere.chain}-{here.chain or here.code}"
        from_pods = Rule((_from_pods(self._version),), anywhere, "pods of the cluster")
        return self._rendered.goto(Chain(name, (from_pods, Rule((), here, "externalTrafficPolicy: Local"))))

    def _from_this_node(self, anywhere: Verdict) -> Verdict:
        """With its own address, where answers to that find back."""
        if self._version not in self._input.own_source:
            return self._masquerade(anywhere)
        return self._rendered.goto(_keep_source(self._version, anywhere))

    def _source_ranges(self, then: Verdict) -> Verdict:
        admitted = InSet((self._target, "l4proto", "th dport", self._source), f"sourceranges{self._version}")
        rules = (Rule((admitted,), then, "loadBalancerSourceRanges"), Rule((), _DROP, "loadBalancerSourceRanges"))
        return self._rendered.goto(Chain(f"source-ranges{self._version}-{then.chain}", rules))

    # Endpoints

    def _select_endpoint(self, at: _MapKey, slots: Slots, which: _Which) -> Verdict:
        """Add the endpoints as elements; a verdict to the chain that selects one."""
        table, by = at.set(which), _BY[self._port.strategy.name]
        count = len(slots) // self._port.record_size
        # Each record with its two zeros.
        self._put(table, at.key.join(_slot_separators(count)), data=b"\0\0".join((*self._port.records(slots), b"")))
        whose = f"-{digest(self._port.name)}" if by == "inc" else ""  # each Service port has a counter of its own
        pick = self._rendered.goto(_select_one(table, by, self._version, count, whose))
        return pick if self._port.spec.affinity is None else self._with_affinity(at, pick, which)

    def _with_affinity(self, at: _MapKey, pick: Verdict, which: _Which) -> Verdict:
        """Session affinity: the client's last endpoint until it times out, else a new one."""
        known = self._affinity_map(which)
        self._record_affinity(at)
        again = Dnat(self._version, (self._source,), known)
        rules = (
            Rule((), None, f"affinity: {self._comment}", statements=(again,)),
            Rule((), pick, "a new client"),
        )
        return self._rendered.goto(Chain(f"{known}-{pick.chain}", rules))

    def _affinity_map(self, which: _Which) -> str:
        """The affinity map for all endpoints, or for those of this node."""
        port = self._port
        known = f"affinity{'local' if which == 'localendpoints' else ''}{self._version}-{digest(port.name, port.spec.affinity)}"
        address, number = self._endpoint
        self._rendered.sets[known] = SetSpec(
            known, (address,), data=(address, number), comment=self._comment, timeout=port.spec.affinity
        )
        slots = port.local if which == "localendpoints" else port.cluster + port.local
        self._rendered.affinity_maps[known] = frozenset(map(_padded, port.records(slots)))
        return known

    def _record_affinity(self, at: _MapKey) -> None:
        """Record the selected endpoint in the map of all endpoints, and in that of this node's if it is local."""
        key = AffinityKey(self._version, b"" if at.is_node_port else at.vip.address, self._protocol)
        asked: tuple[Match, ...] = (Equals("original dport", at.vip.port),)
        endpoint: tuple[Operand, Operand] = (self._target, "th dport")

        def rule(known: str, *matches: Match) -> Rule:
            return Rule(
                (*asked, *matches), None, self._comment, statements=(MapUpdate(known, (self._source,), endpoint),)
            )

        rules = [rule(self._affinity_map("endpoints"))]
        if self._port.local:
            here = f"localendpoints{self._affinity_map('endpoints').removeprefix('affinity')}"
            if here not in self._rendered.sets:
                self._rendered.sets[here] = SetSpec(here, self._endpoint, comment=self._comment)
                self._put(here, b"".join(dict.fromkeys(map(_padded, self._port.records(self._port.local)))))
            rules.append(rule(self._affinity_map("localendpoints"), InSet(endpoint, here)))
        known = self._rendered.affinity_rules.get(key, ())
        self._rendered.affinity_rules[key] = (*known, *(each for each in rules if each not in known))

    # Source ranges

    def _allow_source_ranges(self, at: _MapKey, address: bytes) -> None:
        """A packet of this node to an address that it has itself has that source: the node's addresses count."""
        ranges = list(self._port.spec.source_ranges)
        if any(is_in(own, ranges) for own in self._input.node_addresses):
            ranges.append(ip_network(address))
        self._put(
            f"sourceranges{self._version}",
            b"".join(
                at.key + each.network_address.packed + at.key + each.broadcast_address.packed
                for each in without_overlaps(ranges)
            ),
        )


# Chains that many Services share


@lru_cache(maxsize=4096)
def _select_one(table: str, by: By, version: Family, count: int, whose: str) -> Chain:
    """Selects one of `count` endpoints."""
    target = () if "ports" in table else (_TARGETS[version],)
    chosen = Dnat(version, (*target, "l4proto", "th dport"), table, SlotExpr(by, count))
    return Chain(f"{table}-{by}-{count}{whose}", (Rule((), None, f"one of {count}", statements=(chosen,)),))


@lru_cache(maxsize=4096)
def _masquerade_all_but_pods(version: int, pick: Verdict) -> Chain:
    from_pods = Rule((_from_pods(version),), pick, "pods keep their address")
    return Chain(f"cluster-ip{version}-{pick.chain}", (from_pods, _mark_for_masquerade(pick)))


@lru_cache(maxsize=4096)
def _masquerade_all(version: int, pick: Verdict) -> Chain:
    return Chain(f"masquerade{version}-{pick.chain}", (_mark_for_masquerade(pick),))


@lru_cache(maxsize=4096)
def _keep_source(version: int, pick: Verdict) -> Chain:
    rule = Rule((), pick, "this node keeps its address", statements=(SetMark(KEEP_SOURCE_MARK),))
    return Chain(f"own{version}-{pick.chain}", (rule,))


def _from_pods(version: int) -> InSet:
    return InSet((_SOURCES[version],), f"podnets{version}")


def _mark_for_masquerade(then: Verdict) -> Rule:
    return Rule((), then, "replies return through this node", statements=(SetMark(MASQUERADE_MARK),))


@lru_cache(maxsize=256)
def _slot_separators(count: int) -> tuple[bytes, ...]:
    """Separators that put a key before each number of `count` endpoints (bytes.join), in host byte order."""
    return b"", *(number.to_bytes(4, sys.byteorder) for number in range(count))


def _padded(record: Record) -> bytes:
    return record + b"\0\0"


def without_overlaps(networks: Iterable[IPNetwork]) -> Iterable[IPNetwork]:
    """The same addresses without overlaps, which interval sets reject."""
    ipv4 = [each for each in networks if isinstance(each, IPv4Network)]
    ipv6 = [each for each in networks if isinstance(each, IPv6Network)]
    return (*collapse_addresses(ipv4), *collapse_addresses(ipv6))
