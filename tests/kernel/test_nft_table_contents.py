"""`table inet percale` in the kernel: read back as values, repaired, replaced by a new text, and whole after a kill."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.kernel.conftest import Space
from tests.snapshots import snapshot
from tests.waiting import eventually

from percale.errors import KernelError
from percale.kernel.cleanup import remove_tables
from percale.kernel.netlink import socket as netlink
from percale.kernel.netns import NetnsThread
from percale.kernel.nftables import dump
from percale.kernel.nftables.batch import BaseTable
from percale.kernel.nftables.event_subscriptions import SUBSYSTEM, EventSubscriptions
from percale.kernel.nftables.table import KernelNftTable
from percale.model.ip_family import Family
from percale.render.nft.objects import (
    POLICY_TABLE,
    Chain,
    Dnat,
    ElementBatch,
    Equals,
    InSet,
    MapUpdate,
    Rule,
    SetMark,
    SetSpec,
    SlotExpr,
    TableSpec,
    Transaction,
    Verdict,
)
from percale.render.nft.table_state import TableState, diff
from percale.render.policy import base_chains as policy_base
from percale.render.service import base_chains as service_base

SET_SPECS = {spec.name: spec for spec in policy_base.SET_SPECS}
_GETGEN = 16
LIST = ("nft", "list", "table", "inet", "percale")
KEPT = SetSpec(
    "kept", ("ipv4_addr",), data=("ipv4_addr", "inet_service"), comment="a client's endpoint", timeout=10_800
)
V4, V6 = Family
SIX = SetSpec("six", ("ipv6_addr", "inet_proto", "inet_service", "integer"), data=("ipv6_addr", "inet_service"))
VIP = b"\x0a\x60\0\1\6\0\0\0\0\x50\0\0"
SERVICES = Transaction(
    put_sets=(KEPT, SIX),
    put_chains=(
        Chain("pick", (_pick := Rule((), None, "one of 3", statements=(
            Dnat(V4, ("ip daddr", "l4proto", "th dport"), "endpoints4", SlotExpr("random", 3)),
        )),)),
        Chain("hashed", (
            replace(_pick, statements=(Dnat(V4, ("ip daddr", "l4proto", "th dport"), "endpoints4", SlotExpr("source", 3)),)),
            replace(_pick, statements=(Dnat(V6, ("ip6 daddr", "l4proto", "th dport"), "six", SlotExpr("source", 3)),)),
            replace(_pick, statements=(Dnat(V6, ("ip6 daddr", "l4proto", "th dport"), "six", SlotExpr("inc", 3)),)),
        )),
        Chain("affinity", (
            Rule((), None, "as before", statements=(Dnat(V4, ("ip saddr",), "kept"),)),
            Rule((), Verdict("goto", "pick"), "a new client", statements=(SetMark(0x0020_0000),)),
        )),
        Chain("update-affinity-80", (
            Rule(
                (Equals("l4proto", 6), Equals("original dport", 80)),
                None,
                "ns/name",
                counter=True,
                statements=(MapUpdate("kept", ("ip saddr",), ("ip daddr", "th dport")),),
            ),
        )),
    ),
    put=(
        ElementBatch("services4", VIP, verdict=Verdict("goto", "affinity")),
        ElementBatch("services4", b"\x0a\x60\0\2" + VIP[4:], verdict=Verdict("goto", "reject-chain")),
        ElementBatch("affinity4", VIP[:8], verdict=Verdict("jump", "update-affinity-80")),
        ElementBatch("endpoints4", VIP + (2).to_bytes(4, sys.byteorder), b"\x0a\xf4\0\1\x1f\x90\0\0"),
    ),
)  # fmt: skip
TEXT = f"{policy_base.TEXT}\n{service_base.TEXT}"


@pytest.fixture
async def nft_table(space: Space) -> AsyncIterator[KernelNftTable]:
    """With the text for policies alone."""
    async with started(space) as nft_table:
        yield nft_table


@contextlib.asynccontextmanager
async def started(
    space: Space,
    log_command: Callable[[str], None] | None = None,
    *,
    static: str = policy_base.TEXT,
    services: bool = False,
    most_bytes: int | None = None,
) -> AsyncIterator[KernelNftTable]:
    specs = (*policy_base.SET_SPECS, *(service_base.SET_SPECS if services else ()))
    nft_table = KernelNftTable(
        NetnsThread(space.descriptor),
        log_command=log_command,
        spec=TableSpec(POLICY_TABLE, TEXT if services else static, specs),
        most_bytes=most_bytes,
    )
    await nft_table.start()
    yield nft_table
    await nft_table.stop()


def generation(space: Space) -> int:
    """How many transactions there have been."""
    with contextlib.closing(NetnsThread(space.descriptor)) as place:
        socket = place.run(lambda: netlink.Socket(netlink.NETFILTER))
    with contextlib.closing(socket):
        answer = socket.ask(SUBSYSTEM << 8 | _GETGEN, bytes(4))
    assert answer is not None
    return int.from_bytes(netlink.attributes(answer.body, 4)[1], "big")


def _begin(space: Space, *command: str) -> subprocess.Popen[str]:
    """A program in the namespace."""
    root = Path(__file__).parents[2]
    with contextlib.closing(NetnsThread(space.descriptor)) as place:
        return place.run(
            lambda: subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=root)
        )


def state(space: Space) -> TableState:
    """What is in the kernel, without the chains of the static text."""
    with contextlib.closing(NetnsThread(space.descriptor)) as place:
        socket = place.run(lambda: netlink.Socket(netlink.NETFILTER))
        with contextlib.closing(socket):
            table = dump.read_table(socket, SET_SPECS, BaseTable(b"", {}, {}))
    assert table is not None
    of_text = re.findall(r"^chain (\S+)", policy_base.TEXT, re.MULTILINE)
    chains = {name: rules for name, rules in table.state.chains.items() if name not in of_text}
    return replace(table.state, chains=chains)


async def test_the_kernel_holds_what_the_model_says_after_each_of_many_edits(
    space: Space, nft_table: KernelNftTable
) -> None:
    await nft_table.sync(Transaction())
    model = TableState.bare(policy_base.SET_SPECS)
    for seed in range(1, 80, 2):
        transaction = diff(model, snapshot(seed))
        model = model.apply(transaction)
        await nft_table.apply(transaction)
        assert state(space) == model
        space.run(*LIST)  # nft 1.0.6 ends in an assertion when it meets a set whose types it cannot tell


async def test_what_is_too_large_for_a_transaction_is_made_in_several(
    space: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From nothing to an image, and from each of many images to the next one."""
    most = 12_000
    commits: list[int] = []
    plain = EventSubscriptions.commit

    def counted(
        subscriptions: EventSubscriptions, socket: netlink.Socket, requests: Sequence[netlink.Request]
    ) -> object:
        commits.append(sum(len(each.body) + 20 for each in requests))
        return plain(subscriptions, socket, requests)

    monkeypatch.setattr(EventSubscriptions, "commit", counted)
    async with started(space, most_bytes=most) as nft_table:
        for seed in range(2, 20):
            many = SetSpec("many", ("ipv4_addr",))
            keys = b"".join((seed << 16 | number).to_bytes(4) for number in range(1000))
            whole = snapshot(seed)
            whole = replace(whole, put_sets=(*whole.put_sets, many), put=(*whole.put, ElementBatch("many", keys)))
            await nft_table.sync(whole)
            assert not nft_table.refused
            assert not await nft_table.sync(whole)
        assert len(commits) > 18
        assert max(commits) <= most
        with pytest.raises(KernelError) as caught:
            await nft_table.apply(Transaction(put=(ElementBatch("many", bytes(4) + keys[::-1]),)))
        assert caught.value.errno == errno.EMSGSIZE


async def test_nft_lists_what_was_put(space: Space, nft_table: KernelNftTable) -> None:
    await nft_table.sync(
        Transaction(
            put_sets=(
                SetSpec("pods4-x", ("ipv4_addr",), comment="app=x in ns"),
                SetSpec("ports-y", ("inet_proto", "inet_service"), interval=True),
                SetSpec("nets4-z", ("ipv4_addr",), interval=True),
                SetSpec("to", ("ipv4_addr", "inet_proto", "inet_service"), data=("ipv4_addr", "inet_service")),
            ),
            put_chains=(
                Chain(
                    "ingress4-c",
                    (
                        Rule(
                            (InSet(("ip saddr",), "pods4-x"), InSet(("l4proto", "th dport"), "ports-y")),
                            Verdict("return"),
                            "np:ns/name#ingress[0]",
                        ),
                        Rule((InSet(("ip saddr",), "nets4-z"), Equals("l4proto", 6)), Verdict("return"), ""),
                        Rule((), Verdict("drop"), "no rule allows it: np:ns/name", counter=True),
                    ),
                ),
            ),
            put=(
                ElementBatch("pods4-x", b"\x0a\xf4\1\2"),
                ElementBatch(
                    "ports-y", b"\6\0\0\0\0\x50\0\0\6\0\0\0\0\x5a\0\0\x11\0\0\0\0\x35\0\0\x11\0\0\0\0\x35\0\0"
                ),
                ElementBatch("nets4-z", b"\x0a\0\0\0\x0a\0\0\xff\x0a\0\1\0\x0a\0\1\6\xff\0\0\0\xff\xff\xff\xff"),
                ElementBatch("to", b"\x0a\x60\0\1\6\0\0\0\0\x50\0\0", b"\x0a\xf4\1\2\x1f\x90\0\0"),
                ElementBatch("ingress4", b"\x0a\xf4\1\2", verdict=Verdict("jump", "ingress4-c")),
            ),
        )
    )
    listed = " ".join(space.run(*LIST).split())
    for expected in (
        'set pods4-x { type ipv4_addr comment "app=x in ns" elements = { 10.244.1.2 } }',
        "set ports-y { type inet_proto . inet_service flags interval elements = { tcp . 80-90, udp . 53 } }",
        "set nets4-z { type ipv4_addr flags interval elements = { 10.0.0.0/24, 10.0.1.0-10.0.1.6, 255.0.0.0/8 } }",
        "map to { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service "
        "elements = { 10.96.0.1 . tcp . 80 : 10.244.1.2 . 8080 } }",
        "elements = { 10.244.1.2 : jump ingress4-c }",
        "chain ingress4-c { "
        'ip saddr @pods4-x meta l4proto . th dport @ports-y return comment "np:ns/name#ingress[0]" '
        "ip saddr @nets4-z meta l4proto tcp return "
        'counter packets 0 bytes 0 drop comment "no rule allows it: np:ns/name" }',
    ):
        assert expected in listed


async def test_services_are_read_back_and_listed(space: Space) -> None:
    async with started(space, services=True) as nft_table:
        await nft_table.sync(SERVICES)
        assert not await nft_table.sync(SERVICES)
        listed = space.run(*LIST)
        assert "dnat ip6 to ip6 daddr . meta l4proto . th dport . jhash ip6 saddr mod 3 map @six" in listed
        assert "update @kept { ip saddr : ip daddr . tcp dport }" in listed
        space.run("nft", "insert rule inet percale services drop")
        assert await nft_table.sync(SERVICES)
        assert space.run(*LIST) == listed


# Text

HARM = {
    "rule of the text deleted": "flush chain inet percale policies",
    "rule of the text put in": "insert rule inet percale policies accept",
    "rule of the text replaced": "replace rule inet percale policies handle {handle} accept",
    "policy changed": "add chain inet percale policies {{ policy drop; }}",
    "element for all others": "add element inet percale ingress4 {{ * : accept }}",
    "table recreated by others": "delete table inet percale; add table inet percale",
    "all rules gone": "flush ruleset",
}
WHOLE = Transaction(
    put_chains=(Chain("closed", (Rule((), Verdict("drop"), "nothing may"),)),),
    put=(ElementBatch("ingress4", b"\x0a\0\0\1", verdict=Verdict("jump", "closed")),),
)


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
async def test_harm_to_the_text_is_repaired(space: Space, nft_table: KernelNftTable, harm: str) -> None:
    await nft_table.sync(WHOLE)
    before = space.run(*LIST)
    rules = space.run("nft", "-a", "list", "chain", "inet", "percale", "policies").splitlines()
    handle = next(line.rsplit(" ", 1)[1] for line in rules if "established" in line)
    touched = asyncio.Event()
    nft_table.on_foreign_change(touched.set)
    space.run("nft", harm.format(handle=handle))
    await asyncio.wait_for(touched.wait(), 30)
    assert await nft_table.sync(WHOLE) == WHOLE
    assert space.run(*LIST) == before
    assert not await nft_table.sync(WHOLE)


async def test_a_chain_that_somebody_hooks_in_goes_alone(space: Space, nft_table: KernelNftTable) -> None:
    await nft_table.sync(WHOLE)
    space.run("nft", "add chain inet percale open { type filter hook forward priority -300; }")
    assert await nft_table.sync(WHOLE) == Transaction(remove_chains=("open",))
    assert "chain open" not in space.run(*LIST)


async def test_a_set_of_another_kind_goes_and_a_chain_of_that_name_is_made_anew(
    space: Space, nft_table: KernelNftTable
) -> None:
    await nft_table.sync(Transaction())
    space.run("nft", "add set inet percale theirs { type ifname; elements = { lo }; }")
    space.run("nft", "add chain inet percale closed { type filter hook input priority 0; }")
    space.run("nft", "add rule inet percale closed iifname @theirs drop")
    assert await nft_table.sync(WHOLE)
    assert state(space) == TableState.bare(policy_base.SET_SPECS).apply(WHOLE)


async def test_a_new_text_comes_together_with_the_whole_image(space: Space) -> None:
    """From one text to the next there is no moment without the image: one transaction makes one generation."""
    async with started(space, static=policy_base.TEXT.replace("neighbour discovery", "former words")) as former:
        await former.sync(WHOLE)
        assert "former words" in space.run(*LIST)
    async with started(space) as nft_table:
        before = generation(space)
        assert await nft_table.sync(WHOLE) == WHOLE
        assert generation(space) == before + 1
        assert not await nft_table.sync(WHOLE)
        assert generation(space) == before + 1
    assert "former words" not in space.run(*LIST)
    assert "jump closed" in space.run(*LIST)


async def test_each_change_is_narrated_as_a_command_that_makes_it(space: Space, new_space: Callable[[], Space]) -> None:
    lines: list[str] = []
    other = new_space()
    async with started(space, lines.append) as nft_table:
        for seed in range(2, 30, 2):
            await nft_table.sync(snapshot(seed))
    for line in lines:
        other.shell(line)
    assert sorted(other.run(*LIST).splitlines()) == sorted(space.run(*LIST).splitlines())


async def test_equal_text_and_image_change_nothing_for_a_new_keeper(space: Space) -> None:
    async with started(space) as nft_table:
        await nft_table.sync(WHOLE)
    handles = space.run("nft", "-a", *LIST[1:])
    async with started(space) as nft_table:
        assert not await nft_table.sync(WHOLE)
    assert space.run("nft", "-a", *LIST[1:]) == handles


async def test_other_tables_are_no_concern(space: Space, nft_table: KernelNftTable) -> None:
    touched: list[None] = []
    nft_table.on_foreign_change(lambda: touched.append(None))
    await nft_table.sync(WHOLE)
    space.run("nft", "add table inet theirs { chain c { type filter hook input priority 0; accept; }; }")
    space.run("nft", "add table ip percale; add set ip percale s { type ipv4_addr; }")
    await nft_table.sync(WHOLE)
    space.run("nft", "add chain inet percale theirs")
    await eventually(lambda: touched)
    assert len(touched) == 1
    await nft_table.remove()
    assert "table inet theirs" in space.run("nft", "list", "ruleset")


def test_cleanup_removes_the_table_and_says_so(space: Space) -> None:
    space.run(
        "nft", "add table inet percale { chain c { type filter hook input priority 0; }; }; add table inet theirs"
    )
    with contextlib.closing(NetnsThread(space.descriptor)) as place:
        assert remove_tables(place) == ["nft 'delete table inet percale'"]
        assert remove_tables(place) == []
    assert space.run("nft", "list", "ruleset") == "table inet theirs {\n}\n"


# Size and sudden ends

MANY = SetSpec("many", ("ipv4_addr", "inet_proto", "inet_service"), data=("ipv4_addr", "inet_service"))


def many(count: int, generation: int) -> ElementBatch:
    """Keys that are the same in each generation, data that are not."""
    keys = b"".join((0x0A00_0000 + number).to_bytes(4, "big") + VIP[4:] for number in range(count))
    return ElementBatch("many", keys, (0x0B00_0000 + generation).to_bytes(4, "big").ljust(8, b"\0") * count)


async def test_an_edit_may_be_larger_than_a_sockets_buffer(space: Space, nft_table: KernelNftTable) -> None:
    whole = Transaction(put_sets=(MANY,), put=(many(90_000, 1),))
    await nft_table.sync(Transaction())
    await nft_table.apply(whole)
    assert not await nft_table.sync(whole)
    assert len(state(space).sets["many"].elements) == 90_000


async def test_one_wrong_element_among_many_changes_nothing(space: Space, nft_table: KernelNftTable) -> None:
    await nft_table.sync(Transaction(put_sets=(MANY,), put=(many(1, 1),)))
    with pytest.raises(KernelError, match="set many"):
        await nft_table.apply(Transaction(put=(many(5_000, 2),)))
    assert len(state(space).sets["many"].elements) == 1


_WRITER = """
import asyncio, sys
from tests.kernel.test_nft_table_contents import MANY, many
from percale.kernel.nftables.event_subscriptions import EventSubscriptions
from percale.kernel.nftables.table import KernelNftTable
from percale.render.nft.objects import ElementBatch, Transaction

async def main():
    table = KernelNftTable()
    await table.start()
    await table.sync(Transaction(put_sets=(MANY,), put=(many(3000, 0),)))
    print("ready", flush=True)
    generation = 0
    while True:
        old, new = many(3000, generation), many(3000, generation + 1)
        await table.apply(Transaction(remove=(old,), put=(new,)))
        generation += 1

asyncio.run(main())
"""


def test_a_kill_in_the_middle_of_edits_leaves_one_generation_whole(space: Space) -> None:
    for attempt in range(4):
        writer = _begin(space, sys.executable, "-c", _WRITER)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            writer.wait(0.05 + attempt * 0.037)
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
        values = list(state(space).sets["many"].elements.values())
        assert len(values) == 3000
        assert len(set(values)) == 1
