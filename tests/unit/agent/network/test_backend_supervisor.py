"""A backend's process is configured for every change, and what is wrong with it is a problem until it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest_asyncio
from tests.silent import silent_problems

from percale.agent.network.backend_supervisor import BACKEND, BackendSupervisor
from percale.backend.protocol import LocalNode
from percale.errors import StateError
from percale.model.subnet_lease import SubnetLease, SubnetLeaseSpec, make_lease

LEASE = make_lease(SubnetLeaseSpec(node="n2"))


class World:
    """A process that does nothing, and its supervisor."""

    interval = 0.01

    def __init__(self) -> None:
        self.node = LocalNode("n1", {}, frozenset())
        self.leases: list[SubnetLease] = []
        self.broken: StateError | None = None
        self.configured: asyncio.Queue[tuple[str, list[SubnetLease]]] = asyncio.Queue()
        self.checked = asyncio.Event()
        self.problems = silent_problems()
        self.supervisor = BackendSupervisor(self, lambda: self.node, lambda: self.leases, self.problems)

    async def ensure(self, node: LocalNode, leases: Sequence[SubnetLease]) -> None:
        self.configured.put_nowait((node.name, list(leases)))

    async def check(self) -> None:
        self.checked.set()
        if self.broken is not None:
            raise self.broken

    async def stop(self) -> None:
        raise AssertionError("it outlives the agent")

    async def round(self) -> str | None:
        """The problem after the next check."""
        for _ in range(2):
            self.checked.clear()
            await asyncio.wait_for(self.checked.wait(), 5)
        problem = self.problems.current.get(BACKEND)
        return problem.error if problem is not None else None


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    task = asyncio.create_task(world.supervisor.run())
    yield world
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_change_of_peers_reaches_it(world: World) -> None:
    assert await world.configured.get() == ("n1", [])
    world.leases.append(LEASE)
    world.supervisor.request_sync()
    async with asyncio.timeout(5):
        while await world.configured.get() != ("n1", [LEASE]):
            pass


async def test_its_error_is_a_problem_until_it_is_over(world: World) -> None:
    assert await world.round() is None
    world.broken = StateError("the process has ended")
    assert await world.round() == "the process has ended"
    world.broken = None
    assert await world.round() is None
