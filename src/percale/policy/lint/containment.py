"""Whether one selector, peer, port or rule is certainly within another: whatever the first matches, the second matches.

Certain for every cluster, whatever its pods and labels are. False means "not certain".
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from percale.model.namespace import NAME_LABEL
from percale.model.selector import LabelSelector
from percale.policy.compiled_policy import CompiledRule
from percale.policy.rule_terms import (
    Block,
    DomainTerm,
    NodeSelectorTerm,
    Peer,
    PodSelectorTerm,
    Port,
    PortName,
    PortSpan,
)


class _Values(Struct, frozen=True):
    """What a selector allows of one key: these values, or (when `others`) all but these; `absent`: no such label is fine."""

    values: frozenset[str] = frozenset()
    others: bool = True
    absent: bool = True

    def both(self, other: _Values) -> _Values:
        absent = self.absent and other.absent
        if self.others and other.others:
            return _Values(self.values | other.values, True, absent)
        if self.others or other.others:
            some, barred = (other, self) if self.others else (self, other)
            return _Values(some.values - barred.values, False, absent)
        return _Values(self.values & other.values, False, absent)

    def within(self, other: _Values) -> bool:
        if self.absent and not other.absent:
            return False
        if other.others:
            return self.values >= other.values if self.others else not self.values & other.values
        return not self.others and self.values <= other.values


_ANY = _Values()


def _by_key(selector: LabelSelector) -> dict[str, _Values]:
    parts = [(key, _Values(frozenset((value,)), False, False)) for key, value in selector.matchLabels.items()]
    for requirement in selector.matchExpressions:
        values = frozenset(requirement.values)
        means = {
            "In": _Values(values, False, False),
            "NotIn": _Values(values, True, True),
            "Exists": _Values(frozenset(), True, False),
            "DoesNotExist": _Values(frozenset(), False, True),
        }
        parts.append((requirement.key, means[requirement.operator]))
    found: dict[str, _Values] = {}
    for key, part in parts:
        found[key] = found.get(key, _ANY).both(part)
    return found


def selector_within(inner: LabelSelector, outer: LabelSelector) -> bool:
    """Every set of labels that `inner` matches, `outer` matches."""
    given = _by_key(inner)
    return all(given.get(key, _ANY).within(wanted) for key, wanted in _by_key(outer).items())


def term_within(inner: PodSelectorTerm, outer: PodSelectorTerm) -> bool:
    """Every pod that `inner` selects, `outer` selects."""
    return selector_within(_namespaces(inner), _namespaces(outer)) and selector_within(inner.pods, outer.pods)


def _namespaces(term: PodSelectorTerm) -> LabelSelector:
    where = term.namespaces
    return LabelSelector(matchLabels={NAME_LABEL: where}) if isinstance(where, str) else where


def peers_within(inner: Iterable[Peer] | None, outer: Iterable[Peer] | None) -> bool:
    """None is everybody."""
    if outer is None:
        return True
    return inner is not None and all(any(_peer_within(each, other) for other in outer) for each in inner)


def _peer_within(inner: Peer, outer: Peer) -> bool:
    match inner, outer:
        case PodSelectorTerm(), PodSelectorTerm():
            return term_within(inner, outer)
        case Block(), Block():
            return block_within(inner, outer)
        case NodeSelectorTerm(here), NodeSelectorTerm(there):
            return selector_within(here, there)
        case DomainTerm(here), DomainTerm(there):
            return here == there
    return False


def block_within(inner: Block, outer: Block) -> bool:
    """Every address of it is there, and none that the other one takes out."""
    here, there = inner.network, outer.network
    if here.version != there.version or not here.subnet_of(there):  # type: ignore[arg-type]  # the versions are equal
        return False
    return all(
        not here.overlaps(gap) or any(gap.subnet_of(own) for own in inner.excluded)  # type: ignore[arg-type]
        for gap in outer.excluded
    )


def ports_within(inner: Iterable[Port] | None, outer: Iterable[Port] | None) -> bool:
    """None is all traffic."""
    if outer is None:
        return True
    return inner is not None and all(any(_port_within(each, other) for other in outer) for each in inner)


def _port_within(inner: Port, outer: Port) -> bool:
    match inner, outer:
        case PortSpan(), PortSpan():
            return inner.protocol == outer.protocol and outer.first <= inner.first and inner.last <= outer.last
        case PortName(), PortName():
            return inner.name == outer.name and outer.protocol in ("", inner.protocol)
        case PortName(), PortSpan():
            return inner.protocol == outer.protocol and outer == PortSpan(outer.protocol)
    return False


def rule_within(inner: CompiledRule, outer: CompiledRule) -> bool:
    """All that `inner` matches, `outer` matches; actions are not compared."""
    return (
        inner.ref.direction == outer.ref.direction
        and peers_within(inner.peers, outer.peers)
        and ports_within(inner.ports, outer.ports)
    )
