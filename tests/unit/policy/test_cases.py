"""Every case of tests/cases, by the evaluator: upstream's end-to-end tables, and our own for lines that they do not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from percale.explain.policy_tests.cases import Case, decode_cases, in_sequence
from percale.explain.policy_tests.runner import try_offline, try_probe
from percale.policy.evaluator import Evaluator

CASES = Path(__file__).parents[2] / "cases"


def cases_of(directory: str) -> list[Case]:
    return [
        case
        for path in sorted((CASES / directory).glob("*.yaml"))
        for case in decode_cases(path.read_bytes(), path.name)
    ]


UPSTREAM = cases_of("policy-e2e")
OWN = cases_of("own")


def named(sequence: tuple[Case, ...]) -> str:
    return sequence[0].step.group if sequence[0].step else sequence[0].name


@pytest.mark.parametrize("sequence", in_sequence([*UPSTREAM, *OWN]), ids=named)
def test_states_of_a_sequence_as_updates_of_one_evaluator(sequence: tuple[Case, ...]) -> None:
    wrong = [str(trial) for trial in try_offline(sequence) if trial.wrong]
    assert not wrong


@pytest.mark.parametrize("case", [case for case in UPSTREAM if case.step], ids=lambda case: case.name)
def test_each_state_by_itself(case: Case) -> None:
    evaluator = Evaluator(case.objects)
    assert not [str(trial) for probe in case.probes if (trial := try_probe(evaluator, case, probe)).wrong]


def test_all_of_upstreams_tables_are_there() -> None:
    assert len(UPSTREAM) == 58
    assert sum(len(case.probes) for case in UPSTREAM) == 506


def test_the_lines_that_others_get_wrong_each_have_a_case() -> None:
    names = {case.name for case in OWN}
    assert names >= {
        "default-ports-and-protocol",
        "cidr-against-pods",
        "udp-taken-for-tcp",
        "named-port-is-the-destinations-and-no-union",
        "notin-on-a-missing-key",
        "kubelet-probes-blocked",
        "address-reuse-after-succeeded",
    }


def test_all_states_in_any_order_as_updates_of_one_evaluator() -> None:
    """From any state to any other, forwards and backwards: nothing of an earlier one is left."""
    everything = [*UPSTREAM, *OWN]
    for order in (everything, everything[::-1], everything[::2] + everything[1::2]):
        assert not [str(trial) for trial in try_offline(order) if trial.wrong]
