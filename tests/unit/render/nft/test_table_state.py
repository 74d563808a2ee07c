"""The table as a value: edits as the kernel takes them, and the edit between any two tables."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.images import image

from percale.errors import KernelError
from percale.render.nft.objects import Chain, Edit, Elements, InSet, Rule, SetShape, Verdict
from percale.render.nft.table_state import Held, HeldSet, difference
from percale.render.policy.base_chains import SHAPES

BARE = Held.bare(SHAPES, ("policies",))
PODS = SetShape("pods", ("ipv4_addr",))
PORTS = SetShape("ports", ("inet_service",), interval=True)
MAP = SetShape("map", ("ipv4_addr",), data=("ipv4_addr",))
ONE, TWO, THREE = b"\x0a\0\0\1", b"\x0a\0\0\2", b"\x0a\0\0\3"
DROP, ACCEPT = Verdict("drop"), Verdict("accept")
LOOKS = Rule((InSet(("ip saddr",), "pods"),), DROP, "looks")

seeds = st.integers(0, 100_000)


@given(seeds, seeds)
def test_the_difference_makes_any_table_any_other_table(before: int, after: int) -> None:
    old, new = BARE.after(image(before)), BARE.after(image(after))
    assert old.after(difference(old, image(after))) == new


@given(seeds)
def test_a_table_that_is_right_needs_nothing(seed: int) -> None:
    assert not difference(BARE.after(image(seed)), image(seed))


@given(seeds)
def test_the_difference_changes_only_what_is_wrong(seed: int) -> None:
    wanted = image(seed, sets=12)
    held = BARE.after(wanted)
    for name, (shape, contents) in held.sets.items():
        if contents:
            first = next(iter(contents))
            without = {key: value for key, value in contents.items() if key != first}
            wrong = replace(held, sets={**held.sets, name: HeldSet(shape, without)})
            found = difference(wrong, wanted)
            assert [(part.set, part.keys) for part in found.put] == [(name, first)]
            assert replace(found, put=()) == Edit()


def test_what_others_made_goes() -> None:
    strange = replace(
        BARE,
        sets={**BARE.sets, "theirs": HeldSet(None, {})},
        chains={"rules": (None,), "hooked": None, "ours": (LOOKS, None)},
    )
    wanted = Edit(put_sets=(PODS,), put_chains=(Chain("ours", (LOOKS,)), Chain("hooked", ())))
    found = difference(strange, wanted)
    assert found.remove_sets == ("theirs",)
    assert found.remove_chains == ("hooked", "rules")
    assert {chain.name for chain in found.put_chains} == {"ours", "hooked"}
    assert strange.after(found) == BARE.after(wanted)


def test_rules_that_look_into_a_set_that_is_made_anew_are_written_again() -> None:
    held = BARE.after(Edit(put_sets=(replace(PODS, key=("ipv6_addr",)),), put_chains=(Chain("ours", (LOOKS,)),)))
    found = difference(held, Edit(put_sets=(PODS,), put_chains=(Chain("ours", (LOOKS,)),)))
    assert (found.remove_sets, found.put_sets) == (("pods",), (PODS,))
    assert [chain.name for chain in found.put_chains] == ["ours"]


def test_an_element_gets_its_new_data_when_it_is_removed_and_put() -> None:
    held = BARE.after(Edit(put_sets=(MAP,), put=(Elements("map", ONE + TWO, TWO + TWO),)))
    found = difference(held, Edit(put_sets=(MAP,), put=(Elements("map", ONE + TWO, TWO + THREE),)))
    assert found == Edit(remove=(Elements("map", TWO),), put=(Elements("map", TWO, THREE),))


def test_a_map_that_packets_fill_is_left_alone() -> None:
    kept = SetShape("kept", ("ipv4_addr",), data=("ipv4_addr",), timeout=60)
    held = BARE.after(Edit(put_sets=(kept,)))
    assert not difference(held, Edit(put_sets=(kept,)))


FULL = BARE.after(
    Edit(
        put_sets=(PODS, PORTS, MAP),
        put_chains=(Chain("a", (Rule((), Verdict("jump", "b"), ""),)), Chain("b", (LOOKS,))),
        put=(
            Elements("pods", ONE),
            Elements("ports", b"\0\5\0\0\0\7\0\0"),
            Elements("map", ONE, TWO),
            Elements("egress4", ONE, verdict=Verdict("jump", "a")),
        ),
    )
)


@pytest.mark.parametrize(
    ("edit", "number", "where"),
    [
        (Edit(remove=(Elements("pods", TWO),)), errno.ENOENT, "set pods"),
        (Edit(remove=(Elements("nope", TWO),)), errno.ENOENT, "set nope"),
        (Edit(put=(Elements("nope", TWO),)), errno.ENOENT, "set nope"),
        (Edit(put=(Elements("pods", TWO[:3]),)), errno.EINVAL, "set pods"),
        (Edit(put=(Elements("map", ONE, THREE),)), errno.EEXIST, "set map"),
        (Edit(put=(Elements("map", TWO),)), errno.EINVAL, "set map"),
        (Edit(put=(Elements("egress4", ONE, verdict=DROP),)), errno.EEXIST, "set egress4"),
        (Edit(put=(Elements("egress4", TWO, verdict=Verdict("jump", "nope")),)), errno.ENOENT, "chain nope"),
        (Edit(put=(Elements("egress4", TWO),)), errno.EINVAL, "set egress4"),
        (Edit(put=(Elements("ports", b"\0\6\0\0\0\x09\0\0"),)), errno.EEXIST, "set ports"),
        (Edit(put_sets=(replace(PODS, key=("ipv6_addr",)),)), errno.EEXIST, "set pods"),
        (Edit(put_chains=(Chain("c", (Rule((), Verdict("goto", "nope"), ""),)),)), errno.ENOENT, "chain nope"),
        (Edit(put_chains=(Chain("c", (Rule((InSet(("l4proto",), "x"),), DROP, ""),)),)), errno.ENOENT, "set x"),
        (Edit(remove_chains=("a",)), errno.EBUSY, "chain a"),
        (Edit(remove_chains=("b",)), errno.EBUSY, "chain b"),
        (Edit(remove_chains=("nope",)), errno.ENOENT, "chain nope"),
        (Edit(remove_sets=("pods",)), errno.EBUSY, "set pods"),
        (Edit(remove_sets=("egress4",)), errno.EBUSY, "set egress4"),
        (Edit(remove_sets=("nope",)), errno.ENOENT, "set nope"),
    ],
)
def test_what_the_kernel_would_refuse_is_refused(edit: Edit, number: int, where: str) -> None:
    with pytest.raises(KernelError) as caught:
        FULL.after(edit)
    assert (caught.value.errno, caught.value.where) == (number, f"table inet percale, {where}")


def test_all_can_go_in_one_edit() -> None:
    gone = FULL.after(
        Edit(
            remove=(Elements("egress4", ONE),),
            remove_chains=("a", "b"),
            remove_sets=("pods", "ports", "map"),
        )
    )
    assert gone == BARE


def test_what_is_there_already_may_be_put() -> None:
    again = Edit(put_sets=(PODS,), put=(Elements("pods", ONE), Elements("map", ONE, TWO)))
    assert FULL.after(again) == FULL


def test_the_texts_chains_may_be_led_to() -> None:
    led = BARE.after(Edit(put_chains=(Chain("c", (Rule((), Verdict("jump", "policies"), ""),)),)))
    assert led.chains.keys() == {"c"}
