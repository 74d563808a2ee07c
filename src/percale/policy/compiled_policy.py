"""Policies of every kind in one compiled form, from which verdicts, kernel rules, explanations and lint findings are made.

`kinds/` compiles the API objects to it: the API's defaults are explicit, and what a newer API has added fails closed. Field
paths stand beside peers and ports, and are formatted only for people.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from msgspec import Struct

from percale.model.clusternetworkpolicy import Action
from percale.model.field_path import FieldPath
from percale.policy.rule_terms import (
    AddressSet,
    Block,
    Direction,
    DomainTerm,
    NumberRanges,
    Peer,
    PodSelectorTerm,
    Port,
    PortName,
    PortSpan,
)

T = TypeVar("T")

Tier: TypeAlias = Literal["Admin", "NetworkPolicy", "Baseline"]
TIERS: tuple[Tier, ...] = ("Admin", "NetworkPolicy", "Baseline")
"""In the order of evaluation."""

DIRECTIONS: tuple[Direction, Direction] = ("egress", "ingress")
PEERS_FIELD: dict[Direction, Literal["to", "from"]] = {"egress": "to", "ingress": "from"}


class PolicyKey(NamedTuple):
    """Identifies a policy by its kind's prefix and its name; as text `np:namespace/name` or `cnp:name`."""

    prefix: str
    namespace: str | None
    name: str

    def __str__(self) -> str:
        return f"{self.prefix}:{self.namespace}/{self.name}" if self.namespace else f"{self.prefix}:{self.name}"


class RuleRef(NamedTuple):
    """Identifies a rule of a policy; as text `np:ns/name#ingress[0]`, in nft's comments too."""

    policy: PolicyKey
    direction: Direction
    position: int

    def __str__(self) -> str:
        return f"{self.policy}#{self.direction}[{self.position}]"

    @property
    def field(self) -> FieldPath:
        """The rule's field in its policy."""
        return "spec", self.direction, self.position


class CompiledRule(Struct, frozen=True, dict=True):
    """`peers` None: all peers. `ports` None: all ports of every protocol, ICMP too. Empty: no peer, no port."""

    ref: RuleRef
    action: Action
    peers: tuple[Peer, ...] | None
    ports: tuple[Port, ...] | None
    peer_fields: tuple[FieldPath, ...] = ()
    """Where each of the peers stands in the rule: `("to", 0)`, `("to", 0, "networks", 1)`."""
    port_fields: tuple[FieldPath, ...] = ()
    unknown_fields: tuple[FieldPath, ...] = ()
    """Peers and protocols that have only fields of a newer API. They allow nothing, and deny everything."""

    @cached_property
    def addresses(self) -> AddressSet:
        """Of its blocks."""
        return AddressSet(peer for peer in self.peers or () if isinstance(peer, Block))

    @cached_property
    def selectors(self) -> tuple[Peer, ...]:
        """Its other peers."""
        return tuple(peer for peer in self.peers or () if not isinstance(peer, Block))

    @cached_property
    def numbers(self) -> Mapping[str, NumberRanges]:
        """Its ports by protocol."""
        spans: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for port in self.ports or ():
            if isinstance(port, PortSpan):
                spans[port.protocol].append((port.first, port.last))
        return {protocol: NumberRanges(ranges) for protocol, ranges in spans.items()}

    @cached_property
    def port_names(self) -> frozenset[PortName]:
        return frozenset(port for port in self.ports or () if isinstance(port, PortName))

    @property
    def denies_nodes(self) -> bool:
        """Whether a node may be among those that it denies."""
        peers = self.peers
        return self.action == "Deny" and (peers is None or not all(isinstance(each, PodSelectorTerm) for each in peers))

    @property
    def placed_peers(self) -> Iterator[tuple[FieldPath, Peer]]:
        """The peers, each with its field in the policy."""
        return self._placed(self.peer_fields, self.peers or ())

    @property
    def placed_ports(self) -> Iterator[tuple[FieldPath, Port]]:
        """The ports, each with its field in the policy."""
        return self._placed(self.port_fields, self.ports or ())

    def _placed(self, fields: Iterable[FieldPath], parts: Iterable[T]) -> Iterator[tuple[FieldPath, T]]:
        return (((*self.ref.field, *field), part) for field, part in zip(fields, parts, strict=True))


class CompiledPolicy(Struct, frozen=True):
    """`isolates` are the directions in which a NetworkPolicy denies what no rule allows; a cluster policy's tiers do not."""

    key: PolicyKey
    tier: Tier
    priority: int
    subject: PodSelectorTerm
    subject_field: FieldPath
    isolates: tuple[Direction, ...]
    egress: tuple[CompiledRule, ...]
    ingress: tuple[CompiledRule, ...]
    ineffective: tuple[Direction, ...] = ()
    """Directions with rules that have no effect, and are left out here."""

    def rules(self, direction: Direction) -> tuple[CompiledRule, ...]:
        """The rules of one direction, in their order."""
        return self.egress if direction == "egress" else self.ingress

    @property
    def all_rules(self) -> tuple[CompiledRule, ...]:
        """The rules of both directions."""
        return *self.ingress, *self.egress

    @property
    def terms(self) -> Iterator[PodSelectorTerm]:
        """The pod selectors among its rules' peers."""
        for rule in self.all_rules:
            for peer in rule.peers or ():
                if isinstance(peer, PodSelectorTerm):
                    yield peer

    @property
    def domains(self) -> Iterator[str]:
        """The domain names to resolve; wildcards match the names resolved for these."""
        for rule in self.egress:
            for peer in rule.peers or ():
                if isinstance(peer, DomainTerm) and not peer.name.startswith("*."):
                    yield peer.name
