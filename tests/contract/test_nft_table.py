"""The contract of `percale.kernel.nftables.table.NftTable`, on the real table and the fake."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace
from tests.snapshots import snapshot

from percale.errors import KernelError
from percale.kernel.netns import NetnsThread, anonymous_namespace
from percale.kernel.nftables.fake_table import FakeNftTable
from percale.kernel.nftables.script import to_commands
from percale.kernel.nftables.table import KernelNftTable, NftTable
from percale.render.nft.objects import Chain, ElementBatch, Equals, InSet, Rule, SetSpec, Transaction, Verdict
from percale.render.policy.base_chains import SET_SPECS

PODS = SetSpec("pods4-a", ("ipv4_addr",), comment="app=a")
MAP = SetSpec("map", ("ipv4_addr", "inet_service"), data=("ipv4_addr",))
RANGES = SetSpec("ranges", ("inet_proto", "inet_service"), interval=True)
NETS = SetSpec("nets", ("ipv4_addr",), interval=True)
KEPT = SetSpec("kept", ("ipv4_addr",), data=("ipv4_addr", "inet_service"), timeout=600)
ONE, TWO, THREE = b"\x0a\0\0\1", b"\x0a\0\0\2", b"\x0a\0\0\3"
LAST = Chain("last", (Rule((), Verdict("drop"), "drops", counter=True),))
CLASS = Chain(
    "class",
    (
        Rule((InSet(("ip saddr",), "pods4-a"), Equals("l4proto", 6)), Verdict("return"), "np:a/b#ingress[0]"),
        Rule((InSet(("l4proto", "th dport"), "ranges"),), Verdict("return"), "np:a/b#ingress[1]"),
        Rule((), Verdict("goto", "last"), "the rest"),
    ),
)
SNAPSHOT = Transaction(
    put_sets=(PODS, MAP, RANGES, NETS),
    put_chains=(CLASS, LAST),
    put=(
        ElementBatch("pods4-a", ONE + TWO),
        ElementBatch("map", ONE + b"\0\x50\0\0", TWO),
        ElementBatch("ranges", b"\6\0\0\0\0\x50\0\0\6\0\0\0\0\x5a\0\0"),
        ElementBatch("nets", b"\x0a\0\0\0\x0a\0\0\xff\x0a\0\1\0\xff\xff\xff\xff"),
        ElementBatch("ingress4", ONE + TWO, verdict=Verdict("jump", "class")),
        ElementBatch("egress4", ONE, verdict=Verdict("drop")),
    ),
)
PATIENCE = 30.0
"""Seconds."""


@dataclass
class World:
    """A started table, another writer in the same namespace, and the number of reported foreign changes."""

    nft_table: NftTable
    somebody: Callable[[Transaction | None], None]
    """Makes an edit; None deletes the table."""
    remember: Callable[[str, bytes, bytes], None]
    """Puts an element into a map with a timeout, as a packet does."""
    touched: list[None] = field(default_factory=list)

    async def says_touched(self) -> bool:
        end = asyncio.get_running_loop().time() + PATIENCE
        while not self.touched and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.005)
        return bool(self.touched)

    async def holds(self, snapshot: Transaction) -> bool:
        """A restore that has nothing to do says so."""
        return not await self.nft_table.sync(snapshot)


@pytest.fixture(params=["real", "fake"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "fake":
        fake = FakeNftTable(chains=["policies"])

        def remember(name: str, key: bytes, value: bytes) -> None:
            fake.remembered.setdefault(name, {})[key] = value

        world = World(fake, fake.touch, remember)
        fake.on_foreign_change(lambda: world.touched.append(None))
        await fake.start()
        yield world
        await fake.stop()
        return
    namespace = anonymous_namespace()
    nft_table = KernelNftTable(NetnsThread(namespace))
    other = NetnsThread(namespace)
    known = {spec.name: spec for spec in (*SET_SPECS, PODS, MAP, RANGES, NETS, KEPT)}

    def touch(transaction: Transaction | None) -> None:
        commands = ["delete table inet percale"] if transaction is None else to_commands(transaction, known)
        lines = "\n".join(commands)
        other.run(lambda: subprocess.run(["nft", "-f", "-"], input=lines, text=True, check=True))

    def keep_in_mind(name: str, key: bytes, value: bytes) -> None:
        touch(Transaction(put=(ElementBatch(name, key, value),)))

    world = World(nft_table, touch, keep_in_mind)
    nft_table.on_foreign_change(lambda: world.touched.append(None))
    await nft_table.start()
    yield world
    await nft_table.stop()
    other.close()
    os.close(namespace)


async def test_a_restore_makes_the_table_and_the_next_one_nothing(world: World) -> None:
    assert await world.nft_table.sync(SNAPSHOT) == SNAPSHOT
    assert await world.holds(SNAPSHOT)
    assert await world.holds(SNAPSHOT)


async def test_a_restore_makes_exactly_the_image(world: World) -> None:
    await world.nft_table.sync(SNAPSHOT)
    smaller = Transaction(put_sets=(PODS,), put=(ElementBatch("pods4-a", TWO + THREE),))
    found = await world.nft_table.sync(smaller)
    assert found.put == (ElementBatch("pods4-a", THREE),)
    assert found.remove_chains == ("class", "last")
    assert await world.holds(smaller)
    assert await world.nft_table.sync(Transaction())
    assert await world.holds(Transaction())


async def test_stale_elements_stay_until_all_have_said_what_they_want(world: World) -> None:
    await world.nft_table.sync(SNAPSHOT)
    key = ONE + b"\0\x50\0\0"
    some = replace(SNAPSHOT, put=(ElementBatch("pods4-a", THREE), ElementBatch("map", key, THREE)))
    kept = await world.nft_table.sync(some, keep_stale=True)
    assert kept == Transaction(
        remove=(ElementBatch("map", key),), put=(ElementBatch("pods4-a", THREE), ElementBatch("map", key, THREE))
    )
    assert not await world.nft_table.sync(some, keep_stale=True)
    gone = await world.nft_table.sync(some)
    assert ElementBatch("pods4-a", ONE + TWO) in gone.remove or ElementBatch("pods4-a", TWO + ONE) in gone.remove
    assert gone.put == ()
    assert await world.holds(some)


async def test_edits_change_what_they_say_and_nothing_else(world: World) -> None:
    await world.nft_table.sync(SNAPSHOT)
    await world.nft_table.apply(Transaction())
    await world.nft_table.apply(
        Transaction(
            remove=(ElementBatch("pods4-a", ONE), ElementBatch("map", ONE + b"\0\x50\0\0")),
            put_chains=(replace(LAST, rules=()),),
            put=(ElementBatch("pods4-a", THREE), ElementBatch("map", ONE + b"\0\x50\0\0", THREE)),
        )
    )
    after = replace(
        SNAPSHOT,
        put_chains=(CLASS, replace(LAST, rules=())),
        put=(ElementBatch("pods4-a", TWO + THREE), ElementBatch("map", ONE + b"\0\x50\0\0", THREE), *SNAPSHOT.put[2:]),
    )
    assert await world.holds(after)


async def test_all_of_an_image_goes_in_one_edit(world: World) -> None:
    await world.nft_table.sync(SNAPSHOT)
    await world.nft_table.apply(
        Transaction(
            remove=(ElementBatch("ingress4", ONE + TWO), ElementBatch("egress4", ONE)),
            remove_chains=("class", "last"),
            remove_sets=("pods4-a", "map", "ranges", "nets"),
        )
    )
    assert await world.holds(Transaction())


async def test_a_set_is_made_anew_with_another_shape(world: World) -> None:
    await world.nft_table.sync(SNAPSHOT)
    other = replace(RANGES, key=("inet_proto", "inet_service"), interval=False)
    await world.nft_table.apply(
        Transaction(
            remove_sets=("ranges",),
            put_sets=(other,),
            put_chains=(CLASS,),
            put=(ElementBatch("ranges", b"\6\0\0\0\0\x50\0\0"),),
        )
    )
    after = replace(
        SNAPSHOT,
        put_sets=(PODS, MAP, other, NETS),
        put=(*SNAPSHOT.put[:2], ElementBatch("ranges", b"\6\0\0\0\0\x50\0\0"), *SNAPSHOT.put[3:]),
    )
    assert await world.holds(after)


@pytest.mark.parametrize(
    ("transaction", "number", "where"),
    [
        (Transaction(remove=(ElementBatch("pods4-a", THREE),)), errno.ENOENT, "set pods4-a"),
        (Transaction(remove=(ElementBatch("unknown", THREE),)), errno.ENOENT, "set unknown"),
        (Transaction(put=(ElementBatch("unknown", THREE),)), errno.ENOENT, "set unknown"),
        (Transaction(put=(ElementBatch("map", ONE + b"\0\x50\0\0", THREE),)), errno.EEXIST, "set map"),
        (Transaction(put=(ElementBatch("map", ONE + b"\0\x50\0\0"),)), errno.EINVAL, "set map"),
        (Transaction(put=(ElementBatch("egress4", ONE, verdict=Verdict("accept")),)), errno.EEXIST, "set egress4"),
        (Transaction(put=(ElementBatch("nets", b"\x0a\0\0\x80\x0a\0\0\x90"),)), errno.EEXIST, "set nets"),
        (Transaction(remove_sets=("pods4-a",)), errno.EBUSY, "set pods4-a"),
        (Transaction(remove_sets=("egress4",)), errno.EBUSY, "set egress4"),
        (Transaction(remove_sets=("unknown",)), errno.ENOENT, "set unknown"),
        (Transaction(remove_chains=("last",)), errno.EBUSY, "chain last"),
        (Transaction(remove_chains=("class",)), errno.EBUSY, "chain class"),
        (Transaction(remove_chains=("unknown",)), errno.ENOENT, "chain unknown"),
    ],
)
async def test_a_refused_edit_names_the_part_and_changes_nothing(
    world: World, transaction: Transaction, number: int, where: str
) -> None:
    await world.nft_table.sync(SNAPSHOT)
    whole = replace(transaction, put_sets=(SetSpec("new", ("ipv4_addr",)),), put_chains=(Chain("new", LAST.rules),))
    with pytest.raises(KernelError) as caught:
        await world.nft_table.apply(whole)
    assert caught.value.errno == number
    assert caught.value.where == f"table inet percale, {where}"
    assert await world.holds(SNAPSHOT)
    await world.nft_table.apply(Transaction(put=(ElementBatch("pods4-a", THREE),)))


async def test_a_chain_that_leads_nowhere_is_refused(world: World) -> None:
    await world.nft_table.sync(SNAPSHOT)
    nowhere = Chain("new", (Rule((), Verdict("jump", "nowhere"), "lost"),))
    with pytest.raises(KernelError) as caught:
        await world.nft_table.apply(Transaction(put_chains=(nowhere,)))
    assert caught.value.errno == errno.ENOENT
    assert await world.holds(SNAPSHOT)


NOWHERE = ElementBatch("ingress4", THREE, verdict=Verdict("jump", "nowhere"))
CLOSED = ElementBatch("ingress4", THREE, verdict=Verdict("drop"))


@pytest.mark.parametrize("before", [None, SNAPSHOT], ids=["no table", "a table"])
async def test_what_is_refused_of_an_image_is_left_out_and_closed(world: World, before: Transaction | None) -> None:
    if before is not None:
        await world.nft_table.sync(before)
    bad = Chain("bad", (Rule((), Verdict("goto", "nowhere"), "lost"),))
    await world.nft_table.sync(replace(SNAPSHOT, put_chains=(*SNAPSHOT.put_chains, bad), put=(*SNAPSHOT.put, NOWHERE)))
    refused = [(part.put_chains, part.put, error.errno) for part, error in world.nft_table.refused]
    assert refused == [((bad,), (), errno.ENOENT), ((), (NOWHERE,), errno.ENOENT)]
    drops = Chain("bad", (Rule((), Verdict("drop"), "in place of rules that the kernel does not take"),))
    assert await world.holds(replace(SNAPSHOT, put_chains=(*SNAPSHOT.put_chains, drops), put=(*SNAPSHOT.put, CLOSED)))
    assert not world.nft_table.refused


async def test_what_was_left_out_comes_when_it_can(world: World) -> None:
    await world.nft_table.sync(replace(SNAPSHOT, put=(*SNAPSHOT.put, NOWHERE)))
    assert world.nft_table.refused
    there = ElementBatch("ingress4", THREE, verdict=Verdict("jump", "class"))
    whole = replace(SNAPSHOT, put=(*SNAPSHOT.put, there))
    await world.nft_table.sync(whole)
    assert not world.nft_table.refused
    assert await world.holds(whole)


TOUCHES = {
    "table deleted": None,
    "element removed": Transaction(remove=(ElementBatch("pods4-a", ONE),)),
    "element added": Transaction(put=(ElementBatch("ingress4", THREE, verdict=Verdict("accept")),)),
    "interval added": Transaction(put=(ElementBatch("nets", b"\x09\0\0\0\x09\0\0\xff"),)),
    "interval removed": Transaction(remove=(ElementBatch("nets", b"\x0a\0\0\0\x0a\0\0\xff"),)),
    "verdict changed": Transaction(
        remove=(ElementBatch("egress4", ONE),), put=(ElementBatch("egress4", ONE, verdict=Verdict("accept")),)
    ),
    "rules flushed": Transaction(put_chains=(replace(CLASS, rules=()),)),
    "rule left out": Transaction(put_chains=(replace(CLASS, rules=CLASS.rules[1:]),)),
    "rule put in": Transaction(put_chains=(replace(CLASS, rules=(Rule((), Verdict("accept"), "open"), *CLASS.rules)),)),
    "rules in another order": Transaction(put_chains=(replace(CLASS, rules=CLASS.rules[::-1]),)),
    "chain added": Transaction(put_chains=(Chain("theirs", ()),)),
    "set added": Transaction(put_sets=(SetSpec("theirs", ("mark",)),)),
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES.keys())
async def test_what_somebody_else_did_is_told_and_repaired(world: World, touch: Transaction | None) -> None:
    await world.nft_table.sync(SNAPSHOT)
    world.somebody(touch)
    assert await world.says_touched()
    assert await world.nft_table.sync(SNAPSHOT)
    assert await world.holds(SNAPSHOT)


async def test_what_the_keeper_does_is_no_news(world: World) -> None:
    await world.nft_table.sync(SNAPSHOT)
    await world.nft_table.apply(Transaction(put=(ElementBatch("pods4-a", THREE),)))
    await world.nft_table.sync(SNAPSHOT)
    await world.nft_table.remove()
    await world.nft_table.sync(SNAPSHOT)
    world.somebody(Transaction(put=(ElementBatch("pods4-a", THREE),)))
    assert await world.says_touched()
    assert len(world.touched) == 1


async def test_many_changes_of_others_are_told_once(world: World) -> None:
    await world.nft_table.sync(SNAPSHOT)
    world.somebody(Transaction(put=tuple(ElementBatch("pods4-a", bytes((9, 0, 0, number))) for number in range(200))))
    assert await world.says_touched()
    assert len(world.touched) == 1


async def test_a_removed_table_is_gone_and_may_be_made_again(world: World) -> None:
    await world.nft_table.remove()
    await world.nft_table.sync(SNAPSHOT)
    await world.nft_table.remove()
    await world.nft_table.remove()
    assert await world.nft_table.sync(SNAPSHOT) == SNAPSHOT


async def test_what_packets_remembered_is_forgotten_by_where_it_leads(world: World) -> None:
    snapshot = replace(SNAPSHOT, put_sets=(*SNAPSHOT.put_sets, KEPT))
    await world.nft_table.sync(snapshot)
    for client, endpoint in ((ONE, TWO), (TWO, THREE), (THREE, TWO)):
        world.remember("kept", client, endpoint + b"\0\x50\0\0")
    assert await world.nft_table.prune({"kept": {TWO + b"\0\x50\0\0"}}) == 1
    assert await world.nft_table.prune({"kept": {TWO + b"\0\x50\0\0"}, "unknown": ()}) == 0
    assert await world.nft_table.prune({"kept": ()}) == 2
    assert await world.holds(snapshot)


async def test_from_any_image_to_any_other(world: World) -> None:
    for seed in range(0, 60, 2):
        await world.nft_table.sync(snapshot(seed))
        assert await world.holds(snapshot(seed))
