"""Terms, sets and chains are known by digests of what anybody may write: nobody can make theirs equal to another's."""

from __future__ import annotations

from percale.model.validation.formats import port_name
from percale.policy.rule_terms import digest
from percale.render.policy.class_chains import NamedPortsSet

_UNREACHABLE = 2**100
"""Tries."""


def test_a_digest_is_too_long_to_be_found_again() -> None:
    assert 16 ** len(digest("x")) > _UNREACHABLE


def test_a_port_cannot_be_named_like_the_digest_of_others() -> None:
    """A set of one port has its name, and one of several their digest."""
    several = NamedPortsSet(("http", "web"), 4)
    wanted = several.name.partition("-")[2]
    assert wanted == digest(*several.ports)
    assert list(port_name(wanted))
