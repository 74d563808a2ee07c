"""Who reaches whom on which ports, for all pairs and all ports at once. Called by `matrix.py` and `diff.py`; pure.

    policies ─ portspace ─▶ pieces of ports ─┐
    pods, nodes, outside ─ ends ─▶ kinds ────┼─▶ what each class lets out and in ─▶ row(source) = out(source) & in(·)
    evaluator ─▶ class of each kind ─────────┘

Ends that no rule distinguishes are one kind; what a class of policies allows is a partition of the kinds by the ports that
they get. It says what `Evaluator.evaluate` says (a property test compares every pair and piece), some 10⁸ verdicts in a second.
Pairs in which NetworkPolicies have no say (`always`) are the caller's to leave out, or to ask for (`to_own_node`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from percale.explain.flow_ends import FlowEnds, Outside, Row, rules_of
from percale.explain.matrix.port_space import PortSet, PortSpace
from percale.model.clusternetworkpolicy import Action
from percale.policy.compiled_policy import TIERS, CompiledRule, PolicyKey
from percale.policy.evaluator import Evaluator, PolicyClass
from percale.policy.pod_facts import NamedPort, PodFacts
from percale.policy.rule_terms import Direction, PortName, PortSpan
from percale.policy.verdict import FlowEnd

Kinds: TypeAlias = int
"""A set of kinds: bits of one integer."""
Ids: TypeAlias = npt.NDArray[np.int32]
"""Port sets by their place in `Reach.sets`."""
Regions: TypeAlias = Callable[[CompiledRule], Iterable[tuple[PortSet, Kinds]]]
"""What a rule means: these ports of these peers, and those of those, …"""

NO_FLOW = -1
"""In a row: an address of the other family."""
_UNKNOWN = -1
"""In the table of what both sides allow: not computed yet."""


class Reachability:
    """Of one world, at one moment."""

    def __init__(self, evaluator: Evaluator, space: PortSpace, outside: Sequence[Outside]) -> None:
        self.space = space
        self._evaluator = evaluator
        self._flow_ends = FlowEnds(evaluator, outside)
        self.ends: list[FlowEnd] = self._flow_ends.all
        self._names = {
            port.name for rule in rules_of(evaluator) for port in rule.ports or () if isinstance(port, PortName)
        }
        self.kinds, self._samples, rows = self._sorted_out()
        """Each end's kind."""
        self._peers = {which: _bits(row) for which, row in rows.items()}
        self._everyone: Kinds = (1 << len(self._samples)) - 1
        self._holders = self._named_ports()
        self.sets: list[PortSet] = [0]
        """All port sets that there are."""
        self._ids: dict[PortSet, int] = {0: 0}
        self._families = np.array([len(self.ends[index].address) for index in self._samples])
        self._mixed = len(set(self._families.tolist())) > 1
        classes = [self._class_of(self.ends[index].pod) for index in self._samples]
        out, self._out_row = self._allowed(classes, "egress")
        inward, self._in_row = self._allowed(classes, "ingress")
        self._width = len(self.sets)
        self._out = out * self._width
        """Scaled, to find what both sides allow at `out + in` of one flat table; it is filled on first use."""
        self._in = np.ascontiguousarray(inward.T)
        """By source kind."""
        self._both = np.full(self._width**2, _UNKNOWN, np.int32)
        self._classes = classes
        self._to_own_node: dict[tuple[PolicyKey, ...], Mapping[PortSet, Kinds]] = {}
        """By the policies that select a pod."""

    def row(self, source: int) -> Ids:
        """The ports that a kind gets at each kind, as policies say."""
        pairs = self._out[self._out_row[source]] + self._in[source].take(self._in_row)
        found: Ids = self._both.take(pairs)
        if found.min() == _UNKNOWN:
            for pair in set(pairs[found == _UNKNOWN].tolist()):
                out, inward = divmod(pair, self._width)
                self._both[pair] = self._id(self.sets[out] & self.sets[inward])
            found = self._both.take(pairs)
        if self._mixed:
            found[self._families != self._families[source]] = NO_FLOW
        return found

    def to_own_node(self, source: int, destination: int) -> PortSet:
        """The ports that a pod of this kind gets at its own node, when that is of this kind."""
        policies = self._classes[source]
        if policies.keys not in self._to_own_node:
            self._to_own_node[policies.keys] = settle(
                policies, "egress", self._outward, self._everyone, self.space.all, exempt=True
            )
        return next(ports for ports, kinds in self._to_own_node[policies.keys].items() if kinds >> destination & 1)

    # Kinds

    def _sorted_out(self) -> tuple[npt.NDArray[np.intp], list[int], dict[object, Row]]:
        """Each end's kind, an end of each kind, and the rules' peers in terms of kinds."""
        ends, count = self._flow_ends, len(self._flow_ends)
        rows: dict[object, Row] = {}
        for rule in rules_of(self._evaluator):
            which = rule.peers
            if which not in rows:
                rows[which] = ends.peers(rule.peers)
        subjects = {policy.subject for policy in self._evaluator.policies.values()}
        features = [*rows.values(), *(ends.term(subject) for subject in subjects), *self._natures()]
        packed = np.packbits(np.array(features), axis=0).T
        _, samples, kinds = np.unique(
            np.ascontiguousarray(packed).view(f"V{packed.shape[1]}").reshape(count),
            return_index=True,
            return_inverse=True,
        )
        return kinds, samples.tolist(), {which: row[samples] for which, row in rows.items()}

    def _natures(self) -> Iterator[Row]:
        """What sets ends apart beside the selectors: pod or not, family, node or not, and the ports that they name."""
        ends = self.ends
        yield np.array([end.pod is not None for end in ends], np.bool_)
        yield np.array([end.node is not None for end in ends], np.bool_)
        yield np.array([len(end.address) == 4 for end in ends], np.bool_)
        holders: defaultdict[NamedPort, list[int]] = defaultdict(list)
        for index, end in enumerate(ends):
            for port in self._named(end.pod):
                holders[port].append(index)
        for indexes in holders.values():
            row = np.zeros(len(ends), np.bool_)
            row[indexes] = True
            yield row

    def _named(self, pod: PodFacts | None) -> Iterator[NamedPort]:
        """The ports of a pod that some rule names."""
        return (port for port in pod.ports if port.name in self._names) if pod is not None else iter(())

    def _named_ports(self) -> Mapping[NamedPort, Kinds]:
        """The kinds that have these ports."""
        found: defaultdict[NamedPort, Kinds] = defaultdict(int)
        for kind, sample in enumerate(self._samples):
            for port in self._named(self.ends[sample].pod):
                found[port] |= 1 << kind
        return found

    # Classes

    def _allowed(self, classes: Sequence[PolicyClass], direction: Direction) -> tuple[Ids, npt.NDArray[np.intp]]:
        """What the kinds' classes allow: rows of port sets by peer kind; and which row is each kind's. Equal rows are one."""
        rows: list[Ids] = []
        row_of: dict[object, int] = {}
        known: dict[object, int] = {}
        chosen: list[int] = []
        for sample, policies in zip(self._samples, classes, strict=True):
            ports = frozenset(self._own(sample, policies)) if direction == "ingress" else frozenset()
            which = (policies.keys, ports)
            if which not in known:
                regions = self._inward(ports) if direction == "ingress" else self._outward
                parts = settle(policies, direction, regions, self._everyone, self.space.all)
                content = frozenset(parts.items())
                if content not in row_of:
                    row_of[content] = len(rows)
                    rows.append(self._spread(parts))
                known[which] = row_of[content]
            chosen.append(known[which])
        return np.array(rows), np.array(chosen)

    def _own(self, sample: int, policies: PolicyClass) -> Iterator[NamedPort]:
        """The ports of a pod that the rules for what comes in name."""
        names = {
            port.name
            for rules in policies.rules_by_tier("ingress")
            for rule in rules
            for port in rule.ports or ()
            if isinstance(port, PortName)
        }
        pod = self.ends[sample].pod
        return (port for port in pod.ports if port.name in names) if pod is not None else iter(())

    def _class_of(self, pod: PodFacts | None) -> PolicyClass:
        if pod is None:
            return PolicyClass(())
        return self._evaluator.class_of(self._evaluator.selector_index.pod_ids[pod.key])

    def _spread(self, parts: Mapping[PortSet, Kinds]) -> Ids:
        count = len(self._samples)
        row = np.empty(count, np.int32)
        for ports, kinds in parts.items():
            packed = np.frombuffer(kinds.to_bytes(-(-count // 8), "little"), np.uint8)
            row[np.unpackbits(packed, count=count, bitorder="little").view(np.bool_)] = self._id(ports)
        return row

    def _id(self, ports: PortSet) -> int:
        known = self._ids.get(ports)
        if known is None:
            known = self._ids[ports] = len(self.sets)
            self.sets.append(ports)
        return known

    def _outward(self, rule: CompiledRule) -> Iterator[tuple[PortSet, Kinds]]:
        """A name is another number for another destination."""
        peers = self._peers[rule.peers]
        if rule.ports is None:
            yield self.space.all, peers
            return
        numbers = 0
        for port in rule.ports:
            if isinstance(port, PortSpan):
                numbers |= self.space.span(port)
                continue
            for named, holders in self._holders.items():
                if _means(port, named) and holders & peers:
                    yield self._number(named), holders & peers
        if numbers:
            yield numbers, peers

    def _inward(self, own: Iterable[NamedPort]) -> Regions:
        """A name is the subject's own port."""

        def regions(rule: CompiledRule) -> Iterator[tuple[PortSet, Kinds]]:
            ports = self.space.all if rule.ports is None else 0
            for port in rule.ports or ():
                if isinstance(port, PortSpan):
                    ports |= self.space.span(port)
                else:
                    for named in own:
                        ports |= self._number(named) if _means(port, named) else 0
            if ports:
                yield ports, self._peers[rule.peers]

        return regions

    def _number(self, port: NamedPort) -> PortSet:
        return self.space.span(PortSpan(port.protocol, port.number, port.number))


def settle(
    policies: PolicyClass,
    direction: Direction,
    regions: Regions,
    everyone: Kinds,
    ports: PortSet,
    *,
    exempt: bool = False,
) -> dict[PortSet, Kinds]:
    """The kinds by the ports that these policies allow them: tier by tier, as `Evaluator.evaluate` does for one flow.

    `exempt` flows are allowed by all NetworkPolicies.
    """
    isolates = bool(policies.isolating(direction))
    parts = {(0, ports): everyone}
    """By the ports that are allowed, and those that are not decided yet."""
    for tier, rules in zip(TIERS, policies.rules_by_tier(direction), strict=True):
        if exempt and isolates and tier == "NetworkPolicy":
            break
        live = {(allowed, undecided, undecided): kinds for (allowed, undecided), kinds in parts.items()}
        for rule in rules:
            for meant, peers in regions(rule):
                live = _apply(rule.action, meant, peers, live)
        parts = {}
        closes = isolates and tier == "NetworkPolicy"
        for (allowed, undecided, _), kinds in live.items():
            state = (allowed, 0 if closes else undecided)
            parts[state] = parts.get(state, 0) | kinds
    done: dict[PortSet, Kinds] = {}
    for (allowed, undecided), kinds in parts.items():
        done[allowed | undecided] = done.get(allowed | undecided, 0) | kinds
    return done


_Live: TypeAlias = dict[tuple[PortSet, PortSet, PortSet], Kinds]
"""By the ports that are allowed, not decided, and not decided and not passed on in this tier."""


def _apply(action: Action, meant: PortSet, peers: Kinds, parts: _Live) -> _Live:
    """The partition after one rule: of the kinds that it means, the ports that are still open to it are decided."""
    after: _Live = {}
    for state, kinds in parts.items():
        allowed, undecided, live = state
        hit = live & meant
        inside = kinds & peers if hit else 0
        if inside != kinds:
            after[state] = after.get(state, 0) | (kinds ^ inside)
        if inside:
            decided = hit if action != "Pass" else 0
            new = (allowed | hit if action == "Accept" else allowed, undecided ^ decided, live ^ hit)
            after[new] = after.get(new, 0) | inside
    return after


def always(source: FlowEnd, destination: FlowEnd) -> bool:
    """No NetworkPolicy has a say: a pod and itself, a pod and its own node."""
    if source.pod is not None:
        if source.address == destination.address:
            return True
        return destination.node is not None and destination.node == source.pod.node
    return source.node is not None and destination.pod is not None and destination.pod.node == source.node


def _means(port: PortName, named: NamedPort) -> bool:
    return port.name == named.name and port.protocol in ("", named.protocol)


def _bits(row: Row) -> Kinds:
    return int.from_bytes(np.packbits(row, bitorder="little").tobytes(), "little")
