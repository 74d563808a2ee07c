"""A node's table: what the kernel refuses of it is a problem of its object alone, and is tried again."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Iterable, Iterator

import pytest
from msgspec import Struct
from tests.silent import silent_problems
from tests.waiting import eventually

from percale.agent import table_sections as module
from percale.agent.events import Events, InvolvedObject
from percale.agent.problems import Problems
from percale.agent.table_sections import NodeTable
from percale.errors import KernelError
from percale.kernel.nftables.fake_table import FakeNftTable
from percale.model.event import Event
from percale.model.meta import ObjectKey
from percale.render.nft.objects import ElementBatch, Transaction, Verdict
from percale.store.memory import MemoryStore

A, B, C = b"\x0a\0\0\1", b"\x0a\0\0\2", b"\x0a\0\0\3"
NAMES = {A: "a", B: "b", C: "c"}
WAY = Verdict("jump", "nowhere")
"""Where it leads the kernel does not know."""
PATIENCE = 30.0


class Pods:
    """A table section: each pod has one element."""

    synced = True

    def __init__(self) -> None:
        self.wanted: dict[bytes, Verdict] = {}
        self._last: dict[bytes, Verdict] = {}

    def changes(self) -> Transaction:
        before, self._last = self._last, dict(self.wanted)
        changed = {key: verdict for key, verdict in self.wanted.items() if before.get(key) != verdict}
        gone = [key for key in before if key not in self.wanted or key in changed]
        return Transaction(remove=tuple(ElementBatch("ingress4", key) for key in gone), put=tuple(_elements(changed)))

    def snapshot(self) -> Transaction:
        return Transaction(put=tuple(_elements(self._last)))

    def involved_objects(self, part: Transaction) -> Iterable[InvolvedObject]:
        return [InvolvedObject("Pod", ObjectKey("x", NAMES[each.packed_keys])) for each in part.put]

    async def committed(self, *, changed: bool) -> None:
        """Nobody waits."""


def _elements(wanted: dict[bytes, Verdict]) -> Iterator[ElementBatch]:
    return (ElementBatch("ingress4", key, verdict=verdict) for key, verdict in wanted.items())


class Node(Struct):
    """A running table."""

    pods: Pods
    table: NodeTable
    nft_table: FakeNftTable
    problems: Problems
    store: MemoryStore

    @property
    def held(self) -> dict[bytes, object]:
        return {} if self.nft_table.state is None else dict(self.nft_table.state.sets["ingress4"].elements)

    async def holds(self, wanted: dict[bytes, object]) -> None:
        await eventually(lambda: self.held == wanted)


@pytest.fixture
async def node(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    monkeypatch.setattr(module, "_FIRST_RETRY", 0.01)
    store, problems = MemoryStore(), silent_problems()
    events = Events("n1", store, problems)
    nft_table, pods = FakeNftTable(), Pods()
    table = NodeTable(nft_table, problems, events)
    table.add(pods)
    running = [asyncio.create_task(each.run()) for each in (table, events)]
    yield Node(pods, table, nft_table, problems, store)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


ACCEPT, DROP = Verdict("accept"), Verdict("drop")


async def test_a_table_that_is_restored_again_and_again_is_an_event_of_the_node(node: Node) -> None:
    node.pods.wanted = {A: ACCEPT}
    node.table.request_sync()
    await node.holds({A: ACCEPT})
    for count in range(1, 8):
        node.nft_table.touch(None)
        await node.holds({A: ACCEPT})
        await asyncio.sleep(0)
        if count == 4:
            assert not await node.store.list(Event)
    (event,) = await eventually(lambda: node.store.list(Event))
    assert (event.involvedObject.kind, event.reason, event.count) == ("Node", "RepairedRepeatedly", 1)


@pytest.mark.parametrize("first", [True, False], ids=["at the start", "later"])
async def test_a_rejected_object_affects_no_other(node: Node, *, first: bool) -> None:
    if not first:
        node.pods.wanted = {A: ACCEPT}
        node.table.request_sync()
        await node.holds({A: ACCEPT})
    node.pods.wanted = {A: ACCEPT, B: WAY, C: ACCEPT}
    node.table.request_sync()
    await node.holds({A: ACCEPT, B: DROP, C: ACCEPT})
    await asyncio.wait_for(node.table.applied.wait(), PATIENCE)
    assert list(node.problems.current) == ["kernel: pod x/b"]
    assert "No such file" in node.problems.current["kernel: pod x/b"].error
    found = await eventually(lambda: node.store.list(Event))
    assert [(each.involvedObject.name, each.reason) for each in found] == [("b", "KernelRefused")]
    node.pods.wanted = {A: DROP, B: WAY, C: ACCEPT}
    node.table.request_sync()
    await node.holds({A: DROP, B: DROP, C: ACCEPT})
    node.pods.wanted = {A: DROP, C: ACCEPT}
    node.table.request_sync()
    await node.holds({A: DROP, C: ACCEPT})
    await eventually(lambda: not node.problems.current)


async def test_what_was_left_out_is_tried_again(node: Node) -> None:
    """The kernel may take it later: here its refusal was for want of memory."""
    node.pods.wanted = {A: ACCEPT}
    node.nft_table.refusals = [KernelError("no memory", errno=errno.ENOMEM) for _ in range(3)]
    node.table.request_sync()
    await node.holds({A: ACCEPT})
    await eventually(lambda: not node.problems.current)


async def test_a_kernel_that_takes_nothing_is_the_tables_problem(node: Node) -> None:
    node.pods.wanted = {A: ACCEPT}
    node.nft_table.refusals = [KernelError("may not", errno=errno.EPERM)]
    node.table.request_sync()
    await asyncio.wait_for(node.table.attempted.wait(), PATIENCE)
    assert list(node.problems.current) == ["table inet percale"]
    assert not node.table.applied.is_set()
    await node.holds({A: ACCEPT})
    await asyncio.wait_for(node.table.applied.wait(), PATIENCE)
    assert not node.problems.current


async def test_flush_waits_for_what_was_requested_before(node: Node) -> None:
    await asyncio.wait_for(node.table.flush(), PATIENCE)  # nothing
    node.pods.wanted = {A: ACCEPT}
    node.table.request_sync()
    await asyncio.wait_for(node.table.flush(), PATIENCE)
    assert node.held == {A: ACCEPT}
    node.pods.wanted = {A: ACCEPT, B: WAY}
    node.table.request_sync()
    await asyncio.wait_for(node.table.flush(), PATIENCE)
    assert node.held == {A: ACCEPT, B: DROP}
    ((part, error),) = node.table.refused
    assert [each.packed_keys for each in part.put] == [B]
    assert error.errno == errno.ENOENT
    node.nft_table.touch(None)
    await node.holds({A: ACCEPT, B: DROP})


async def test_flush_says_why_the_kernel_takes_nothing(node: Node) -> None:
    node.pods.wanted = {A: ACCEPT}
    node.nft_table.refusals = [KernelError("may not", errno=errno.EPERM)]
    node.table.request_sync()
    with pytest.raises(KernelError, match="may not"):
        await asyncio.wait_for(node.table.flush(), PATIENCE)


async def test_a_cancelled_flush_is_no_trouble(node: Node) -> None:
    node.pods.wanted = {A: ACCEPT}
    node.table.request_sync()
    waiting = asyncio.create_task(node.table.flush())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait_for(node.table.flush(), PATIENCE)
    assert node.held == {A: ACCEPT}
