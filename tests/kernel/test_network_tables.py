"""The tables `ip`, `ip6` and `bridge percale` in the kernel: what is declared is there, whatever others do to it, and when."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest
from tests.kernel.conftest import Space
from tests.kernel.network_tables import running_tables
from tests.waiting import eventually

from percale.agent.network.network_tables import NetworkTables
from percale.errors import KernelError
from percale.render.network.elements import Element
from percale.render.network.pod_veth import bridged_source_elements, source_elements

FAMILIES = ("ip", "ip6", "bridge")
OWN = (ip_network("10.244.1.0/24"), ip_network("fd00:0:0:1::/64"))
V4, V6 = ip_address("10.244.1.9"), ip_address("fd00:0:0:1::9")
MAC = "02:00:00:00:00:09"
NODE = (
    Element("ip", "pods", (ip_network("10.244.0.0/16"),)),
    Element("ip6", "pods", (ip_network("fd00::/48"),)),
    Element("ip", "cluster", (ip_network("128.0.0.0/1"),)),
    Element("ip", "tunnels", (8472,)),
    Element("ip", "tunnelendpoints", (ip_address("192.168.1.1"),)),
)
POD = (*source_elements("pclone", (V4, V6)), *bridged_source_elements("pcltwo", MAC, (V4, V6)))
PEER = (Element("ip", "peers", (ip_address("192.168.1.2"),)), Element("ip6", "peers", (ip_address("fd00:1::2"),)))
PATIENCE = 30


def listed(space: Space, *options: str) -> list[str]:
    """As nft lists them."""
    return [space.run("nft", *options, "list", "table", family, "percale") for family in FAMILIES]


async def declare_all(tables: NetworkTables) -> None:
    tables.declare("node", NODE)
    tables.declare("pod/one", POD)
    tables.declare("peer/two", PEER)
    await tables.wait_applied("node")
    await tables.wait_loaded()


async def one_start(space: Space) -> None:
    """An agent's life, as far as its tables go."""
    async with running_tables(space.descriptor, OWN) as tables:
        await declare_all(tables)
        tables.start_garbage_collection()
        await tables.wait_applied("node")


async def test_the_logged_commands_make_what_we_make(new_space: Callable[[], Space]) -> None:
    ours, theirs = new_space(), new_space()
    lines: list[str] = []
    async with running_tables(ours.descriptor, OWN, log_command=lines.append) as tables:
        await declare_all(tables)
        tables.declare("pod/one", (*POD[:2], *POD[4:6]))
        await tables.wait_applied("pod/one")
    assert any("10.244.1.9" in line and '"pclone"' in line for line in lines), lines
    for line in lines:
        theirs.shell(line)
    assert listed(ours) == listed(theirs)
    ip, ip6, bridge = listed(ours)
    assert "10.244.0.0/16" in ip
    assert '"pclone" . fd00:0:0:1::9' not in ip6
    assert f'"pcltwo" . {MAC} . 10.244.1.9' in bridge


async def test_what_is_withdrawn_goes_and_what_another_source_declares_stays(space: Space) -> None:
    async with running_tables(space.descriptor) as tables:
        await declare_all(tables)
        tables.declare("pod/again", POD[:1])
        tables.declare("pod/one", ())
        tables.declare("peer/two", ())
        await tables.wait_applied("pod/again")
        ip, ip6, bridge = listed(space)
    assert '"pclone" . 10.244.1.9' in ip
    assert "192.168.1.2" not in ip
    assert "pclone" not in ip6
    assert "pcltwo" not in bridge


HARM = {
    "a table is deleted": "delete table ip percale",
    "everything is deleted": "flush ruleset",
    "a chain is flushed": "flush chain ip6 percale postrouting",
    "a set is flushed": "flush set bridge percale neighbours",
    "an interval is deleted": "delete element ip percale pods { 10.244.0.0/16 }",
    "an element is deleted": 'delete element ip percale sources { "pclone" . 10.244.1.9 }',
    "an element is added": 'add element ip percale sources { "pclone" . 10.244.1.77 }',
    "a rule goes first": "insert rule ip percale antispoof accept",
    "a table is empty": "delete table ip percale; add table ip percale",
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
async def test_harm_is_repaired(space: Space, harm: str) -> None:
    async with running_tables(space.descriptor, OWN) as tables:
        await declare_all(tables)
        tables.start_garbage_collection()
        await tables.wait_applied("node")
        before = listed(space)
        space.run("nft", harm)
        await eventually(lambda: all(f"table {f} percale" in space.run("nft", "list", "tables") for f in FAMILIES))
        await eventually(lambda: listed(space) == before)


def handle(space: Space, family: str, words: str) -> str:
    """Of the rule, as `rule FAMILY percale CHAIN handle N`."""
    chain = ""
    for line in space.run("nft", "--handle", "list", "table", family, "percale").splitlines():
        if line.strip().startswith("chain "):
            chain = line.split()[1]
        if words in line:
            return f"rule {family} percale {chain} handle {line.rpartition('# handle ')[2]}"
    raise AssertionError(f"no rule with {words}")


MEANWHILE: dict[str, Callable[[Space], str]] = {
    "a rule in the middle is deleted": lambda space: f"delete {handle(space, 'ip', 'own address')}",
    "the last rule is deleted": lambda space: f"delete {handle(space, 'ip6', 'to pods of other nodes')}",
    "a rule of the bridge's is deleted": lambda space: f"delete {handle(space, 'bridge', 'drop comment')}",
    "a rule is replaced": lambda space: f"replace {handle(space, 'ip', 'own address')} accept",
    "a rule is added": lambda _: "add rule ip percale antispoof meta nftrace set 1",
    "the rules are gone and others are there": lambda _: (
        "flush chain ip percale antispoof; " + "add rule ip percale antispoof accept; " * 9
    ),
    **{name: lambda _, harm=harm: harm for name, harm in HARM.items()},  # type: ignore[misc]
}


@pytest.mark.parametrize("harm", MEANWHILE.values(), ids=MEANWHILE.keys())
async def test_what_was_done_while_no_agent_ran_is_repaired(space: Space, harm: Callable[[Space], str]) -> None:
    await one_start(space)
    before = listed(space)
    space.run("nft", harm(space))
    await one_start(space)
    assert listed(space) == before


async def test_a_table_that_nobody_touched_is_left_alone(space: Space) -> None:
    """The kernel never gives a table's number twice."""
    await one_start(space)
    before = listed(space, "--handle")
    await one_start(space)
    assert listed(space, "--handle") == before


async def test_nothing_goes_before_all_have_said_what_they_want(space: Space) -> None:
    await one_start(space)
    before = listed(space)
    async with running_tables(space.descriptor, OWN) as tables:
        tables.declare("node", NODE[:1])
        await tables.wait_applied("node")
        await tables.wait_loaded()
        assert listed(space) == before
        tables.declare("peer/two", PEER)
        tables.start_garbage_collection()
        await tables.wait_applied("peer/two")
        ip, _, bridge = listed(space)
    assert "192.168.1.2" in ip
    assert "8472" not in ip
    assert "pcltwo" not in bridge


async def test_an_element_that_the_kernel_rejects_is_its_sources_problem_alone(space: Space) -> None:
    async with running_tables(space.descriptor, OWN) as tables:
        await declare_all(tables)
        tables.declare("bad", (Element("ip", "pods", (ip_network("10.244.128.0/17"),)),))
        tables.declare("pod/two", source_elements("pclthree", (ip_address("10.244.1.10"),)))
        with pytest.raises(KernelError, match="table ip percale, set pods: "):
            await tables.wait_applied("bad")
        await tables.wait_applied("pod/two")
        assert '"pclthree" . 10.244.1.10' in listed(space)[0]
