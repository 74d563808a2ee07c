"""Label selectors: the four operators, and what a missing key means to each."""

from __future__ import annotations

from typing import Literal

import pytest

from percale.model.selector import LabelSelector, LabelSelectorRequirement


def select(operator: Literal["In", "NotIn", "Exists", "DoesNotExist"], *values: str) -> LabelSelector:
    return LabelSelector(matchExpressions=(LabelSelectorRequirement(key="k", operator=operator, values=values),))


@pytest.mark.parametrize(
    ("selector", "with_a", "with_b", "without"),
    [
        (select("In", "a"), True, False, False),
        (select("In", "a", "b"), True, True, False),
        (select("NotIn", "a"), False, True, True),
        (select("Exists"), True, True, False),
        (select("DoesNotExist"), False, False, True),
        (LabelSelector(matchLabels={"k": "a"}), True, False, False),
        (LabelSelector(), True, True, True),
    ],
)
def test_matches(selector: LabelSelector, with_a: bool, with_b: bool, without: bool) -> None:
    matched = [selector.matches(labels) for labels in ({"k": "a"}, {"k": "b", "other": "a"}, {"other": "a"})]
    assert matched == [with_a, with_b, without]


def test_labels_and_expressions_must_all_match() -> None:
    both = LabelSelector(matchLabels={"app": "web"}, matchExpressions=select("NotIn", "a").matchExpressions)
    assert both.matches({"app": "web"})
    assert not both.matches({"app": "web", "k": "a"})
    assert not both.matches({"k": "b"})


def test_an_empty_value_is_a_value() -> None:
    assert select("Exists").matches({"k": ""})
    assert select("In", "").matches({"k": ""})
    assert not select("In", "").matches({})


def test_equal_selectors_are_one_key() -> None:
    first = LabelSelector(matchLabels={"a": "1", "b": "2"})
    second = LabelSelector(matchLabels={"b": "2", "a": "1"})
    assert {first: "x"}[second] == "x"
    assert first != LabelSelector(matchLabels={"a": "1"})
