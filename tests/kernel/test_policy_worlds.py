"""Real packets against the evaluator, over generated worlds that change step by step in one running table.

`make fuzz` runs many more examples, each time others (hypothesis profile `fuzz`, tests/conftest.py).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import Phase, assume, event, given, settings
from hypothesis import strategies as st
from tests.kernel.policy_wires import QUESTIONS, Wires, asked
from tests.unit.policy.small_worlds import Change, busy_policies, changes, worlds

from percale.model.meta import Object

FUZZING = settings.get_current_profile_name() == "fuzz"
EXAMPLES = settings.default.max_examples if FUZZING and settings.default else 20
PHASES = [Phase.explicit, Phase.reuse, Phase.generate, *([Phase.shrink] if FUZZING else [])]


@pytest.fixture(scope="module")
def wires(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wires]:
    wires = Wires(tmp_path_factory.mktemp("wires"))
    yield wires
    wires.down()


@settings(max_examples=EXAMPLES, derandomize=not FUZZING, phases=PHASES)
@given(
    worlds(),
    st.lists(busy_policies, min_size=3, max_size=5),
    st.lists(st.lists(changes, min_size=1, max_size=4), min_size=2, max_size=4),
)
def test_packets_do_as_the_evaluator_says(
    wires: Wires, opening: list[Object], more: list[Object], steps: list[list[Change]]
) -> None:
    wires.begin([*opening, *more])
    assume(10 < percent_denied(wires) < 90)
    assert not wires.wrong()
    for step in steps:
        wires.change(step)
        assert not wires.wrong()
    assert not wires.differences()
    event(f"denied at the end: {percent_denied(wires) // 10 * 10} %")


def percent_denied(wires: Wires) -> int:
    return 100 * sum(not asked(wires.evaluator, question).allowed for question in QUESTIONS) // len(QUESTIONS)
