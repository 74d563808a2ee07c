"""100,000 elements of a map `address . protocol . port : address . port`: ours from packed bytes, theirs as text by `nft -f`.

Ours is committed as an agent does it, with two event subscriptions. Other nftables listeners on this machine (a lab,
`nft monitor`) slow all variants down. The first large batch on a machine pays for the kernel's first allocations, so each
variant runs once before it counts.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import numpy as np

from bench.rows import Row, at_most, in_turn, ratio, run, seconds
from percale.kernel.netlink import socket as netlink
from percale.kernel.netns import NetnsThread, anonymous_namespace
from percale.kernel.nftables import batch
from percale.kernel.nftables.event_subscriptions import EventSubscriptions, commit_batch
from percale.kernel.nftables.table import KernelNftTable
from percale.render.nft.objects import Chain, ElementBatch, Equals, InSet, Rule, SetSpec, Transaction, Verdict

COUNT = 100_000
THEIRS = 10_000
ROUNDS = 5
SMALL_TRANSACTIONS = 300

MAP = SetSpec("many", ("ipv4_addr", "inet_proto", "inet_service"), data=("ipv4_addr", "inet_service"))
SET_SPECS = {MAP.name: MAP}


def _elements(count: int) -> ElementBatch:
    keys = np.zeros(count, dtype=[("address", ">u4"), ("protocol", "u1"), ("_", "V3"), ("port", ">u2"), ("__", "V2")])
    keys["address"], keys["protocol"], keys["port"] = np.arange(count) + 0x0A00_0000, 6, 80
    data = np.zeros(count, dtype=[("address", ">u4"), ("port", ">u2"), ("_", "V2")])
    data["address"], data["port"] = np.arange(count) + 0x0B00_0000, 8080
    return ElementBatch(MAP.name, keys.tobytes(), data.tobytes())


def _text(count: int) -> str:
    def address(first: int, number: int) -> str:
        return f"{first}.{number >> 16}.{number >> 8 & 255}.{number & 255}"

    elements = ", ".join(f"{address(10, n)} . tcp . 80 : {address(11, n)} . 8080" for n in range(count))
    return f"add element inet percale {MAP.name} {{ {elements} }}\n"


def measure() -> Iterator[Row]:
    """All rows."""
    namespace = anonymous_namespace()
    thread = NetnsThread(namespace)
    try:
        yield from _large(thread)
        yield from asyncio.run(_small(namespace))
    finally:
        thread.close()
        os.close(namespace)


def _large(thread: NetnsThread) -> Iterator[Row]:
    socket, *sockets = (thread.run(lambda: netlink.Socket(netlink.NETFILTER)) for _ in range(3))
    elements, text = _elements(COUNT), _text(THEIRS)
    subscribed, unsubscribed = EventSubscriptions(), EventSubscriptions()
    encoded: list[float] = []
    commits: list[float] = []

    def reset_table() -> None:
        commands = "add table inet percale\ndelete table inet percale\nadd table inet percale\n"
        thread.run(lambda: run("nft", "-f", "-", stdin=commands))
        made = batch.encode_transaction(Transaction(put_sets=(MAP,)), {})
        assert commit_batch(socket, made.requests) is None

    def commit(subscriptions: EventSubscriptions) -> float:
        reset_table()
        encoded.append(
            1000 * seconds(lambda: batches.append(batch.encode_transaction(Transaction(put=(elements,)), SET_SPECS)))
        )
        requests = batches.pop().requests
        return 1000 * seconds(lambda: _commit(subscriptions, socket, requests))

    def ours() -> float:
        for each in sockets:
            subscribed.subscribe(each, lambda: None)
        commits.append(commit(subscribed))
        for each in sockets:
            subscribed.unsubscribe(each)
        return encoded[-1] + commits[-1]

    def bare() -> float:
        return commit(unsubscribed)

    def theirs() -> float:
        reset_table()
        return 1000 * seconds(lambda: thread.run(lambda: run("nft", "-f", "-", stdin=text))) * COUNT / THEIRS

    batches: list[batch.Batch] = []
    in_turn(1, ours, bare, theirs)
    encoded.clear()
    commits.clear()
    mine, alone, other = in_turn(ROUNDS, ours, bare, theirs)
    for each in (socket, *sockets):
        each.close()
    yield ratio(f"{COUNT:,} map elements: encode and commit; nft -f", "ms", mine, other, 0.25, most=True)
    yield ratio("  of which the commit; the same without listeners", "ms", commits, alone, 1.25, most=True)
    yield at_most("  of which encoding", "ms", encoded, 40)


def _commit(subscriptions: EventSubscriptions, socket: netlink.Socket, requests: list[netlink.Request]) -> None:
    failure = subscriptions.commit(socket, requests)
    if failure is not None:
        raise failure.error


async def _small(namespace: int) -> list[Row]:
    """Three elements and a chain of three rules, from and to the event loop."""
    nft_table = KernelNftTable(NetnsThread(namespace))
    pods = SetSpec("pods", ("ipv4_addr",))
    await nft_table.start()
    samples = []
    try:
        await nft_table.sync(Transaction(put_sets=(pods,)))
        for number in range(SMALL_TRANSACTIONS):
            transaction = _small_transaction(number)
            start = asyncio.get_running_loop().time()
            await nft_table.apply(transaction)
            samples.append((asyncio.get_running_loop().time() - start) * 1000)
    finally:
        await nft_table.stop()
    return [at_most("one transaction: 3 elements, a chain of 3 rules, loop to loop", "ms", samples, 0.5)]


def _small_transaction(number: int) -> Transaction:
    address = (0x0A00_0000 + number).to_bytes(4, "big")
    inside = InSet(("ip saddr",), "pods")
    rules = (
        Rule(
            (inside, Equals("l4proto", 6), Equals("th dport", 80)), Verdict("return"), f"np:ns/name#ingress[{number}]"
        ),
        Rule((inside, Equals("l4proto", 17)), Verdict("return"), "np:ns/name#ingress[0]"),
        Rule((), Verdict("drop"), "no rule allows it", counter=True),
    )
    jump = Verdict("jump", "class")
    elements = (
        ElementBatch("pods", address),
        ElementBatch("ingress4", address, verdict=jump),
        ElementBatch("self4", address * 2),
    )
    return Transaction(put_chains=(Chain("class", rules),), put=elements)
