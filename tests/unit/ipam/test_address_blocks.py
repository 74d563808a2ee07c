"""Blocks are one node's each, whatever the order of steps and whoever ends in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Network, ip_network
from itertools import combinations
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percale.errors import AddressRefused, NetworkFull
from percale.ipam.address_blocks import claim_block, claim_given, release_block
from percale.ipam.ip_pools import Pool
from percale.model.addresses import IPNetwork
from percale.model.ip_pool import AddressBlock, IPPoolSpec, make_block
from percale.model.meta import Object, ObjectKey
from percale.store.memory import MemoryStore
from percale.store.protocol import Event

T = TypeVar("T", bound=Object)


def pool(cidr: str = "10.245.0.0/28", block_size: int = 30) -> Pool:
    return Pool.of("p", IPPoolSpec(cidr=cidr, blockSize=block_size))


class Ended(BaseException):
    """The agent is killed."""


class InTurns:
    """A store in which each operation waits for its turn; `give_turns` gives them."""

    def __init__(self) -> None:
        self.hosts = ()
        self.inner = MemoryStore()
        self._waiting: list[asyncio.Future[None]] = []

    async def _turn(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        await turn

    async def list(self, kind: type[T]) -> list[T]:
        await self._turn()
        return await self.inner.list(kind)

    async def get(self, kind: type[T], key: ObjectKey) -> T | None:
        await self._turn()
        return await self.inner.get(kind, key)

    def watch(self, *kinds: type[Object], isolate: bool = False) -> AsyncIterator[Event]:
        return self.inner.watch(*kinds, isolate=isolate)

    async def put(self, obj: T, *, expect: str | None = None, ttl: float | None = None) -> T:
        await self._turn()
        return await self.inner.put(obj, expect=expect, ttl=ttl)

    async def delete(self, kind: type[Object], key: ObjectKey, *, expect: str | None = None) -> None:
        await self._turn()
        await self.inner.delete(kind, key, expect=expect)

    async def close(self) -> None:
        await self.inner.close()

    async def give_turns(self, choices: Iterator[int]) -> None:
        while True:
            await asyncio.sleep(0)
            self._waiting = [each for each in self._waiting if not each.done()]
            if self._waiting:
                self._waiting.pop(next(choices) % len(self._waiting)).set_result(None)


async def node_life(store: InTurns, name: str, mine: Pool, held: list[IPNetwork], crash_after: int) -> None:
    """Claims two blocks; in between the agent ends once, after so many steps, and starts again with what it held."""
    steps = 0

    class Mortal(InTurns):
        async def _turn(self) -> None:
            nonlocal steps
            await store._turn()
            steps += 1
            if steps == crash_after:
                raise Ended

    mortal = Mortal()
    mortal.inner = store.inner
    while len(held) < 2:
        try:
            held.append(await claim_block(mortal, mine, name, held=held))
        except Ended:
            continue
        except NetworkFull:
            return


@given(
    turns=st.lists(st.integers(0, 5), max_size=80),
    sizes=st.lists(st.sampled_from((28, 29, 30, 31)), min_size=2, max_size=3),
    crashes=st.lists(st.integers(0, 8), min_size=3, max_size=3),
)
def test_no_two_nodes_have_one_address(turns: list[int], sizes: list[int], crashes: list[int]) -> None:
    """Also where they see the pool with other sizes of blocks."""

    async def run() -> None:
        store = InTurns()
        held: dict[str, list[IPNetwork]] = {f"n{number}": [] for number in range(len(sizes))}
        lives = [
            node_life(store, name, pool(block_size=size), mine, crash)
            for (name, mine), size, crash in zip(held.items(), sizes, crashes, strict=False)
        ]

        def choices() -> Iterator[int]:
            yield from turns
            while True:
                yield 0

        turning = asyncio.create_task(store.give_turns(choices()))
        await asyncio.wait_for(asyncio.gather(*lives), 20)
        turning.cancel()
        all_held = [(name, block) for name, mine in held.items() for block in mine]
        for (_, one), (_, other) in combinations(all_held, 2):
            assert not one.overlaps(other)
        stored = {block.network: block.spec.node for block in await store.inner.list(AddressBlock)}
        for name, block in all_held:
            assert stored[block] == name

    asyncio.run(run())


def test_a_claim_that_was_cut_short_is_finished() -> None:
    async def run() -> None:
        store = MemoryStore()
        first = await claim_block(store, pool(), "n1")
        assert await claim_block(store, pool(), "n1", held=()) == first
        assert await claim_block(store, pool(), "n1", held=[first]) != first

    asyncio.run(run())


def test_a_full_pool_says_so() -> None:
    async def run() -> None:
        store = MemoryStore()
        held: list[IPNetwork] = []
        for _ in range(4):
            held.append(await claim_block(store, pool(), "n1", held=held))
        assert set(held) == set(ip_network("10.245.0.0/28").subnets(new_prefix=30))
        with pytest.raises(NetworkFull, match="IP pool p has no free block of /30"):
            await claim_block(store, pool(), "n2")
        await release_block(store, (await store.list(AddressBlock))[0])
        assert await claim_block(store, pool(), "n2") in held

    asyncio.run(run())


def test_no_block_is_in_a_subnet_of_a_node() -> None:
    async def run() -> None:
        taken = [ip_network("10.245.0.0/29"), ip_network("10.245.0.12/30"), ip_network("10.0.0.0/24")]
        found = await claim_block(MemoryStore(), pool(), "n1", subnets=taken)
        assert found == IPv4Network("10.245.0.8/30")

    asyncio.run(run())


def test_the_block_of_an_address_that_is_asked_for() -> None:
    async def run() -> None:
        store = MemoryStore()
        block = ip_network("10.245.0.4/30")
        await claim_given(store, block, "n1")
        await claim_given(store, block, "n1")
        with pytest.raises(AddressRefused, match=r"block 10\.245\.0\.4/30 is node n1's"):
            await claim_given(store, block, "n2")
        with pytest.raises(AddressRefused, match=r"block 10\.245\.0\.4/30 is node n1's"):
            await claim_given(store, ip_network("10.245.0.0/29"), "n2")
        assert await store.list(AddressBlock) == [await store.get(AddressBlock, make_block(block, "n1").key)]

    asyncio.run(run())
