"""Calico's selectors against what its documentation says of each operator."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percale.model.calico_selector import parse_selector

LABELS = {"rack": "r1", "role": "edge-router", "a.b/c": ""}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("all()", True),
        ("has(rack)", True),
        ("has(other)", False),
        ("!has(other)", True),
        ("has(a.b/c) && a.b/c == ''", True),
        ('rack == "r1"', True),
        ("rack == 'r2'", False),
        ("rack != 'r2'", True),
        ("other != 'r2'", True),
        ("rack in {'r1', 'r2'}", True),
        ("rack in {}", False),
        ("other in {'r1'}", False),
        ("rack not in {'r2'}", True),
        ("other not in {'r2'}", True),
        ("rack not in { 'r1' }", False),
        ("role contains 'router'", True),
        ("other contains ''", False),
        ("role starts with 'edge'", True),
        ("role ends with 'edge'", False),
        ("has(other) || has(rack) && role contains 'edge'", True),
        ("(has(other) || has(rack)) && !(role contains 'edge')", False),
        ("!!has(rack)", True),
    ],
)
def test_operators(text: str, *, matches: bool) -> None:
    assert parse_selector(text)(LABELS) is matches


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rack", "expected ==, !=, in, not in, contains, starts with or ends with before the end"),
        ("rack == r1", 'expected a text in quotes before "r1"'),
        ("rack == 'r1' has(a)", 'expected && or || before "has"'),
        ("(has(rack)", 'expected ")" before the end'),
        ("rack in {'a' 'b'}", 'expected "," before "\'b\'"'),
        ("rack not 'a'", "expected ==, !="),
        ("rack ; true", "character 5"),
        ("!" * 60 + "has(a)", "more than 50"),
        ("(" * 100000, "more than 50"),
    ],
)
def test_what_cannot_be_read_is_told(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="selector: ") as caught:
        parse_selector(text)
    assert said in str(caught.value)


@given(st.text(alphabet="abh(){}!&|='\" ,in", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        matcher = parse_selector(text)
    except ValueError as error:
        assert str(error).startswith("selector: ")
    else:
        assert matcher(LABELS) in (True, False)
