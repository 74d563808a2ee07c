"""What is shown of a connection that one node judges, or two."""

from __future__ import annotations

import signal
from contextlib import suppress

from msgspec.structs import replace

from percale.cli.lab.watch import interrupt_flag
from percale.kernel.nftables.trace import TracedVerdict
from percale.lab.watch import Name, VerdictMerger

A, B, OUTSIDE = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), bytes([192, 0, 2, 1])
NAMES = {A: Name("default/a", "node1"), B: Name("default/b", "node2")}
ALLOWED = TracedVerdict(A, B, 6, 40000, 80, True, ("np:default/a#egress[0]",))


def merger() -> VerdictMerger:
    return VerdictMerger(NAMES.get)


def test_two_nodes_verdicts_are_one_connection() -> None:
    there = merger()
    assert list(there.add("node1", ALLOWED, 0.0)) == []
    last = replace(ALLOWED, rules=("np:default/b#ingress[1]",))
    both = replace(ALLOWED, rules=("np:default/a#egress[0]", "np:default/b#ingress[1]"))
    assert list(there.add("node2", last, 0.1)) == [("node2", both)]
    assert list(there.expired(9.0)) == []


def test_the_source_s_rule_is_shown_whichever_node_is_read_first() -> None:
    there, without_policy = merger(), replace(ALLOWED, rules=())
    assert list(there.add("node2", without_policy, 0.0)) == []
    assert list(there.add("node1", ALLOWED, 0.1)) == [("node2", ALLOWED)]
    assert list(there.expired(9.0)) == []


def test_rules_are_in_the_order_of_the_packet_s_way() -> None:
    there, last = merger(), replace(ALLOWED, rules=("np:default/b#ingress[1]",))
    list(there.add("node2", last, 0.0))
    ((node, both),) = there.add("node1", ALLOWED, 0.1)
    assert (node, both.rules) == ("node2", ("np:default/a#egress[0]", "np:default/b#ingress[1]"))


def test_denied_at_the_destination_is_denied() -> None:
    there = merger()
    list(there.add("node1", ALLOWED, 0.0))
    ((node, judged),) = there.add("node2", replace(ALLOWED, allowed=False, rules=("no rule allows it",)), 0.1)
    assert (node, judged.allowed) == ("node2", False)


def test_denied_at_the_source_needs_no_other_word() -> None:
    denied = replace(ALLOWED, allowed=False)
    assert list(merger().add("node1", denied, 0.0)) == [("node1", denied)]


def test_a_node_that_stays_silent_is_not_waited_for_for_ever() -> None:
    there = merger()
    list(there.add("node1", ALLOWED, 0.0))
    assert list(there.expired(0.4)) == []
    assert list(there.expired(0.6)) == [("node1", ALLOWED)]


def test_what_leaves_the_cluster_or_stays_on_the_node_is_shown_at_once() -> None:
    outside = replace(ALLOWED, destination=OUTSIDE)
    assert list(merger().add("node1", outside, 0.0)) == [("node1", outside)]
    same_node = VerdictMerger({A: NAMES[A], B: Name("default/b", "node1")}.get)
    assert list(same_node.add("node1", ALLOWED, 0.0)) == [("node1", ALLOWED)]


def test_a_connection_that_is_tried_again_is_shown_once() -> None:
    there, denied = merger(), replace(ALLOWED, allowed=False)
    assert len(list(there.add("node1", denied, 0.0))) == 1
    assert list(there.add("node1", denied, 60.0)) == []
    assert len(list(there.add("node1", denied, 121.0))) == 1
    assert len(list(there.add("node1", replace(denied, source_port=40001), 121.0))) == 1


def test_an_interrupt_that_is_lost_on_its_way_ends_the_watch_all_the_same() -> None:
    former = signal.getsignal(signal.SIGINT)
    try:
        over = interrupt_flag()
        assert not over()
        with suppress(KeyboardInterrupt):  # as a finalizer does
            signal.raise_signal(signal.SIGINT)
        assert over()
    finally:
        signal.signal(signal.SIGINT, former)
