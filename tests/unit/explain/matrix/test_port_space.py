"""All ports at once, in pieces: the cuts, and what a set of pieces is called."""

from __future__ import annotations

import pytest

from percale.explain.matrix.port_space import Piece, PortSpace
from percale.policy.rule_terms import PortSpan

SPACE = PortSpace(
    [PortSpan("TCP", 80, 80), PortSpan("TCP", 81, 81), PortSpan("TCP", 8000, 8099), PortSpan("UDP", 53, 53)]
)
EVERY_TCP = PortSpan("TCP")


def test_the_space_is_cut_where_somebody_names_a_port() -> None:
    tcp = [(piece.first, piece.last) for piece in SPACE.pieces if piece.protocol == "TCP"]
    assert tcp == [(1, 79), (80, 80), (81, 81), (82, 7999), (8000, 8099), (8100, 65535)]
    assert [piece for piece in SPACE.pieces if piece.protocol in ("SCTP", "ICMP")] == [
        Piece("SCTP", 1, 65535),
        Piece("ICMP", None, None),
    ]


def test_the_first_and_the_last_port_are_cuts_too() -> None:
    space = PortSpace([PortSpan("TCP", 1, 1), PortSpan("TCP", 65535, 65535)])
    assert space.text(space.span(PortSpan("TCP", 1, 1))) == "TCP 1"
    assert space.text(space.span(PortSpan("TCP", 65535, 65535))) == "TCP 65535"


@pytest.mark.parametrize(
    ("spans", "text"),
    [
        ([], "none"),
        ([PortSpan("TCP", 80, 80)], "TCP 80"),
        ([PortSpan("TCP", 81, 81), PortSpan("TCP", 80, 80)], "TCP 80-81"),
        ([PortSpan("TCP", 80, 80), PortSpan("TCP", 8000, 8099), PortSpan("UDP", 53, 53)], "TCP 80,8000-8099; UDP 53"),
        ([EVERY_TCP], "TCP"),
        ([EVERY_TCP, PortSpan("UDP"), PortSpan("SCTP")], "all but ICMP"),
        ([PortSpan("ICMP")], "ICMP"),
        ([EVERY_TCP, PortSpan("UDP"), PortSpan("SCTP"), PortSpan("ICMP")], "all"),
    ],
)
def test_a_set_is_called_by_its_ranges(spans: list[PortSpan], text: str) -> None:
    ports = 0
    for span in spans:
        ports |= SPACE.span(span)
    assert SPACE.text(ports) == text


def test_what_is_nearly_everything_is_said_by_what_is_missing() -> None:
    assert SPACE.text(SPACE.all ^ SPACE.span(PortSpan("TCP", 80, 80))) == "all but TCP 80"
