"""What every keeper of `table inet percale` promises, the real one and the fake: `percale.kernel.nftables.table.Keeper`."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace
from tests.images import image

from percale.errors import KernelError
from percale.kernel.netns import NamespaceThread, anonymous_namespace
from percale.kernel.nftables.fake_table import FakeKeeper
from percale.kernel.nftables.script import spell
from percale.kernel.nftables.table import Keeper, TableKeeper
from percale.render.nft.objects import Chain, Edit, Elements, Equals, InSet, Rule, SetShape, Verdict
from percale.render.policy.base_chains import SHAPES

PODS = SetShape("pods4-a", ("ipv4_addr",), comment="app=a")
MAP = SetShape("map", ("ipv4_addr", "inet_service"), data=("ipv4_addr",))
RANGES = SetShape("ranges", ("inet_proto", "inet_service"), interval=True)
NETS = SetShape("nets", ("ipv4_addr",), interval=True)
KEPT = SetShape("kept", ("ipv4_addr",), data=("ipv4_addr", "inet_service"), timeout=600)
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
IMAGE = Edit(
    put_sets=(PODS, MAP, RANGES, NETS),
    put_chains=(CLASS, LAST),
    put=(
        Elements("pods4-a", ONE + TWO),
        Elements("map", ONE + b"\0\x50\0\0", TWO),
        Elements("ranges", b"\6\0\0\0\0\x50\0\0\6\0\0\0\0\x5a\0\0"),
        Elements("nets", b"\x0a\0\0\0\x0a\0\0\xff\x0a\0\1\0\xff\xff\xff\xff"),
        Elements("ingress4", ONE + TWO, verdict=Verdict("jump", "class")),
        Elements("egress4", ONE, verdict=Verdict("drop")),
    ),
)
PATIENCE = 30.0
"""Seconds."""


@dataclass
class World:
    """A started keeper, somebody else in the same namespace, and how often the keeper said that it was touched."""

    keeper: Keeper
    somebody: Callable[[Edit | None], None]
    """Makes an edit; None deletes the table."""
    remember: Callable[[str, bytes, bytes], None]
    """Puts an element into a map with a timeout, as a packet does."""
    touched: list[None] = field(default_factory=list)

    async def says_touched(self) -> bool:
        end = asyncio.get_running_loop().time() + PATIENCE
        while not self.touched and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.005)
        return bool(self.touched)

    async def holds(self, image: Edit) -> bool:
        """A restore that has nothing to do says so."""
        return not await self.keeper.restore(image)


@pytest.fixture(params=["real", "fake"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "fake":
        fake = FakeKeeper(chains=["policies"])

        def remember(name: str, key: bytes, value: bytes) -> None:
            fake.remembered.setdefault(name, {})[key] = value

        world = World(fake, fake.touch, remember)
        fake.on_touched(lambda: world.touched.append(None))
        await fake.start()
        yield world
        await fake.stop()
        return
    namespace = anonymous_namespace()
    keeper = TableKeeper(NamespaceThread(namespace))
    other = NamespaceThread(namespace)
    known = {shape.name: shape for shape in (*SHAPES, PODS, MAP, RANGES, NETS, KEPT)}

    def touch(edit: Edit | None) -> None:
        commands = ["delete table inet percale"] if edit is None else spell(edit, known)
        lines = "\n".join(commands)
        other.run(lambda: subprocess.run(["nft", "-f", "-"], input=lines, text=True, check=True))

    def keep_in_mind(name: str, key: bytes, value: bytes) -> None:
        touch(Edit(put=(Elements(name, key, value),)))

    world = World(keeper, touch, keep_in_mind)
    keeper.on_touched(lambda: world.touched.append(None))
    await keeper.start()
    yield world
    await keeper.stop()
    other.close()
    os.close(namespace)


async def test_a_restore_makes_the_table_and_the_next_one_nothing(world: World) -> None:
    assert await world.keeper.restore(IMAGE) == IMAGE
    assert await world.holds(IMAGE)
    assert await world.holds(IMAGE)


async def test_a_restore_makes_exactly_the_image(world: World) -> None:
    await world.keeper.restore(IMAGE)
    smaller = Edit(put_sets=(PODS,), put=(Elements("pods4-a", TWO + THREE),))
    found = await world.keeper.restore(smaller)
    assert found.put == (Elements("pods4-a", THREE),)
    assert found.remove_chains == ("class", "last")
    assert await world.holds(smaller)
    assert await world.keeper.restore(Edit())
    assert await world.holds(Edit())


async def test_edits_change_what_they_say_and_nothing_else(world: World) -> None:
    await world.keeper.restore(IMAGE)
    await world.keeper.edit(Edit())
    await world.keeper.edit(
        Edit(
            remove=(Elements("pods4-a", ONE), Elements("map", ONE + b"\0\x50\0\0")),
            put_chains=(replace(LAST, rules=()),),
            put=(Elements("pods4-a", THREE), Elements("map", ONE + b"\0\x50\0\0", THREE)),
        )
    )
    after = replace(
        IMAGE,
        put_chains=(CLASS, replace(LAST, rules=())),
        put=(
            Elements("pods4-a", TWO + THREE),
            Elements("map", ONE + b"\0\x50\0\0", THREE),
            *IMAGE.put[2:],
        ),
    )
    assert await world.holds(after)


async def test_all_of_an_image_goes_in_one_edit(world: World) -> None:
    await world.keeper.restore(IMAGE)
    await world.keeper.edit(
        Edit(
            remove=(Elements("ingress4", ONE + TWO), Elements("egress4", ONE)),
            remove_chains=("class", "last"),
            remove_sets=("pods4-a", "map", "ranges", "nets"),
        )
    )
    assert await world.holds(Edit())


async def test_a_set_is_made_anew_with_another_shape(world: World) -> None:
    await world.keeper.restore(IMAGE)
    other = replace(RANGES, key=("inet_proto", "inet_service"), interval=False)
    await world.keeper.edit(
        Edit(
            remove_sets=("ranges",),
            put_sets=(other,),
            put_chains=(CLASS,),
            put=(Elements("ranges", b"\6\0\0\0\0\x50\0\0"),),
        )
    )
    after = replace(
        IMAGE,
        put_sets=(PODS, MAP, other, NETS),
        put=(*IMAGE.put[:2], Elements("ranges", b"\6\0\0\0\0\x50\0\0"), *IMAGE.put[3:]),
    )
    assert await world.holds(after)


@pytest.mark.parametrize(
    ("edit", "number", "where"),
    [
        (Edit(remove=(Elements("pods4-a", THREE),)), errno.ENOENT, "set pods4-a"),
        (Edit(remove=(Elements("unknown", THREE),)), errno.ENOENT, "set unknown"),
        (Edit(put=(Elements("unknown", THREE),)), errno.ENOENT, "set unknown"),
        (Edit(put=(Elements("map", ONE + b"\0\x50\0\0", THREE),)), errno.EEXIST, "set map"),
        (Edit(put=(Elements("map", ONE + b"\0\x50\0\0"),)), errno.EINVAL, "set map"),
        (Edit(put=(Elements("egress4", ONE, verdict=Verdict("accept")),)), errno.EEXIST, "set egress4"),
        (Edit(put=(Elements("nets", b"\x0a\0\0\x80\x0a\0\0\x90"),)), errno.EEXIST, "set nets"),
        (Edit(remove_sets=("pods4-a",)), errno.EBUSY, "set pods4-a"),
        (Edit(remove_sets=("egress4",)), errno.EBUSY, "set egress4"),
        (Edit(remove_sets=("unknown",)), errno.ENOENT, "set unknown"),
        (Edit(remove_chains=("last",)), errno.EBUSY, "chain last"),
        (Edit(remove_chains=("class",)), errno.EBUSY, "chain class"),
        (Edit(remove_chains=("unknown",)), errno.ENOENT, "chain unknown"),
    ],
)
async def test_a_refused_edit_names_the_part_and_changes_nothing(
    world: World, edit: Edit, number: int, where: str
) -> None:
    await world.keeper.restore(IMAGE)
    whole = replace(edit, put_sets=(SetShape("new", ("ipv4_addr",)),), put_chains=(Chain("new", LAST.rules),))
    with pytest.raises(KernelError) as caught:
        await world.keeper.edit(whole)
    assert caught.value.errno == number
    assert caught.value.where == f"table inet percale, {where}"
    assert await world.holds(IMAGE)
    await world.keeper.edit(Edit(put=(Elements("pods4-a", THREE),)))


async def test_a_chain_that_leads_nowhere_is_refused(world: World) -> None:
    await world.keeper.restore(IMAGE)
    nowhere = Chain("new", (Rule((), Verdict("jump", "nowhere"), "lost"),))
    with pytest.raises(KernelError) as caught:
        await world.keeper.edit(Edit(put_chains=(nowhere,)))
    assert caught.value.errno == errno.ENOENT
    assert await world.holds(IMAGE)


NOWHERE = Elements("ingress4", THREE, verdict=Verdict("jump", "nowhere"))
CLOSED = Elements("ingress4", THREE, verdict=Verdict("drop"))


@pytest.mark.parametrize("before", [None, IMAGE], ids=["no table", "a table"])
async def test_what_is_refused_of_an_image_is_left_out_and_closed(world: World, before: Edit | None) -> None:
    if before is not None:
        await world.keeper.restore(before)
    bad = Chain("bad", (Rule((), Verdict("goto", "nowhere"), "lost"),))
    await world.keeper.restore(replace(IMAGE, put_chains=(*IMAGE.put_chains, bad), put=(*IMAGE.put, NOWHERE)))
    refused = [(part.put_chains, part.put, error.errno) for part, error in world.keeper.refused]
    assert refused == [((bad,), (), errno.ENOENT), ((), (NOWHERE,), errno.ENOENT)]
    drops = Chain("bad", (Rule((), Verdict("drop"), "in place of rules that the kernel does not take"),))
    assert await world.holds(replace(IMAGE, put_chains=(*IMAGE.put_chains, drops), put=(*IMAGE.put, CLOSED)))
    assert not world.keeper.refused


async def test_what_was_left_out_comes_when_it_can(world: World) -> None:
    await world.keeper.restore(replace(IMAGE, put=(*IMAGE.put, NOWHERE)))
    assert world.keeper.refused
    there = Elements("ingress4", THREE, verdict=Verdict("jump", "class"))
    whole = replace(IMAGE, put=(*IMAGE.put, there))
    await world.keeper.restore(whole)
    assert not world.keeper.refused
    assert await world.holds(whole)


TOUCHES = {
    "table deleted": None,
    "element removed": Edit(remove=(Elements("pods4-a", ONE),)),
    "element added": Edit(put=(Elements("ingress4", THREE, verdict=Verdict("accept")),)),
    "interval added": Edit(put=(Elements("nets", b"\x09\0\0\0\x09\0\0\xff"),)),
    "interval removed": Edit(remove=(Elements("nets", b"\x0a\0\0\0\x0a\0\0\xff"),)),
    "verdict changed": Edit(
        remove=(Elements("egress4", ONE),), put=(Elements("egress4", ONE, verdict=Verdict("accept")),)
    ),
    "rules flushed": Edit(put_chains=(replace(CLASS, rules=()),)),
    "rule left out": Edit(put_chains=(replace(CLASS, rules=CLASS.rules[1:]),)),
    "rule put in": Edit(put_chains=(replace(CLASS, rules=(Rule((), Verdict("accept"), "open"), *CLASS.rules)),)),
    "rules in another order": Edit(put_chains=(replace(CLASS, rules=CLASS.rules[::-1]),)),
    "chain added": Edit(put_chains=(Chain("theirs", ()),)),
    "set added": Edit(put_sets=(SetShape("theirs", ("mark",)),)),
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES.keys())
async def test_what_somebody_else_did_is_told_and_repaired(world: World, touch: Edit | None) -> None:
    await world.keeper.restore(IMAGE)
    world.somebody(touch)
    assert await world.says_touched()
    assert await world.keeper.restore(IMAGE)
    assert await world.holds(IMAGE)


async def test_what_the_keeper_does_is_no_news(world: World) -> None:
    await world.keeper.restore(IMAGE)
    await world.keeper.edit(Edit(put=(Elements("pods4-a", THREE),)))
    await world.keeper.restore(IMAGE)
    await world.keeper.remove()
    await world.keeper.restore(IMAGE)
    world.somebody(Edit(put=(Elements("pods4-a", THREE),)))
    assert await world.says_touched()
    assert len(world.touched) == 1


async def test_many_changes_of_others_are_told_once(world: World) -> None:
    await world.keeper.restore(IMAGE)
    world.somebody(Edit(put=tuple(Elements("pods4-a", bytes((9, 0, 0, number))) for number in range(200))))
    assert await world.says_touched()
    assert len(world.touched) == 1


async def test_a_removed_table_is_gone_and_may_be_made_again(world: World) -> None:
    await world.keeper.remove()
    await world.keeper.restore(IMAGE)
    await world.keeper.remove()
    await world.keeper.remove()
    assert await world.keeper.restore(IMAGE) == IMAGE


async def test_what_packets_remembered_is_forgotten_by_where_it_leads(world: World) -> None:
    image = replace(IMAGE, put_sets=(*IMAGE.put_sets, KEPT))
    await world.keeper.restore(image)
    for client, endpoint in ((ONE, TWO), (TWO, THREE), (THREE, TWO)):
        world.remember("kept", client, endpoint + b"\0\x50\0\0")
    assert await world.keeper.forget({"kept": {TWO + b"\0\x50\0\0"}}) == 1
    assert await world.keeper.forget({"kept": {TWO + b"\0\x50\0\0"}, "unknown": ()}) == 0
    assert await world.keeper.forget({"kept": ()}) == 2
    assert await world.holds(image)


async def test_from_any_image_to_any_other(world: World) -> None:
    for seed in range(0, 60, 2):
        await world.keeper.restore(image(seed))
        assert await world.holds(image(seed))
