"""The table as a value: edits as the kernel takes them, and the edit between any two tables."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.snapshots import snapshot

from percale.errors import KernelError
from percale.render.nft.objects import Chain, ElementBatch, InSet, Rule, SetSpec, Transaction, Verdict
from percale.render.nft.table_state import SetState, TableState, diff
from percale.render.policy.base_chains import SET_SPECS

BARE = TableState.bare(SET_SPECS, ("policies",))
PODS = SetSpec("pods", ("ipv4_addr",))
PORTS = SetSpec("ports", ("inet_service",), interval=True)
MAP = SetSpec("map", ("ipv4_addr",), data=("ipv4_addr",))
ONE, TWO, THREE = b"\x0a\0\0\1", b"\x0a\0\0\2", b"\x0a\0\0\3"
DROP, ACCEPT = Verdict("drop"), Verdict("accept")
LOOKS = Rule((InSet(("ip saddr",), "pods"),), DROP, "looks")

seeds = st.integers(0, 100_000)


@given(seeds, seeds)
def test_the_difference_makes_any_table_any_other_table(before: int, after: int) -> None:
    old, new = BARE.apply(snapshot(before)), BARE.apply(snapshot(after))
    assert old.apply(diff(old, snapshot(after))) == new


@given(seeds)
def test_a_table_that_is_right_needs_nothing(seed: int) -> None:
    assert not diff(BARE.apply(snapshot(seed)), snapshot(seed))


@given(seeds)
def test_the_difference_changes_only_what_is_wrong(seed: int) -> None:
    wanted = snapshot(seed, sets=12)
    state = BARE.apply(wanted)
    for name, (spec, contents) in state.sets.items():
        if contents:
            first = next(iter(contents))
            without = {key: value for key, value in contents.items() if key != first}
            wrong = replace(state, sets={**state.sets, name: SetState(spec, without)})
            found = diff(wrong, wanted)
            assert [(part.set, part.packed_keys) for part in found.put] == [(name, first)]
            assert replace(found, put=()) == Transaction()


def test_what_others_made_goes() -> None:
    strange = replace(
        BARE,
        sets={**BARE.sets, "theirs": SetState(None, {})},
        chains={"rules": (None,), "hooked": None, "ours": (LOOKS, None)},
    )
    wanted = Transaction(put_sets=(PODS,), put_chains=(Chain("ours", (LOOKS,)), Chain("hooked", ())))
    found = diff(strange, wanted)
    assert found.remove_sets == ("theirs",)
    assert found.remove_chains == ("hooked", "rules")
    assert {chain.name for chain in found.put_chains} == {"ours", "hooked"}
    assert strange.apply(found) == BARE.apply(wanted)


def test_rules_that_look_into_a_set_that_is_made_anew_are_written_again() -> None:
    state = BARE.apply(
        Transaction(put_sets=(replace(PODS, key=("ipv6_addr",)),), put_chains=(Chain("ours", (LOOKS,)),))
    )
    found = diff(state, Transaction(put_sets=(PODS,), put_chains=(Chain("ours", (LOOKS,)),)))
    assert (found.remove_sets, found.put_sets) == (("pods",), (PODS,))
    assert [chain.name for chain in found.put_chains] == ["ours"]


def test_an_element_gets_its_new_data_when_it_is_removed_and_put() -> None:
    state = BARE.apply(Transaction(put_sets=(MAP,), put=(ElementBatch("map", ONE + TWO, TWO + TWO),)))
    found = diff(state, Transaction(put_sets=(MAP,), put=(ElementBatch("map", ONE + TWO, TWO + THREE),)))
    assert found == Transaction(remove=(ElementBatch("map", TWO),), put=(ElementBatch("map", TWO, THREE),))


def test_a_map_that_packets_fill_is_left_alone() -> None:
    kept = SetSpec("kept", ("ipv4_addr",), data=("ipv4_addr",), timeout=60)
    state = BARE.apply(Transaction(put_sets=(kept,)))
    assert not diff(state, Transaction(put_sets=(kept,)))


FULL = BARE.apply(
    Transaction(
        put_sets=(PODS, PORTS, MAP),
        put_chains=(Chain("a", (Rule((), Verdict("jump", "b"), ""),)), Chain("b", (LOOKS,))),
        put=(
            ElementBatch("pods", ONE),
            ElementBatch("ports", b"\0\5\0\0\0\7\0\0"),
            ElementBatch("map", ONE, TWO),
            ElementBatch("egress4", ONE, verdict=Verdict("jump", "a")),
        ),
    )
)


@pytest.mark.parametrize(
    ("transaction", "number", "where"),
    [
        (Transaction(remove=(ElementBatch("pods", TWO),)), errno.ENOENT, "set pods"),
        (Transaction(remove=(ElementBatch("nope", TWO),)), errno.ENOENT, "set nope"),
        (Transaction(put=(ElementBatch("nope", TWO),)), errno.ENOENT, "set nope"),
        (Transaction(put=(ElementBatch("pods", TWO[:3]),)), errno.EINVAL, "set pods"),
        (Transaction(put=(ElementBatch("map", ONE, THREE),)), errno.EEXIST, "set map"),
        (Transaction(put=(ElementBatch("map", TWO),)), errno.EINVAL, "set map"),
        (Transaction(put=(ElementBatch("egress4", ONE, verdict=DROP),)), errno.EEXIST, "set egress4"),
        (Transaction(put=(ElementBatch("egress4", TWO, verdict=Verdict("jump", "nope")),)), errno.ENOENT, "chain nope"),
        (Transaction(put=(ElementBatch("egress4", TWO),)), errno.EINVAL, "set egress4"),
        (Transaction(put=(ElementBatch("ports", b"\0\6\0\0\0\x09\0\0"),)), errno.EEXIST, "set ports"),
        (Transaction(put_sets=(replace(PODS, key=("ipv6_addr",)),)), errno.EEXIST, "set pods"),
        (Transaction(put_chains=(Chain("c", (Rule((), Verdict("goto", "nope"), ""),)),)), errno.ENOENT, "chain nope"),
        (Transaction(put_chains=(Chain("c", (Rule((InSet(("l4proto",), "x"),), DROP, ""),)),)), errno.ENOENT, "set x"),
        (Transaction(remove_chains=("a",)), errno.EBUSY, "chain a"),
        (Transaction(remove_chains=("b",)), errno.EBUSY, "chain b"),
        (Transaction(remove_chains=("nope",)), errno.ENOENT, "chain nope"),
        (Transaction(remove_sets=("pods",)), errno.EBUSY, "set pods"),
        (Transaction(remove_sets=("egress4",)), errno.EBUSY, "set egress4"),
        (Transaction(remove_sets=("nope",)), errno.ENOENT, "set nope"),
    ],
)
def test_what_the_kernel_would_refuse_is_refused(transaction: Transaction, number: int, where: str) -> None:
    with pytest.raises(KernelError) as caught:
        FULL.apply(transaction)
    assert (caught.value.errno, caught.value.where) == (number, f"table inet percale, {where}")


def test_all_can_go_in_one_edit() -> None:
    gone = FULL.apply(
        Transaction(
            remove=(ElementBatch("egress4", ONE),), remove_chains=("a", "b"), remove_sets=("pods", "ports", "map")
        )
    )
    assert gone == BARE


def test_what_is_there_already_may_be_put() -> None:
    again = Transaction(put_sets=(PODS,), put=(ElementBatch("pods", ONE), ElementBatch("map", ONE, TWO)))
    assert FULL.apply(again) == FULL


def test_the_texts_chains_may_be_led_to() -> None:
    led = BARE.apply(Transaction(put_chains=(Chain("c", (Rule((), Verdict("jump", "policies"), ""),)),)))
    assert led.chains.keys() == {"c"}
