"""The node's tables over fakes: who waits for what, and when something goes."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network

import pytest
from msgspec import Struct
from tests.silent import silent_problems

from percale.agent.events import Events
from percale.agent.network import network_tables as network_tables_module
from percale.agent.network.network_tables import NetworkTables
from percale.errors import KernelError
from percale.kernel.nftables.fake_table import FakeNftTable
from percale.render.network.base_chains import network_tables
from percale.render.network.elements import Element
from percale.render.nft.objects import ElementBatch, TableSpec, Transaction
from percale.store.memory import MemoryStore

V4, V6 = ip_address("192.168.0.2"), ip_address("fd00:1::2")
PEER = (Element("ip", "peers", (V4,)), Element("ip6", "peers", (V6,)))
PODS = Element("ip", "pods", (ip_network("10.244.0.0/16"),))
STALE = Transaction(put=(ElementBatch("peers", ip_address("192.168.0.9").packed),))
PATIENCE = 30.0


class Node(Struct):
    """Running tables, by family."""

    tables: NetworkTables
    fakes: dict[str, FakeNftTable]

    def held(self, family: str, name: str) -> set[bytes]:
        state = self.fakes[family].state
        return set() if state is None else set(state.sets[name].elements)

    async def applied(self, source: str) -> None:
        await asyncio.wait_for(self.tables.wait_applied(source), PATIENCE)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    problems = silent_problems()
    fakes: dict[str, FakeNftTable] = {}

    def make(spec: TableSpec) -> FakeNftTable:
        fakes[spec.name.family] = fake = FakeNftTable(spec)
        return fake

    tables = NetworkTables(network_tables(), problems, Events("n1", MemoryStore(), problems), make)
    running = asyncio.create_task(tables.run())
    yield Node(tables, fakes)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_nothing_is_loaded_before_the_start(node: Node) -> None:
    node.tables.declare("peer/a", PEER)
    await asyncio.sleep(0.01)
    assert all(fake.state is None for fake in node.fakes.values())
    node.tables.start()
    await asyncio.wait_for(node.tables.wait_loaded(), PATIENCE)
    assert all(fake.state is not None for fake in node.fakes.values())
    assert (node.held("ip", "peers"), node.held("ip6", "peers")) == ({V4.packed}, {V6.packed})


@pytest.mark.parametrize("known", [True, False], ids=["peers are known", "the store is away"])
async def test_peers_are_waited_for_and_not_for_ever(node: Node, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them a table that is loaded drops what they send."""
    monkeypatch.setattr(network_tables_module, "PATIENCE_FOR_PEERS", PATIENCE if known else 0.1)
    declared = asyncio.Event()
    starting = asyncio.create_task(node.tables.start_after(declared))
    await asyncio.sleep(0.01)
    assert all(fake.state is None for fake in node.fakes.values())
    if known:
        node.tables.declare("peer/a", PEER)
        declared.set()
    await asyncio.wait_for(node.tables.wait_loaded(), PATIENCE)
    assert bool(node.held("ip", "peers")) is known
    await starting


async def test_a_change_is_one_transaction_in_the_tables_that_it_touches(node: Node) -> None:
    node.tables.start()
    await asyncio.wait_for(node.tables.wait_loaded(), PATIENCE)
    for fake in node.fakes.values():
        fake.transactions.clear()
    node.tables.declare("peer/a", PEER[:1])
    await node.applied("peer/a")
    node.tables.declare("peer/a", PEER[:1])
    await node.applied("peer/a")
    assert node.fakes["ip"].transactions == [Transaction(put=(ElementBatch("peers", V4.packed),))]
    assert node.fakes["ip6"].transactions == node.fakes["bridge"].transactions == []


async def test_stale_elements_go_when_garbage_is_collected(node: Node) -> None:
    await node.fakes["ip"].sync(STALE)
    node.tables.declare("peer/a", PEER)
    node.tables.start()
    await asyncio.wait_for(node.tables.wait_loaded(), PATIENCE)
    assert node.held("ip", "peers") == {V4.packed, STALE.put[0].packed_keys}
    node.tables.start_garbage_collection()
    await node.applied("peer/a")
    assert node.held("ip", "peers") == {V4.packed}


async def test_what_the_kernel_rejects_is_told_to_its_source_alone(node: Node) -> None:
    node.tables.start()
    node.tables.declare("node", (PODS,))
    await node.applied("node")
    node.tables.declare("bad", (Element("ip", "pods", (ip_network("10.244.128.0/17"),)),))
    node.tables.declare("peer/a", PEER)
    with pytest.raises(KernelError, match="table ip percale, set pods") as raised:
        await node.applied("bad")
    assert raised.value.errno == errno.EEXIST
    await node.applied("peer/a")
    assert node.held("ip", "peers") == {V4.packed}
