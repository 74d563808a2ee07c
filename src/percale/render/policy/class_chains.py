"""Renders a class of pods to its chains and the sets that they use. Called by `renderer.py`.

    class, path, IP version ─▶ chain ingress4-… : one rule for each peer × ports of each policy rule, then drop
                               └─ sets by content: pods-… ports-… nets-… named-… nodes-…

`percale why` answers from the same compiled rules (policy/), so that what it says is what the kernel does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, summarize_address_range
from itertools import product
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.model.addresses import IPNetwork
from percale.model.ip_family import Family
from percale.model.pod import PROTOCOL_NUMBERS
from percale.policy.compiled_policy import CompiledRule
from percale.policy.evaluator import PolicyClass
from percale.policy.rule_terms import (
    Block,
    Direction,
    DomainTerm,
    NodeSelectorTerm,
    NumberRanges,
    Peer,
    PodSelectorTerm,
    PortSpan,
    canonical,
    digest,
)
from percale.render.nft.objects import Between, Chain, Equals, Field, InSet, Match, Operand, Rule, SetSpec, Verdict

Path: TypeAlias = Direction | Literal["egress-node"]
"""What a class has chains for: packets that are forwarded from a pod, and to a pod, and what a pod sends to its own node."""

_RETURN, _DROP = Verdict("return"), Verdict("drop")
_LONGEST_COMMENT = 120
"""Characters; nft itself takes 128 bytes."""


class PodsSet(Struct, frozen=True):
    """The addresses of the pods that a term selects."""

    term: PodSelectorTerm
    version: int

    @property
    def name(self) -> str:
        return f"pods{self.version}-{self.term.name}"

    @property
    def spec(self) -> SetSpec:
        return SetSpec(self.name, (address_field(self.version),))


class NamedPortsSet(Struct, frozen=True):
    """Every pod's address with the numbers that these port names have there: `address . protocol . port`."""

    ports: tuple[str, ...]
    version: int

    @property
    def name(self) -> str:
        return f"named{self.version}-{self.ports[0] if len(self.ports) == 1 else digest(*self.ports)}"

    @property
    def spec(self) -> SetSpec:
        return SetSpec(self.name, (address_field(self.version), "inet_proto", "inet_service"))


class PortsSet(Struct, frozen=True):
    """Ranges of ports: `protocol . port`."""

    spans: tuple[PortSpan, ...]

    @property
    def name(self) -> str:
        return f"ports-{digest(*((span.protocol, span.first, span.last) for span in self.spans))}"

    @property
    def spec(self) -> SetSpec:
        return SetSpec(self.name, ("inet_proto", "inet_service"), interval=True)


class NetworksSet(Struct, frozen=True):
    """Addresses of several networks, no two of which overlap."""

    networks: tuple[IPNetwork, ...]

    @property
    def name(self) -> str:
        return f"nets{self.networks[0].version}-{digest(*map(str, self.networks))}"

    @property
    def spec(self) -> SetSpec:
        return SetSpec(self.name, (address_field(self.networks[0].version),), interval=True)


class NodesSet(Struct, frozen=True):
    """The addresses of the nodes that a term selects."""

    term: NodeSelectorTerm
    version: int

    @property
    def name(self) -> str:
        return f"nodes{self.version}-{digest(canonical(self.term.nodes))}"

    @property
    def spec(self) -> SetSpec:
        return SetSpec(self.name, (address_field(self.version),))


class DomainSet(Struct, frozen=True):
    """The addresses that a domain name is known to have."""

    domain: str
    version: int

    @property
    def name(self) -> str:
        return f"domain{self.version}-{digest(self.domain)}"

    @property
    def spec(self) -> SetSpec:
        return SetSpec(self.name, (address_field(self.version),))


PolicySet: TypeAlias = PodsSet | NamedPortsSet | PortsSet | NetworksSet | NodesSet | DomainSet


class ClassChains(Struct, frozen=True):
    """The chains of a class for one path: its pods' map elements jump to the first one."""

    chains: tuple[Chain, ...]
    sets: frozenset[PolicySet]


def address_field(version: int) -> Field:
    """The nft type of an address."""
    return Family(version).nft_address


def class_chains(policies: PolicyClass, path: Path, version: int) -> ClassChains | None:
    """The chains of a class; None when no policy of it applies on this path."""
    direction: Direction = "egress" if path == "egress-node" else path
    admin, network, baseline = policies.rules_by_tier(direction)
    isolating = policies.isolating(direction)
    if path == "egress-node":
        # NetworkPolicies that isolate a pod allow it its own node, and so the tier after them has no say.
        baseline, isolating = () if isolating else baseline, ()
        if not any(rule.denies_nodes for rule in (*admin, *baseline)):
            return None
    if not (admin or isolating or baseline):
        return None
    writer = _RuleWriter(direction, version)
    name = f"{path}{version}-{policies.name}"
    after = f"{name}-policies"
    if isolating:
        rest = [*writer.rules(network, on_pass=_RETURN), _default_deny_rule(map(str, isolating))]
    else:
        rest = list(writer.rules(baseline, on_pass=_RETURN))
    if not any(rule.action == "Pass" for rule in admin):
        chains: tuple[Chain, ...] = (Chain(name, (*writer.rules(admin, on_pass=_RETURN), *rest)),)
    else:
        onwards = Verdict("goto", after)
        first = (*writer.rules(admin, on_pass=onwards), Rule((), onwards, "what no Admin policy decides"))
        chains = (Chain(name, first), Chain(after, tuple(rest)))
    return ClassChains(chains, frozenset(writer.sets))


def _default_deny_rule(isolating: Iterable[str]) -> Rule:
    return Rule((), _DROP, _comment(f"no rule allows it: {', '.join(isolating)}"), counter=True)


def _comment(text: str) -> str:
    return text if len(text) <= _LONGEST_COMMENT else f"{text[: _LONGEST_COMMENT - 1]}…"


class _RuleWriter:
    """Renders rules of one direction and IP version; `sets` collects the sets that they use."""

    def __init__(self, direction: Direction, version: int) -> None:
        ip = Family(version).nft
        self._peer: Operand = f"{ip} {'daddr' if direction == 'egress' else 'saddr'}"  # type: ignore[assignment]
        self._target: Operand = f"{ip} daddr"  # type: ignore[assignment]
        self._version = version
        self.sets: set[PolicySet] = set()

    def rules(self, rules: Sequence[CompiledRule], *, on_pass: Verdict) -> Iterator[Rule]:
        """One for each peer × ports; a peer of the other IP version gives none."""
        for rule in rules:
            verdict = {"Accept": _RETURN, "Deny": _DROP, "Pass": on_pass}[rule.action]
            peers, ports = list(self._peers(rule)), list(self._ports(rule))
            for peer, port in product(peers, ports):
                yield Rule(_cheapest_first((*peer, *port)), verdict, _rule_comment(rule))

    # Peers

    def _peers(self, rule: CompiledRule) -> Iterator[tuple[Match, ...]]:
        if rule.peers is None:
            yield ()
            return
        blocks = [peer for peer in rule.peers if isinstance(peer, Block)]
        yield from self._blocks(blocks)
        for peer in rule.peers:
            if not isinstance(peer, Block):
                yield from self._selected_peers(peer)

    def _selected_peers(self, peer: Peer) -> Iterator[tuple[Match, ...]]:
        match peer:
            case PodSelectorTerm():
                yield (self._in_set((self._peer,), PodsSet(peer, self._version)),)
            case NodeSelectorTerm():
                yield (self._in_set((self._peer,), NodesSet(peer, self._version)),)
            case DomainTerm():
                yield (self._in_set((self._peer,), DomainSet(peer.name, self._version)),)

    def _blocks(self, blocks: Iterable[Block]) -> Iterator[tuple[Match, ...]]:
        own = [block for block in blocks if block.network.version == self._version]
        if not own:
            return
        plain = len(own) == 1 and not own[0].exceptions  # as nearly all are
        networks = (own[0].network,) if plain else tuple(united(own, self._version))
        if not networks:
            return
        if len(networks) > 1:
            yield (self._in_set((self._peer,), NetworksSet(networks)),)
        elif networks[0].prefixlen == 0:
            yield ()
        else:
            (network,) = networks
            first, last = int(network.network_address), int(network.broadcast_address)
            yield (Equals(self._peer, first) if first == last else Between(self._peer, first, last),)

    # Ports

    def _ports(self, rule: CompiledRule) -> Iterator[tuple[Match, ...]]:
        if rule.ports is None:
            yield ()
            return
        spans = tuple(merged(rule))
        if len(spans) == 1:
            yield tuple(_span(spans[0]))
        elif spans:
            yield (self._in_set(("l4proto", "th dport"), PortsSet(spans)),)
        names: dict[str, set[str]] = {}
        for port in sorted(rule.port_names):
            names.setdefault(port.protocol, set()).add(port.name)
        for protocol, ports in names.items():
            yield tuple(self._named(protocol, tuple(sorted(ports))))

    def _named(self, protocol: str, ports: tuple[str, ...]) -> Iterator[Match]:
        if protocol:
            yield Equals("l4proto", PROTOCOL_NUMBERS[protocol])
        yield self._in_set((self._target, "l4proto", "th dport"), NamedPortsSet(ports, self._version))

    def _in_set(self, operands: tuple[Operand, ...], wanted: PolicySet) -> InSet:
        self.sets.add(wanted)
        return InSet(operands, wanted.name)


def _cheapest_first(matches: Iterable[Match]) -> tuple[Match, ...]:
    """Most rules do not match, and a comparison is cheaper than a set lookup."""
    return tuple(sorted(matches, key=lambda each: isinstance(each, InSet)))


def _rule_comment(rule: CompiledRule) -> str:
    text = str(rule.ref)
    if len(text) <= _LONGEST_COMMENT:
        return text
    policy, _, place = text.rpartition("#")
    return f"{policy[: _LONGEST_COMMENT - len(place) - 2]}…#{place}"


def _span(span: PortSpan) -> Iterator[Match]:
    """The port first, for most protocols are the same."""
    if span.first == span.last:
        yield Equals("th dport", span.first)
    elif (span.first, span.last) != (0, 65535):
        yield Between("th dport", span.first, span.last)
    yield Equals("l4proto", PROTOCOL_NUMBERS[span.protocol])


def merged(rule: CompiledRule) -> Iterator[PortSpan]:
    """Spans that touch or overlap as one, for the kernel refuses ranges that overlap."""
    for protocol, numbers in sorted(rule.numbers.items()):
        yield from (PortSpan(protocol, first, last) for first, last in numbers.pairs)


def united(blocks: Iterable[Block], version: int) -> Iterator[IPNetwork]:
    """The union of blocks of this IP version, each without its own exceptions: disjoint networks in order."""
    address = IPv4Address if version == 4 else IPv6Address
    for first, last in NumberRanges(each for block in blocks for each in block.ranges).pairs:
        yield from summarize_address_range(address(first), address(last))
