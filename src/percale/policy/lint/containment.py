"""Whether one selector, peer, port or rule is certainly within another: all that the first matches, the second matches too.

Certain for every cluster, whatever its pods and labels are. False means "not certain".
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from percale.model.namespace import NAME_LABEL
from percale.model.selector import LabelSelector
from percale.policy.lint.parsed_policy import Block, Domains, NamedPort, Nodes, Peer, Port, Ports, Rule, Selection


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


def selection_within(inner: Selection, outer: Selection) -> bool:
    """Every pod that is meant here is meant there."""
    return selector_within(_namespaces(inner), _namespaces(outer)) and selector_within(inner.pods, outer.pods)


def _namespaces(selection: Selection) -> LabelSelector:
    where = selection.namespaces
    return LabelSelector(matchLabels={NAME_LABEL: where}) if isinstance(where, str) else where


def peers_within(inner: Iterable[Peer] | None, outer: Iterable[Peer] | None) -> bool:
    """None is everybody."""
    if outer is None:
        return True
    return inner is not None and all(any(_peer_within(each, other) for other in outer) for each in inner)


def _peer_within(inner: Peer, outer: Peer) -> bool:
    match inner.means, outer.means:
        case Selection() as here, Selection() as there:
            return selection_within(here, there)
        case Block() as here, Block() as there:
            return block_within(here, there)
        case Nodes(here), Nodes(there):
            return selector_within(here, there)
        case Domains(here), Domains(there):
            return set(here) <= set(there)
    return False


def block_within(inner: Block, outer: Block) -> bool:
    """Every address of it is there, and none that the other one takes out."""
    here, there = inner.network, outer.network
    if here.version != there.version or not here.subnet_of(there):  # type: ignore[arg-type]  # the versions are equal
        return False
    return all(
        not here.overlaps(gap) or any(gap.subnet_of(own) for own in inner.exceptions)  # type: ignore[arg-type]
        for gap in outer.exceptions
    )


def ports_within(inner: Iterable[Port] | None, outer: Iterable[Port] | None) -> bool:
    """None is all traffic."""
    if outer is None:
        return True
    return inner is not None and all(any(_port_within(each, other) for other in outer) for each in inner)


def _port_within(inner: Port, outer: Port) -> bool:
    match inner.means, outer.means:
        case Ports() as here, Ports() as there:
            return here.protocol == there.protocol and there.first <= here.first and here.last <= there.last
        case NamedPort() as here, NamedPort() as there:
            return here.name == there.name and there.protocol in (None, here.protocol)
        case NamedPort() as here, Ports() as there:
            return here.protocol == there.protocol and there == Ports(there.protocol)
    return False


def rule_within(inner: Rule, outer: Rule) -> bool:
    """All that matches the one matches the other, actions aside."""
    return (
        inner.direction == outer.direction
        and peers_within(inner.peers, outer.peers)
        and ports_within(inner.ports, outer.ports)
    )
