"""A rule that is called shadowed can be taken out of any world, and nothing changes; a selector within another selects less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.unit.policy.oracle import Oracle, Question
from tests.unit.policy.small_worlds import POD_ADDRESSES, POD_ADDRESSES6, PORTS, puts

from percale.model.clusternetworkpolicy import ClusterNetworkPolicy
from percale.model.manifest.decode import ManifestEntry, Source
from percale.model.meta import Object, ObjectKey
from percale.model.networkpolicy import NetworkPolicy
from percale.model.selector import LabelSelector, LabelSelectorRequirement
from percale.policy.lint.containment import selector_within
from percale.policy.lint.finding import LintFinding
from percale.policy.lint.linter import lint

KEYS, VALUES = ("a", "b"), ("", "1", "2", "3")
ALL_LABELS = [
    {key: value for key, value in zip(KEYS, values, strict=True) if value is not None}
    for values in product((*VALUES, None), repeat=len(KEYS))
]
QUESTIONS = [
    Question(source, destination, protocol, port)
    for addresses in ((*POD_ADDRESSES, "203.0.113.7"), (*POD_ADDRESSES6, "2001:db8::7"))
    for source, destination in product(addresses, addresses)
    for protocol, port in PORTS
]

requirements = st.one_of(
    st.builds(
        LabelSelectorRequirement,
        key=st.sampled_from(KEYS),
        operator=st.sampled_from(("In", "NotIn")),
        values=st.lists(st.sampled_from(VALUES[:3]), min_size=1, max_size=2).map(tuple),
    ),
    st.builds(
        LabelSelectorRequirement, key=st.sampled_from(KEYS), operator=st.sampled_from(("Exists", "DoesNotExist"))
    ),
)
selectors = st.builds(
    LabelSelector,
    matchLabels=st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES[:3]), max_size=1),
    matchExpressions=st.lists(requirements, max_size=2).map(tuple),
)


@given(selectors, selectors)
def test_a_selector_within_another_selects_no_more(inner: LabelSelector, outer: LabelSelector) -> None:
    less = all(outer.matches(labels) for labels in ALL_LABELS if inner.matches(labels))
    if selector_within(inner, outer):
        event("within")
        assert less
    else:  # it is exact, but for selectors that match nothing at all
        assert not less or not any(map(inner.matches, ALL_LABELS))


def without(obj: Object, finding: LintFinding) -> Object:
    """The policy without the rule that the remark is about; its directions stay what they were."""
    assert isinstance(obj, NetworkPolicy | ClusterNetworkPolicy)
    _, direction, index = finding.part
    spec: Any = obj.spec
    if isinstance(obj, NetworkPolicy):
        spec = replace(spec, policyTypes=spec.types)
    rules = tuple(rule for number, rule in enumerate(getattr(spec, str(direction))) if number != index)
    return replace(obj, spec=replace(spec, **{str(direction): rules}))


def shadowed(world: Mapping[tuple[type[Object], ObjectKey], Object]) -> Iterator[tuple[Object, Object]]:
    """The policies with shadowed rules, as they are and without one of these."""
    found = [ManifestEntry(obj, Source(f"f{number}", 1)) for number, obj in enumerate(world.values())]
    sources = {each.source: each.object for each in found}
    for finding in lint(found):
        if finding.code == "shadowed":
            yield sources[finding.source], without(sources[finding.source], finding)


@given(st.lists(puts, max_size=12))
def test_a_shadowed_rule_changes_no_verdict(objects: list[Object]) -> None:
    world = {(type(each), each.key): each for each in objects}
    before = None
    for policy, less in shadowed(world):
        event(f"a shadowed rule of a {policy.KIND}")
        before = before or list(map(Oracle(world.values()).allowed, QUESTIONS))
        after = {**world, (type(policy), policy.key): less}
        assert list(map(Oracle(after.values()).allowed, QUESTIONS)) == before
