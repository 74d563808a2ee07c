"""Policies while agents die, and while others touch their table: denied is denied, and what was allowed goes on."""

from __future__ import annotations

import json
import signal
import threading
from itertools import count
from typing import Any

import pytest
from tests.kernel.agent.cluster import Cluster, Node, Pod
from tests.kernel.agent.policies import DENY, Policies, allowing, flow, streams
from tests.waiting import until

KILLS, SOME = 4, 20
"""How often, and after how many policies that come one after the other."""


@pytest.fixture
def policies(cluster: Cluster) -> Policies:
    return Policies(cluster)


def guarded(policies: Policies) -> tuple[Node, dict[str, Pod]]:
    """A node whose server is for its friend alone."""
    policies.policy("deny", DENY)
    policies.policy("friend", allowing("server", "friend"))
    node = policies.cluster.node(1).start()
    return node, {name: policies.pod(node, name) for name in ("server", "other", "friend", "stranger")}


def listed(node: Node) -> str:
    return node.sh("nft", "-s", "list", "table", "inet", "percale", check=False)


def contents(node: Node) -> list[str]:
    """The words of the table; the order of a set's elements is chance."""
    return sorted(listed(node).replace(",", " ").split())


def handles(node: Node) -> dict[tuple[str, str], int]:
    """The kernel gives a number to whatever is made, and none twice: of the table and of its chains."""
    parts = json.loads(node.sh("nft", "-j", "list", "table", "inet", "percale"))["nftables"]
    return {
        (kind, part[kind]["name"]): part[kind]["handle"]
        for part in parts
        for kind in ("table", "chain")
        if kind in part
    }


def chain_of(node: Node, pod: Pod) -> str:
    """Which class judges what comes to the pod."""
    (found,) = json.loads(node.sh("nft", "-j", "list", "map", "inet", "percale", "ingress4"))["nftables"][1:]
    verdicts: dict[str, Any] = dict(found["map"]["elem"])
    return str(verdicts[pod.addresses[0]]["jump"]["target"])


def rules(node: Node) -> int:
    """How many of the many are in force."""
    return listed(node).count('comment "np:default/p')


def test_agents_killed_in_the_middle_of_updates_never_open_the_table(policies: Policies) -> None:
    node, pods = guarded(policies)
    denied, allowed = (flow(pods[name], pods["server"]) for name in ("stranger", "friend"))
    made, over, written = handles(node), threading.Event(), count()

    def write() -> None:
        while not over.wait(0.05):  # on a slow machine not more than a namespace may have
            number = next(written)
            policies.policy(f"p{number}", allowing("server", f"client{number}"))

    writing = threading.Thread(target=write)
    flows = streams((pods["stranger"], pods["server"]), (pods["friend"], pods["server"]))
    with flows.going():
        flows.until_passing({allowed})
        since = flows.rounds
        writing.start()
        try:
            for _ in range(KILLS):
                enough = rules(node) + SOME
                until(lambda enough=enough: rules(node) >= enough, "it is at work")  # type: ignore[misc]
                node.stop(signal.SIGKILL)
                node.start()
        finally:
            over.set()
            writing.join()
        many = next(written)
        until(lambda: rules(node) == many, "all are in force")
        flows.until_passing({allowed})
        now = flows.rounds
        assert not flows.arrived(since, now, [denied])
        assert not flows.lost(since, now, [allowed])
    kept = (("table", "percale"), ("chain", "policies"), ("chain", chain_of(node, pods["other"])))
    assert [handles(node)[each] for each in kept] == [made[each] for each in kept], "what was right was touched"


TOUCHES = {
    "everything is flushed": "flush ruleset",
    "the table is deleted": "delete table inet percale",
    "the rules are flushed": "flush chain inet percale policies",
    "a map is flushed": "flush map inet percale ingress4",
    "an element is deleted": "delete element inet percale ingress4 {{ {server} }}",
    "an element leads elsewhere": (
        "add chain inet percale open; add rule inet percale open accept; "
        "delete element inet percale ingress4 {{ {server} }}; add element inet percale ingress4 {{ {server} : jump open }}"
    ),
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES.keys())
def test_foreign_changes_of_the_table_are_undone(policies: Policies, touch: str) -> None:
    """And what began in between is cut: a flow that is answered once would be established for ever."""
    node, pods = guarded(policies)
    before = contents(node)
    denied, allowed = (flow(pods[name], pods["server"]) for name in ("stranger", "friend"))
    flows = streams((pods["stranger"], pods["server"]), (pods["friend"], pods["server"]))
    with flows.going():
        flows.until_passing({allowed})
        node.sh("nft", touch.format(server=pods["server"].addresses[0]))
        until(lambda: contents(node) == before, "it is as before")
        flows.until_passing({allowed})
        now = flows.rounds
        until(lambda: flows.rounds > now + 60)
        assert not flows.arrived(now, flows.rounds, [denied])


def test_a_new_text_over_an_older_one_never_opens_the_table(policies: Policies) -> None:
    node, pods = guarded(policies)
    right, there, made = listed(node), contents(node), handles(node)
    denied, allowed = (flow(pods[name], pods["server"]) for name in ("stranger", "friend"))
    flows = streams((pods["stranger"], pods["server"]), (pods["friend"], pods["server"]))
    with flows.going():
        flows.until_passing({allowed})
        since = flows.rounds
        node.stop()
        older = "".join(line for line in right.splitlines(keepends=True) if "@self4" not in line)
        assert older != right
        node.sh("nft", f"delete table inet percale; {older}")
        node.start()
        assert contents(node) == there
        flows.until_passing({allowed})
        now = flows.rounds
        assert not flows.arrived(since, now, [denied])
        assert not flows.lost(since, now, [allowed])
    assert handles(node)["table", "percale"] != made["table", "percale"]
