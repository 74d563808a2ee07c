"""Operations on the conntrack socket, which one dump keeps until all of it is read: a second one would wait for ever."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import Collection, Iterable, Iterator
from typing import cast

import pytest

from percale.agent.logging import LineLog
from percale.agent.metrics import Metrics
from percale.agent.policy.established_flows import FlowBlocker
from percale.agent.problems import Problems
from percale.kernel.netlink.conntrack import Conntrack, ConntrackEntry, Tuple
from percale.policy.evaluator import Evaluator

CLIENT, SERVER = b"\x0a\x01\x00\x02", b"\x0a\x02\x00\x02"


def flow(number: int) -> ConntrackEntry:
    protocol = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)[number % 2]
    there, back = Tuple(CLIENT, SERVER, protocol, number, 80), Tuple(SERVER, CLIENT, protocol, 80, number)
    return ConntrackEntry(there, back, status=0, mark=0, id=number, zone=0, name=b"")


class Table:
    """A conntrack table that refuses an operation in the middle of a dump."""

    def __init__(self, flows: int) -> None:
        self._flows = [flow(number) for number in range(flows)]
        self._dumping = False
        self.marked: list[ConntrackEntry] = []
        self.deleted: list[ConntrackEntry] = []

    def of(self, addresses: Collection[bytes]) -> Iterator[ConntrackEntry]:
        assert not self._dumping
        self._dumping = True
        yield from self._flows
        self._dumping = False

    def mark(self, flows: Iterable[ConntrackEntry], value: int, mask: int) -> list[OSError | None]:
        assert not self._dumping
        self.marked += flows
        return []

    def delete(self, flows: Iterable[ConntrackEntry]) -> list[OSError | None]:
        assert not self._dumping
        self.deleted += flows
        return []

    def close(self) -> None:
        pass


async def test_an_address_is_forgotten_while_flows_are_evaluated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("percale.agent.policy.established_flows._BATCH", 2)
    table, log = Table(7), LineLog("text", io.StringIO())
    problems = Problems(log)
    conntrack = cast("Conntrack", table)
    blocker = FlowBlocker("n1", Evaluator(()), conntrack, problems=problems, metrics=Metrics(), log=log)
    running = asyncio.create_task(blocker.run())
    await blocker.recheck(frozenset({SERVER}))
    await asyncio.gather(blocker.wait_idle(), *(blocker.forget(frozenset({SERVER})) for _ in range(3)))
    assert [each.id for each in table.marked] == [0, 2, 4, 6] * 3
    assert [each.id for each in table.deleted] == [1, 3, 5] * 3
    assert not list(problems.current)
    running.cancel()
    blocker.close()
