"""Operations on conntrack sockets, each of which one dump keeps until all of it is read; and who waits for whose flows."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from ipaddress import ip_address
from typing import cast

import pytest
from tests import builders
from tests.silent import silent_log

from percale.agent.metrics import Metrics
from percale.agent.policy.established_flows import EstablishedFlows, FlowBlocker, FlowUnblocker
from percale.agent.problems import Problems
from percale.kernel.netlink.conntrack import Conntrack, ConntrackEntry, Tuple
from percale.policy.evaluator import Evaluator

CLIENT, SERVER = b"\x0a\x01\x00\x02", b"\x0a\x02\x00\x02"


def flow(number: int) -> ConntrackEntry:
    protocol = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)[number % 2]
    there, back = Tuple(CLIENT, SERVER, protocol, number, 80), Tuple(SERVER, CLIENT, protocol, 80, number)
    return ConntrackEntry(there, back, status=0, mark=0, id=number, zone=0, name=b"")


class Table:
    """A socket to a conntrack table, which refuses an operation in the middle of a dump."""

    def __init__(self, flows: int, changes: dict[str, list[int]]) -> None:
        self._flows = [flow(number) for number in range(flows)]
        self._changes = changes
        self._dumping = False

    def of(self, addresses: Collection[bytes]) -> Iterator[ConntrackEntry]:
        assert not self._dumping
        self._dumping = True
        yield from self._flows
        self._dumping = False

    def mark(self, flows: Iterable[ConntrackEntry], value: int, mask: int) -> list[OSError | None]:
        assert not self._dumping
        self._changes.setdefault("mark", []).extend(each.id for each in flows)
        return []

    def delete(self, flows: Iterable[ConntrackEntry]) -> list[OSError | None]:
        assert not self._dumping
        self._changes.setdefault("delete", []).extend(each.id for each in flows)
        return []

    def close(self) -> None:
        pass


async def test_an_address_is_forgotten_while_flows_are_evaluated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("percale.agent.policy.established_flows._BATCH", 2)
    changes: dict[str, list[int]] = {}
    opened = cast("Callable[[], Conntrack]", lambda: Table(7, changes))
    log = silent_log()
    problems = Problems(log)
    blocker = FlowBlocker("n1", Evaluator(()), opened, problems=problems, metrics=Metrics(), log=log)
    running = asyncio.create_task(blocker.run())
    await blocker.recheck(frozenset({SERVER}))
    await asyncio.gather(blocker.wait_idle(), *(blocker.forget(frozenset({SERVER})) for _ in range(3)))
    assert sorted(changes["mark"]) == sorted([0, 2, 4, 6] * 3)
    assert sorted(changes["delete"]) == sorted([1, 3, 5] * 3)
    assert not list(problems.current)
    running.cancel()
    blocker.close()


class HeldTable(Table):
    """The dump of the first address waits until another one's is over."""

    def __init__(self, flows: int, changes: dict[str, list[int]], over: threading.Event) -> None:
        super().__init__(flows, changes)
        self._over = over

    def of(self, addresses: Collection[bytes]) -> Iterator[ConntrackEntry]:
        if CLIENT in addresses:
            assert self._over.wait(timeout=30)
        yield from super().of(addresses)
        self._over.set()


@pytest.mark.parametrize("established", ["cut", "keep"])
async def test_nobody_waits_for_the_many_flows_of_anothers_address(established: str) -> None:
    changes: dict[str, list[int]] = {}
    over = threading.Event()
    opened = cast("Callable[[], Conntrack]", lambda: HeldTable(2, changes, over))
    log = silent_log()
    problems = Problems(log)
    flows: EstablishedFlows = FlowUnblocker(opened, problems)
    if established == "cut":
        flows = FlowBlocker("n1", Evaluator(()), opened, problems=problems, metrics=Metrics(), log=log)
    await asyncio.gather(flows.forget(frozenset({CLIENT})), flows.forget(frozenset({SERVER})))
    assert changes == {"mark": [0, 0], "delete": [1, 1]}
    flows.close()


class Flows:
    """A table of flows between two pods of each namespace."""

    def __init__(self, flows: Iterable[ConntrackEntry], marked: list[tuple[bytes, int]]) -> None:
        self._flows = list(flows)
        self._marked = marked

    def of(self, addresses: Collection[bytes]) -> Iterator[ConntrackEntry]:
        return (each for each in self._flows if not {each.client, each.server}.isdisjoint(addresses))

    def mark(self, flows: Iterable[ConntrackEntry], value: int, mask: int) -> list[OSError | None]:
        self._marked += [(each.server, each.server_port) for each in flows]
        return []

    def close(self) -> None:
        pass


async def test_many_flows_of_a_policy_with_many_rules_delay_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are evaluated too, in turns with everything else."""
    monkeypatch.setattr("percale.agent.policy.established_flows._MOST_COMPARISONS", 1000)
    evaluator = Evaluator(())
    servers = {"heavy": ip_address("10.1.0.1").packed, "light": ip_address("10.1.0.3").packed}
    for namespace, address in servers.items():
        evaluator.put(builders.pod("server", str(ip_address(address)), namespace=namespace, node="n1"))
        ports = [{"ports": [{"port": port}]} for port in range(1, 101 if namespace == "heavy" else 2)]
        evaluator.put(builders.policy("p", namespace=namespace, ingress=ports))
    marked: list[tuple[bytes, int]] = []
    flows = [
        ConntrackEntry(Tuple(CLIENT, server, 6, 1234, port), Tuple(server, CLIENT, 6, port, 1234), 0, 0, port, 0, b"")
        for server in servers.values()
        for port in range(2000, 2300)
    ]
    log = silent_log()
    problems = Problems(log)
    opened = cast("Callable[[], Conntrack]", lambda: Flows(flows, marked))
    blocker = FlowBlocker("n1", evaluator, opened, problems=problems, metrics=Metrics(), log=log)
    running = asyncio.create_task(blocker.run())
    await blocker.recheck(None)
    await blocker.wait_idle()
    assert set(marked) == {(server, port) for server in servers.values() for port in range(2000, 2300)}
    own = [number for number, (server, _) in enumerate(marked) if server == servers["light"]]
    assert own[-1] < 320, "what is within the limit comes first"
    running.cancel()
    blocker.close()
