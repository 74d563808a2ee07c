"""The builders' frames are what a kernel takes for valid."""

from __future__ import annotations

import pytest
from tests.kernel.adversary import frames


def test_checksums_are_right() -> None:
    """Over all of it, with the pseudo header, a right checksum sums up to zero."""
    sent = frames.packet("10.0.0.1", "10.0.0.2", frames.udp(1, 2, b"odd"))
    assert frames.checksum(sent[:20]) == 0
    assert frames.checksum(sent[12:20] + bytes((0, 0, 0, 11, 0, 0, 0, 17)) + sent[20:]) == 0
    sent = frames.packet("fd00::1", "fd00::2", frames.echo(6, b"odd"))
    assert frames.checksum(sent[8:40] + bytes((0, 0, 0, 11, 0, 0, 0, 58)) + sent[40:]) == 0


def test_a_tag_stands_between_the_addresses_and_the_type() -> None:
    frame = frames.arp(frames.ASK, "02:00:00:00:00:01", "10.0.0.1", "10.0.0.2")
    double = frames.tagged(frames.tagged(frame, 7), 0, frames.SERVICE_VLAN)
    assert double[12:22] == bytes.fromhex("88a8 0000 8100 0007 0806")
    assert double[:12] + double[20:] == frame


@pytest.mark.parametrize("words", [1, 2, 32, 40])
def test_options_have_the_length_that_they_say(words: int) -> None:
    made = frames.options(words=words)
    assert len(made.body) + 1 == 8 * words == 8 * (made.body[0] + 1)
    at = 1
    while at < len(made.body):
        at += 2 + made.body[at + 1]
    assert at == len(made.body)


def test_neighbour_discovery_has_its_sizes() -> None:
    mac = "02:00:00:00:00:01"
    assert len(frames.neighbour_solicitation("fd00::1").body) == 24
    assert len(frames.neighbour_advertisement("fd00::1", mac).body) == 32
    assert len(frames.router_solicitation(mac).body) == 16
    assert len(frames.router_advertisement(mac, prefix="fd00::").body) == 16 + 8 + 32
    assert frames.solicited_node("fd00::12:3456") == ("ff02::1:ff12:3456", "33:33:ff:12:34:56")
    assert frames.link_local(mac) == "fe80::ff:fe00:1"
