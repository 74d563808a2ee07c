"""The table's edits from any state to any other, and what the table does with packets, held against the evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from hypothesis import event, given
from hypothesis import strategies as st
from tests.unit.policy.obvious import Question
from tests.unit.policy.small_worlds import NODES, Change, changes, puts
from tests.unit.policy.test_evaluator_against_obvious import QUESTIONS, asked
from tests.unit.render.simulated import Packet, passes

from percale.model.meta import Object
from percale.policy.evaluator import Evaluator, Touched
from percale.policy.verdicts import Flow
from percale.render.enforcing import SHAPES
from percale.render.holding import Held, difference
from percale.render.policy_table import PolicyTable

NODE = next(iter(NODES))


def touch(evaluator: Evaluator, change: Change) -> Touched:
    return evaluator.put(change) if isinstance(change, Object) else evaluator.remove(*change)


def disagreements(evaluator: Evaluator, held: Held) -> list[str]:
    """Flows that the table treats otherwise than the evaluator says; those between a pod and its node are not forwarded."""
    found = []
    for question in QUESTIONS:
        source, destination = (
            evaluator.party(ip_address(each).packed) for each in (question.source, question.destination)
        )
        verdict = evaluator.judge(Flow(source, destination, question.protocol, question.port))
        if verdict.egress.why == "node":
            continue
        judged_here = [
            decision.allowed
            for decision, party in ((verdict.egress, source), (verdict.ingress, destination))
            if party.pod is not None and party.pod.node == NODE
        ]
        packet = Packet(source.address, destination.address, question.protocol, question.port)
        if passes(held, packet) != all(judged_here):
            found.append(f"{question}: {verdict}")
    return found


@given(st.lists(puts, min_size=10, max_size=25), st.lists(st.lists(changes, min_size=1, max_size=4), max_size=6))
def test_edits_lead_from_any_state_to_any_other(opening: list[Object], batches: list[list[Change]]) -> None:
    evaluator = Evaluator()
    table = PolicyTable(evaluator, NODE)
    held = Held.bare(SHAPES)
    steps: list[Sequence[Change]] = [opening, *batches]
    for batch in steps:
        held = held.after(table.update([touch(evaluator, change) for change in batch]))
        assert not difference(held, table.image())
        assert not disagreements(evaluator, held)
    fresh = PolicyTable(evaluator, NODE)
    fresh.update([Touched(policies=tuple((None, policy) for policy in evaluator.policies.values()))])
    assert not difference(held, fresh.image())
    event("pods are judged" if any(table.judged) else "nobody is judged")


def allowed_here(evaluator: Evaluator) -> dict[Question, bool]:
    """What the rules of this node say; what goes between a pod and its node never meets them."""
    found = {}
    for question in QUESTIONS:
        verdict = asked(evaluator, question)
        if verdict.egress.why == "node":
            continue
        ends = ((verdict.egress, question.source), (verdict.ingress, question.destination))
        found[question] = all(
            decision.allowed
            for decision, address in ends
            if (pod := evaluator.party(ip_address(address).packed).pod) is not None and pod.node == NODE
        )
    return found


@given(st.lists(puts, min_size=10, max_size=25), st.lists(st.lists(changes, min_size=1, max_size=4), max_size=6))
def test_whoever_is_judged_otherwise_is_concerned(opening: list[Object], batches: list[list[Change]]) -> None:
    """Only their connections are looked at again."""
    evaluator = Evaluator()
    table = PolicyTable(evaluator, NODE)
    table.update([touch(evaluator, change) for change in opening])
    now = allowed_here(evaluator)
    for batch in batches:
        table.update([touch(evaluator, change) for change in batch])
        before, now = now, allowed_here(evaluator)
        for question in before.keys() & now.keys():
            ends = {ip_address(each).packed for each in (question.source, question.destination)}
            assert before[question] == now[question] or ends & table.concerned, question
        event("somebody is judged otherwise" if before != now else "nobody is")


@given(st.lists(changes, max_size=12))
def test_a_change_that_changes_nothing_edits_nothing(steps: list[Change]) -> None:
    evaluator = Evaluator()
    table = PolicyTable(evaluator, NODE)
    table.update([touch(evaluator, change) for change in steps])
    again = [change for change in steps[-1:] if isinstance(change, Object)]
    assert not table.update([touch(evaluator, change) for change in again])
