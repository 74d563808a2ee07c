"""Hints that name the nearest known word."""

from __future__ import annotations

from percale.suggestion import did_you_mean, nearest, some_of, suggest


def test_the_nearest_word_in_any_case_as_it_is_spelled() -> None:
    assert nearest("podselector", ["podSelector", "policyTypes"]) == "podSelector"
    assert nearest("xyz", ["podSelector"]) is None
    assert nearest("port", ["name", "containerPort", "protocol"]) == "containerPort"
    assert nearest("port", ["nodePort", "hostPort", "ports"]) == "ports"


def test_hints() -> None:
    assert did_you_mean("nod1", ["node1"], prefix="node/") == "did you mean node/node1?"
    assert did_you_mean("nod1", []) is None
    assert suggest("ingres", ["ingress", "egress"]) == "did you mean ingress?"
    assert suggest("q", ["ingress", "egress"]) == "there are ingress, egress"


def test_some_of_what_is_known() -> None:
    assert some_of([]) is None
    assert some_of(["b", "a"]) == "there are a, b"
    assert some_of("gfedcba") == "there are a, b, c, d, e and 2 more"
