"""Edits as messages: what is written is what the kernel tells, so both ways are tested against each other."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.snapshots import snapshot

from percale.errors import KernelError
from percale.kernel.netlink.socket import attribute_list, attributes, string
from percale.kernel.nftables import batch, bulk_elements, expressions, rule_codec, set_codec
from percale.kernel.nftables.messages import (
    DELCHAIN,
    DELRULE,
    DELSET,
    DELSETELEM,
    NEWCHAIN,
    NEWRULE,
    NEWSET,
    NEWSETELEM,
)
from percale.model.ip_family import Family
from percale.render.nft.objects import (
    Between,
    Chain,
    Dnat,
    ElementBatch,
    Equals,
    InSet,
    MapUpdate,
    Operand,
    Rule,
    SetMark,
    SetSpec,
    SlotExpr,
    Transaction,
    Verdict,
)
from percale.render.nft.table_state import TableState
from percale.render.policy.base_chains import SET_SPECS

PODS = SetSpec("pods", ("ipv4_addr",), comment="pods of a selector")
KEPT = SetSpec("kept", ("ipv4_addr", "inet_service"), data=("ipv4_addr",), timeout=10_800)
seeds = st.integers(0, 100_000)

RULES = (
    Rule((), Verdict("drop"), "np:a/b: nothing allows it", counter=True),
    Rule((), None, ""),
    Rule((Equals("l4proto", 6), Between("th dport", 80, 90)), Verdict("return"), "é" * 60),
    Rule((Equals("ip saddr", 1), Equals("ip daddr", 2)), Verdict("goto", "there"), "one family, looked at once"),
    Rule((Between("ip6 saddr", 1 << 127, (1 << 128) - 1),), Verdict("jump", "there"), "six"),
    Rule((InSet(("ip6 daddr", "l4proto", "th dport"), "named"),), Verdict("accept"), "a concatenation"),
    Rule((InSet(("ip saddr", "ip daddr"), "self"), Equals("th sport", 7)), Verdict("return"), "two"),
    Rule((Equals("l4proto", 17), Equals("original dport", 53)), Verdict("accept"), "before translation"),
    Rule((), None, "marks", statements=(SetMark(0x4000), SetMark(0x8000_0000))),
    Rule((), None, "by chance", statements=(Dnat(Family.IPV4, ("ip daddr", "th dport"), "to", SlotExpr("random", 3)),)),
    Rule((), None, "by turns", statements=(Dnat(Family.IPV6, ("ip6 daddr", "th dport"), "to", SlotExpr("inc", 200)),)),
    Rule((), None, "by hash", statements=(Dnat(Family.IPV4, ("ip daddr", "l4proto"), "to", SlotExpr("source", 9)),)),
    Rule(
        (),
        None,
        "by hash, IPv6",
        statements=(Dnat(Family.IPV6, ("ip6 daddr", "l4proto"), "to", SlotExpr("source", 9)),),
    ),
    Rule((), None, "as it was", statements=(Dnat(Family.IPV6, ("ip6 saddr", "ip6 daddr", "th dport"), "kept"),)),
    Rule(
        (InSet(("ip daddr",), "some"),),
        Verdict("accept"),
        "remembers",
        statements=(MapUpdate("kept", ("ip6 saddr", "ip6 daddr", "l4proto"), ("ip6 daddr", "th dport")), SetMark(1)),
    ),
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.comment[:20])
def test_a_rule_is_read_back_as_it_was_written(rule: Rule) -> None:
    assert rule_codec.decode(rule_codec.encode(rule), rule_codec.encode_comment(rule.comment)) == rule


def test_every_operand_is_known() -> None:
    assert expressions.FIELDS.keys() == set(get_args(Operand))


def test_no_two_rules_look_alike() -> None:
    assert len({rule_codec.encode(rule) + rule_codec.encode_comment(rule.comment) for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.comment[:20])
def test_a_rule_that_says_more_or_less_is_none_of_ours(rule: Rule) -> None:
    written, comment = rule_codec.encode(rule), rule_codec.encode_comment(rule.comment)
    more = rule_codec.encode(Rule((InSet(("l4proto",), "x"),), None, ""))
    entries = [entry for _, entry in attribute_list(written)]
    assert rule_codec.decode(more + written, comment) != rule
    assert rule_codec.decode(written, comment + b"\7\1\0") is None
    assert not entries or rule_codec.decode(written[: -len(entries[-1]) - 4], comment) != rule
    assert rule_codec.decode(b"\x0c\0\1\0\x08\0\1\0abc\0" + written, comment) is None


@pytest.mark.parametrize("packets", [0, 1, 1 << 40])
def test_what_a_rule_has_counted_makes_no_difference(packets: int) -> None:
    rule = RULES[0]
    written = rule_codec.encode(rule)
    zero = bytes(8)
    assert written.count(zero) == 2
    told = written.replace(zero, packets.to_bytes(8, "big"))
    assert rule_codec.decode(told, rule_codec.encode_comment(rule.comment)) == rule


# Elements


def _told(spec: SetSpec, elements: list[ElementBatch]) -> Iterator[bytes]:
    for part in elements:
        yield from bulk_elements.lists(spec, part, data=True)


@given(seeds)
def test_elements_are_read_back_as_they_were_written(seed: int) -> None:
    wanted = snapshot(seed, sets=10)
    state = TableState.bare(SET_SPECS).apply(wanted)
    for name, (spec, contents) in state.sets.items():
        assert spec is not None
        portions = _told(spec, [part for part in wanted.put if part.set == name])
        assert bulk_elements.read(spec, portions) == contents


@given(seeds)
def test_elements_are_read_back_one_by_one_too(seed: int) -> None:
    wanted = snapshot(seed, sets=10)
    state = TableState.bare(SET_SPECS).apply(wanted)
    with_comment = b"\x0a\0\6\0hello\0\0\0"
    for name, (spec, contents) in state.sets.items():
        assert spec is not None
        entries = [
            entry
            for portion in _told(spec, [part for part in wanted.put if part.set == name])
            for _, entry in attribute_list(portion)
        ]
        told = b"".join(struct.pack("=HH", 4 + len(entry) + 12, 1) + entry + with_comment for entry in entries)
        assert bulk_elements.read(spec, [told]) == contents


def test_an_element_that_stands_for_all_others_is_noticed() -> None:
    star = b"\x0c\0\1\0\x08\0\3\0\0\0\0\2"
    with pytest.raises(bulk_elements.CatchAllElementError):
        bulk_elements.read(SET_SPECS[0], [star])


def test_many_elements_are_many_messages_and_no_attribute_is_too_long() -> None:
    count = 10_000
    keys = b"".join(number.to_bytes(4, "big") for number in range(count))
    made = batch.encode_transaction(Transaction(put_sets=(PODS,), put=(ElementBatch("pods", keys),)), {})
    lists = [attributes(request.body, 4)[3] for request in made.requests if request.type & 0xFF == NEWSETELEM]
    assert len(lists) > 1
    assert max(map(len, lists)) <= bulk_elements.MOST_BYTES
    assert bulk_elements.read(PODS, lists) == dict.fromkeys(keys[at : at + 4] for at in range(0, 4 * count, 4))


@pytest.mark.parametrize(
    "elements",
    [
        ElementBatch("pods", b"abc"),
        ElementBatch("pods", b"abcd", data=b"abcd"),
        ElementBatch("pods", b"abcd", verdict=Verdict("drop")),
        ElementBatch("unknown", b"abcd"),
        ElementBatch("egress4", b"abcd"),
        ElementBatch("kept", b"abcdefgh", data=b"abc"),
    ],
)
def test_elements_that_do_not_fit_their_set_are_refused(elements: ElementBatch) -> None:
    known = {spec.name: spec for spec in (PODS, KEPT, *SET_SPECS)}
    with pytest.raises(KernelError, match=f"set {elements.set}"):
        batch.encode_transaction(Transaction(put=(elements,)), known)


# Sets


@given(seeds)
def test_a_shape_is_read_back_as_it_was_written(seed: int) -> None:
    for spec in (*snapshot(seed).put_sets, PODS, KEPT):
        told = attributes(set_codec.encode(spec, 1))
        assert set_codec.decode(string(told[2]), told) == spec


def test_a_shape_that_we_never_make_is_none_of_ours() -> None:
    told = attributes(set_codec.encode(PODS, 1))
    assert set_codec.decode("pods", {**told, 4: (41).to_bytes(4, "big")}) is None
    assert set_codec.decode("pods", {**told, 5: (16).to_bytes(4, "big")}) is None
    assert set_codec.decode("pods", {**told, 3: (0x10).to_bytes(4, "big")}) is None


# Order


def test_the_order_is_one_that_the_kernel_takes() -> None:
    transaction = Transaction(
        put_sets=(PODS, KEPT),
        remove=(ElementBatch("egress4", b"abcd"),),
        put_chains=(Chain("new", (RULES[0],)), Chain("hooked", ())),
        put=(ElementBatch("egress4", b"abcd", verdict=Verdict("jump", "new")),),
        remove_chains=("old", "hooked"),
        remove_sets=("pods", "old"),
    )
    made = batch.encode_transaction(transaction, {spec.name: spec for spec in SET_SPECS})
    told = [(request.type & 0xFF, concern) for request, concern in zip(made.requests, made.concerns, strict=True)]
    assert told == [
        (NEWCHAIN, "chain new"),
        (DELRULE, "chain new"),
        (DELRULE, "chain old"),
        (DELRULE, "chain hooked"),
        (DELSETELEM, "set egress4"),
        (DELSET, "set pods"),
        (DELCHAIN, "chain hooked"),
        (NEWCHAIN, "chain hooked"),
        (NEWSET, "set pods"),
        (NEWSET, "set kept"),
        (NEWRULE, "chain new, rule 'np:a/b: nothing allows it'"),
        (NEWSETELEM, "set egress4"),
        (DELSET, "set old"),
        (DELCHAIN, "chain old"),
    ]
