"""Who is asked, and when a gateway counts as silent."""

from __future__ import annotations

import io
import os
from ipaddress import IPv4Address, IPv6Address

import pytest

from percale.agent.logging import LineLog
from percale.agent.network.peer_probes import PER_TICK, REGULAR, SILENT_AFTER, PeerProbes
from percale.model.addresses import IPAddress

NEAR, FAR = IPv4Address("192.168.0.2"), IPv6Address("fd00:0:0:3::")


class FakeEcho:
    """Answers for those who are there, when its descriptor is read."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.there: set[IPAddress] = set()
        self.sent: list[IPAddress] = []
        self._replies: list[int] = []

    def fileno(self) -> int:
        return self.reader

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)

    def send(self, address: IPAddress, sequence: int) -> None:
        self.sent.append(address)
        if address in self.there:
            self._replies.append(sequence)

    def replies(self) -> list[int]:
        replies, self._replies = self._replies, []
        return replies


class World:
    """Probes of which the test is the clock."""

    def __init__(self) -> None:
        self.echo = FakeEcho()
        self.told: list[tuple[str, tuple[IPAddress, ...]]] = []
        self.log = io.StringIO()
        self.probes = PeerProbes(LineLog("text", self.log), open_echo=lambda _version: self.echo)
        self.probes.on_silent = lambda silent: self.told.extend(silent.items())

    def seconds(self, number: int) -> list[tuple[str, tuple[IPAddress, ...]]]:
        """What is told in so many seconds."""
        self.told.clear()
        for _ in range(number):
            self.probes.ask()
            self.probes._on_replies(self.echo)
        return self.told


@pytest.fixture
async def world() -> World:
    return World()


async def test_a_gateway_is_silent_after_three_unanswered_requests_and_answers_with_the_first(world: World) -> None:
    world.echo.there = {NEAR, FAR}
    world.probes.set_targets("b", (NEAR, FAR))
    assert world.seconds(10) == []
    assert len(world.echo.sent) == 4, "each every five seconds"
    world.echo.there = {NEAR}
    assert world.seconds(SILENT_AFTER) == []
    assert world.seconds(1) == [("b", (FAR,))]
    world.echo.there = set()
    assert world.seconds(REGULAR + SILENT_AFTER) == [("b", (NEAR, FAR))]
    assert world.seconds(10) == []
    world.echo.there = {NEAR, FAR}
    assert world.seconds(REGULAR) == [("b", ())]


async def test_one_lost_request_is_nothing(world: World) -> None:
    world.echo.there = {NEAR}
    world.probes.set_targets("b", (NEAR,))
    for _ in range(SILENT_AFTER + 2):
        world.echo.there = set()
        assert world.seconds(SILENT_AFTER - 1) == []
        world.echo.there = {NEAR}
        assert world.seconds(REGULAR - SILENT_AFTER + 1) == []


async def test_many_peers_are_asked_in_turn_and_who_did_not_answer_at_once_again(world: World) -> None:
    peers = {f"n{number}": IPv4Address(f"10.0.{number >> 8}.{number & 255}") for number in range(1000)}
    for name, address in peers.items():
        world.probes.set_targets(name, (address,))
    world.echo.there = set(peers.values())
    world.seconds(len(peers) // PER_TICK)
    assert sorted(world.echo.sent) == sorted(peers.values())
    world.echo.there.discard(peers["n0"])
    assert world.seconds(1 + SILENT_AFTER) == [("n0", (peers["n0"],))]


async def test_a_peer_that_leaves_is_not_asked_any_more(world: World) -> None:
    world.probes.set_targets("b", (NEAR, FAR))
    world.seconds(2)
    world.probes.set_targets("b", (NEAR,))
    world.probes.set_targets("c", (FAR,))
    assert world.seconds(2) == [("b", (NEAR,))]
    world.probes.set_targets("b", ())
    world.echo.sent.clear()
    world.seconds(REGULAR)
    assert set(world.echo.sent) == {FAR}


async def test_without_the_capability_nobody_is_silent() -> None:
    world = World()

    def forbidden(_version: int) -> FakeEcho:
        raise PermissionError(1, "Operation not permitted")

    world.probes = PeerProbes(LineLog("text", world.log), open_echo=forbidden)
    world.probes.on_silent = lambda silent: world.told.extend(silent.items())
    world.probes.set_targets("b", (NEAR,))
    assert world.seconds(10) == []
    assert world.log.getvalue().count("peers are not probed  version=4 reason=") == 1
