"""A limit that a group's members share: whatever changes, the cheapest are within it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from percale.shared_limits import SharedLimit


@given(st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from("abcd"), st.integers(0, 12)), max_size=30))
def test_the_most_expensive_are_left_out(changes: list[tuple[str, str, int]]) -> None:
    limit = SharedLimit[str, str](20)
    costs: dict[str, dict[str, int]] = {"x": {}, "y": {}}
    for group, member, cost in changes:
        before = set(limit.left_out(group))
        changed = limit.set(group, member, cost)
        costs[group][member] = cost
        assert changed == before ^ limit.left_out(group)
        total, expected = 0, set()
        for each in sorted(costs[group], key=lambda each: (costs[group][each], each)):
            total += costs[group][each]
            if total > 20:
                expected.add(each)
        assert limit.left_out(group) == {each for each in expected if costs[group][each]}
