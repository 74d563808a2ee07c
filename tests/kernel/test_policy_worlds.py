"""Real packets against the evaluator, over generated worlds that change step by step in one running table.

`make fuzz` runs many more examples, each time others (hypothesis profile `fuzz`, tests/conftest.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import Phase, assume, event, given, settings
from hypothesis import strategies as st
from tests import builders
from tests.kernel.policy_wires import HOMES, NODE_OF, QUESTIONS, Wires, asked
from tests.unit.policy.small_worlds import NODES, Change, busy_policies, changes, worlds

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


def test_cluster_policies_deny_pods_their_own_node_which_reaches_them_all_the_same(wires: Wires) -> None:
    """In both IP versions. NetworkPolicies say nothing of it; without such a policy no packet to a node is looked at."""
    homes = ((node, addresses) for node, pods in HOMES.items() for addresses in pods)
    pods = [builders.pod(f"p{place}", *addresses, node=node) for place, (node, addresses) in enumerate(homes)]
    nodes = [builders.node(name, *addresses) for name, addresses in NODES.items()]
    wires.begin([*nodes, *pods, builders.policy(policyTypes=["Ingress"])])
    own = [each for each in QUESTIONS if each.destination in NODES.get(NODE_OF.get(each.source, ""), ())]
    back = [replace(each, source=each.destination, destination=each.source) for each in own]

    def passing(*changes: Object) -> list[int]:
        wires.change(changes)
        assert not wires.wrong()
        return [sum(asked(wires.evaluator, each).allowed for each in some) for some in (own, back)]

    def hooked() -> bool:
        listed = wires.nodes["n1"].space.run("nft", "list", "chains")
        return "own-node-input" in listed and "hook input" in listed

    assert passing() == [len(own), len(back)]
    assert not hooked()
    assert passing(builders.cluster_policy(egress=[{"action": "Deny", "to": [{"nodes": {}}]}])) == [0, len(back)]
    assert hooked()
    assert passing(builders.cluster_policy(egress=[{"action": "Deny", "to": [{"namespaces": {}}]}])) == [
        len(own),
        len(back),
    ]
    assert not hooked()
