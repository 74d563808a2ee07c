"""Large commits without our own subscriptions: no foreign change made meanwhile is lost."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future

import pytest
from tests.kernel.conftest import Space
from tests.waiting import eventually

from percale.errors import KernelError
from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import Failure, Request
from percale.kernel.netns import NetnsThread
from percale.kernel.nftables import batch, event_subscriptions
from percale.kernel.nftables.event_subscriptions import LARGE, EventSubscriptions
from percale.kernel.nftables.table import KernelNftTable
from percale.render.nft.objects import ElementBatch, SetSpec, TableName, TableSpec, Transaction

MANY = SetSpec("many", ("ipv4_addr",))
SET_SPECS = {MANY.name: MANY}
FOREIGN = ("nft", "add table inet percale; add chain inet percale theirs")
_NEW_GENERATION = 15


def some(count: int, start: int = 0) -> ElementBatch:
    return ElementBatch(
        MANY.name, b"".join((0x0A00_0000 + start + number).to_bytes(4, "big") for number in range(count))
    )


def put(count: int, start: int = 0) -> list[Request]:
    return batch.encode_transaction(Transaction(put=(some(count, start),)), SET_SPECS).requests


LARGE_EDIT = Transaction(put=(some(LARGE // 16),))
"""An element takes 16 bytes and more."""


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Do this once, while the next large commit is being made."""

    def arrange(action: Callable[[], object]) -> None:
        def observed(socket: netlink.Socket, requests: Sequence[Request]) -> Failure | None:
            if sum(len(request.body) for request in requests) >= LARGE:
                monkeypatch.setattr(event_subscriptions, "commit_batch", plain)
                action()
            return plain(socket, requests)

        plain = event_subscriptions.commit_batch
        monkeypatch.setattr(event_subscriptions, "commit_batch", observed)

    return arrange


class Subscriber:
    """One listening socket, one that commits, and somebody else's."""

    def __init__(self, space: Space) -> None:
        with contextlib.closing(NetnsThread(space.descriptor)) as place:
            self._socket, self.ours, self.theirs = (
                place.run(lambda: netlink.Socket(netlink.NETFILTER)) for _ in range(3)
            )
        self._socket.ignore(self.ours.port)
        self.lost = 0
        self.subscriptions = EventSubscriptions()
        self.subscriptions.subscribe(self._socket, self._count)
        assert (
            event_subscriptions.commit_batch(
                self.theirs,
                batch.encode_table(batch.BaseTable(b"", {}, {}), Transaction(put_sets=(MANY,)), {}).requests,
            )
            is None
        )
        self.was_notified()

    def _count(self) -> None:
        self.lost += 1

    def was_notified(self) -> bool:
        """Has somebody's change been told since the last look?"""
        found = False
        with contextlib.suppress(BlockingIOError):
            while True:
                found |= any(message.type & 0xFF == _NEW_GENERATION for message in self._socket.receive(wait=False))
        return found

    def close(self) -> None:
        self.subscriptions.unsubscribe(self._socket)
        for socket in (self._socket, self.ours, self.theirs):
            socket.close()


@pytest.fixture
def subscriber(space: Space) -> Iterator[Subscriber]:
    subscriber = Subscriber(space)
    yield subscriber
    subscriber.close()


def test_a_large_commit_of_ours_alone_is_nobodys_news(subscriber: Subscriber) -> None:
    assert subscriber.subscriptions.commit(subscriber.ours, put(3_000)) is None
    assert (subscriber.lost, subscriber.was_notified()) == (0, False)


def test_whoever_changes_something_during_it_is_not_heard_but_noticed(
    subscriber: Subscriber, during: Callable[[Callable[[], object]], None]
) -> None:
    during(lambda: event_subscriptions.commit_batch(subscriber.theirs, put(1, start=5_000)))
    assert subscriber.subscriptions.commit(subscriber.ours, put(3_000)) is None
    assert (subscriber.lost, subscriber.was_notified()) == (1, False)


def test_whoever_changes_something_afterwards_is_heard(subscriber: Subscriber) -> None:
    subscriber.subscriptions.commit(subscriber.ours, put(3_000))
    event_subscriptions.commit_batch(subscriber.theirs, put(1, start=5_000))
    assert (subscriber.lost, subscriber.was_notified()) == (0, True)


def test_a_refused_commit_is_no_ones_change_and_the_ear_hears_again(
    subscriber: Subscriber, during: Callable[[Callable[[], object]], None]
) -> None:
    nowhere = Request(put(1)[0].type, netlink.CREATE, put(1)[0].body.replace(b"many", b"none"))
    failure = subscriber.subscriptions.commit(subscriber.ours, [*put(3_000), nowhere])
    assert failure is not None
    assert (subscriber.lost, subscriber.was_notified()) == (0, False)
    during(lambda: event_subscriptions.commit_batch(subscriber.theirs, put(1, start=5_000)))
    assert subscriber.subscriptions.commit(subscriber.ours, [*put(3_000), nowhere]) is not None
    assert (subscriber.lost, subscriber.was_notified()) == (1, False)
    event_subscriptions.commit_batch(subscriber.theirs, put(1, start=5_001))
    assert subscriber.was_notified()


def test_a_commit_that_breaks_off_may_have_been_made(
    subscriber: Subscriber, during: Callable[[Callable[[], object]], None]
) -> None:
    def break_off() -> None:
        raise TimeoutError

    during(break_off)
    with pytest.raises(TimeoutError):
        subscriber.subscriptions.commit(subscriber.ours, put(3_000))
    event_subscriptions.commit_batch(subscriber.theirs, put(1, start=5_001))
    assert (subscriber.lost, subscriber.was_notified()) == (1, True)


def test_a_change_that_is_being_made_when_ours_begins_is_heard_or_noticed(subscriber: Subscriber) -> None:
    """The kernel counts a commit first and tells of it last."""
    began = time.perf_counter()
    event_subscriptions.commit_batch(subscriber.theirs, put(4_000))
    lasts = time.perf_counter() - began
    subscriber.was_notified()
    for step in range(1, 41):
        theirs, ours = put(4_000, start=step * 10_000), put(600, start=step * 10_000 + 5_000)
        other = threading.Thread(target=event_subscriptions.commit_batch, args=(subscriber.theirs, theirs))
        lost = subscriber.lost
        other.start()
        time.sleep(lasts * step / 40)
        assert subscriber.subscriptions.commit(subscriber.ours, ours) is None
        other.join()
        assert subscriber.was_notified() or subscriber.lost > lost


# Two tables that share their subscriptions

GUARDS = TableSpec(TableName("ip"), "set pods { type ipv4_addr; }", (SetSpec("pods", ("ipv4_addr",)),))
POD = Transaction(put=(ElementBatch("pods", bytes((10, 244, 1, 9))),))


@pytest.fixture
async def nft_table(space: Space) -> AsyncIterator[tuple[KernelNftTable, EventSubscriptions, list[None]]]:
    """It has an empty set `many`; how often it was touched."""
    shared = EventSubscriptions()
    nft_table = KernelNftTable(NetnsThread(space.descriptor), subscriptions=shared)
    touched: list[None] = []
    nft_table.on_foreign_change(lambda: touched.append(None))
    await nft_table.start()
    await nft_table.sync(Transaction(put_sets=(MANY,)))
    yield nft_table, shared, touched
    await nft_table.stop()


async def test_what_somebody_does_during_a_large_edit_touches_the_keeper(
    space: Space,
    nft_table: tuple[KernelNftTable, EventSubscriptions, list[None]],
    during: Callable[[Callable[[], object]], None],
) -> None:
    kept, _, touched = nft_table
    during(lambda: space.run(*FOREIGN))
    await kept.apply(LARGE_EDIT)
    await eventually(lambda: touched)
    whole = Transaction(put_sets=(MANY,), put=LARGE_EDIT.put)
    assert (await kept.sync(whole)).remove_chains == ("theirs",)
    space.run(*FOREIGN)
    await eventually(lambda: len(touched) == 2)


async def test_after_a_refused_large_edit_the_keeper_listens_again(
    space: Space, nft_table: tuple[KernelNftTable, EventSubscriptions, list[None]]
) -> None:
    kept, _, touched = nft_table
    nowhere = Transaction(put=LARGE_EDIT.put, remove_chains=("nowhere",))
    with pytest.raises(KernelError, match="chain nowhere"):
        await kept.apply(nowhere)
    await kept.apply(LARGE_EDIT)
    space.run(*FOREIGN)
    await eventually(lambda: touched)
    assert len(touched) == 1


async def test_what_somebody_does_to_another_table_during_a_large_edit_is_told(
    space: Space,
    nft_table: tuple[KernelNftTable, EventSubscriptions, list[None]],
    during: Callable[[Callable[[], object]], None],
) -> None:
    kept, shared, _ = nft_table
    async with guards(space, shared) as (other, told):
        await other.sync(POD)
        during(lambda: space.run("nft", "flush set ip percale pods"))
        await kept.apply(LARGE_EDIT)
        await eventually(lambda: told)
        assert await other.sync(POD) == POD


async def test_what_another_table_of_ours_commits_during_a_large_edit_is_nobodys_news(
    space: Space,
    nft_table: tuple[KernelNftTable, EventSubscriptions, list[None]],
    during: Callable[[Callable[[], object]], None],
) -> None:
    kept, shared, touched = nft_table
    async with guards(space, shared) as (other, told):
        await other.sync(Transaction())
        loop = asyncio.get_running_loop()
        loading: list[Future[None]] = []

        def begin() -> None:
            loading.append(asyncio.run_coroutine_threadsafe(other.apply(POD), loop))
            with contextlib.suppress(TimeoutError):
                loading[0].result(0.3)  # it waits for its turn

        during(begin)
        await kept.apply(LARGE_EDIT)
        await asyncio.wrap_future(loading[0])
        space.run(*FOREIGN)
        await eventually(lambda: touched)
    assert len(touched) == 1
    assert told == []


@contextlib.asynccontextmanager
async def guards(space: Space, shared: EventSubscriptions) -> AsyncIterator[tuple[KernelNftTable, list[None]]]:
    """Another table, and how often it was touched."""
    table = KernelNftTable(NetnsThread(space.descriptor), spec=GUARDS, subscriptions=shared)
    told: list[None] = []
    table.on_foreign_change(lambda: told.append(None))
    await table.start()
    yield table, told
    await table.stop()
