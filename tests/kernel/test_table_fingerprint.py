"""A table that somebody touched while no agent ran is loaded again at the next start; one that nobody touched is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from percale.kernel.netns import NetnsThread
from percale.kernel.reconciler.reconciler import Reconciler
from percale.kernel.rtnl.driver import KernelDriver
from percale.kernel.table_fingerprint import fingerprint
from percale.render.network.base_chains import rulesets
from percale.render.objects import Ruleset


async def one_start(space: Any) -> None:
    """An agent's life, as far as its tables go."""
    reconciler = Reconciler(KernelDriver(NetnsThread(space.descriptor)))
    await reconciler.start()
    reconciler.declare("node/tables", rulesets())
    reconciler.start_garbage_collection()
    await reconciler.wait_applied("node/tables")
    await reconciler.stop()


def tables(space: Any, *options: str) -> list[str]:
    """As nft lists them."""
    return [space.run("nft", *options, "list", "table", each.family, "percale") for each in rulesets()]


def handle(space: Any, family: str, words: str) -> str:
    """Of the rule, as `rule FAMILY percale CHAIN handle N`."""
    chain = ""
    for line in space.run("nft", "--handle", "list", "table", family, "percale").splitlines():
        if line.strip().startswith("chain "):
            chain = line.split()[1]
        if words in line:
            return f"rule {family} percale {chain} handle {line.rpartition('# handle ')[2]}"
    raise AssertionError(f"no rule with {words}")


TOUCHES = {
    "a rule in the middle is deleted": lambda space: f"delete {handle(space, 'ip', 'own address')}",
    "the last rule is deleted": lambda space: f"delete {handle(space, 'ip6', 'to pods of other nodes')}",
    "a rule of the bridge's is deleted": lambda space: f"delete {handle(space, 'bridge', 'drop comment')}",
    "a chain is flushed": lambda _: "flush chain ip percale masquerading",
    "the rules are gone and others are there": lambda _: (
        "flush chain ip percale guard; " + "add rule ip percale guard accept; " * 9
    ),
    "a table is empty": lambda _: "delete table ip percale; add table ip percale",
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES.keys())
async def test_a_table_that_was_touched_is_loaded_again(space: Any, touch: Callable[[Any], str]) -> None:
    await one_start(space)
    before = tables(space)
    space.run("nft", touch(space))
    assert tables(space) != before
    await one_start(space)
    assert tables(space) == before


async def test_a_table_that_nobody_touched_is_left_alone(space: Any) -> None:
    """The kernel never gives a table's number twice."""
    await one_start(space)
    before = tables(space, "--handle")
    await one_start(space)
    assert tables(space, "--handle") == before


async def test_a_rule_that_somebody_added_stays(space: Any) -> None:
    await one_start(space)
    space.run("nft", 'add rule ip percale guard meta nftrace set 1 comment "mine"')
    await one_start(space)
    assert 'comment "mine"' in tables(space)[0]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", 0),
        ("chain a { }\nset b { type fingerprint; flags interval; }", 2),
        ("chain a { type filter hook input priority 0; policy drop; accept; tcp dport { 1, 2 } drop\n}", 3),
        ('chain a {\n  ip saddr {\n 10.0.0.0/8,\n 11.0.0.0/8 } drop comment "a; } b"\n  accept\n}\n', 3),
        ('counter c { comment "x" }\nmap m { type fingerprint : verdict; elements = { 1 : drop } }', 2),
    ],
)
def test_the_mark_counts_what_a_text_makes(space: Any, text: str, parts: int) -> None:
    assert fingerprint(Ruleset("ip", text)).endswith(f" {parts}")
