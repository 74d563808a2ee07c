"""How messages say a count."""

from __future__ import annotations

import pytest

from percale.counted import counted


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [(0, "pod", "0 pods"), (1, "pod", "1 pod"), (2, "policy", "2 policies"), (1, "more node", "1 more node")],
)
def test_a_count_of_one_is_singular(number: int, noun: str, said: str) -> None:
    assert counted(number, noun) == said
