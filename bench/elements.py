"""100,000 elements of a map `address . protocol . port : address . port`: ours from packed bytes, theirs as text by `nft -f`.

The first large batch on a machine pays for memory that nobody has used before, so each way is tried once before it counts.
"""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Iterator

import numpy as np

from bench.rows import Row, at_most, in_turn, ratio, run, seconds
from percale.kernel import batching, netlink, nftables
from percale.kernel.keeping import TableKeeper
from percale.kernel.namespaces import NamespaceThread, anonymous_namespace
from percale.render.contents import Chain, Edit, Elements, Equals, InSet, Rule, SetShape, Verdict

COUNT = 100_000
THEIRS = 10_000
ROUNDS = 5
SMALL_EDITS = 300

MAP = SetShape("many", ("ipv4_addr", "inet_proto", "inet_service"), data=("ipv4_addr", "inet_service"))
SHAPES = {MAP.name: MAP}


def _elements(count: int) -> Elements:
    keys = np.zeros(count, dtype=[("address", ">u4"), ("protocol", "u1"), ("_", "V3"), ("port", ">u2"), ("__", "V2")])
    keys["address"], keys["protocol"], keys["port"] = np.arange(count) + 0x0A00_0000, 6, 80
    data = np.zeros(count, dtype=[("address", ">u4"), ("port", ">u2"), ("_", "V2")])
    data["address"], data["port"] = np.arange(count) + 0x0B00_0000, 8080
    return Elements(MAP.name, keys.tobytes(), data.tobytes())


def _text(count: int) -> str:
    def address(first: int, number: int) -> str:
        return f"{first}.{number >> 16}.{number >> 8 & 255}.{number & 255}"

    elements = ", ".join(f"{address(10, n)} . tcp . 80 : {address(11, n)} . 8080" for n in range(count))
    return f"add element inet percale {MAP.name} {{ {elements} }}\n"


def measure() -> Iterator[Row]:
    """Every figure from one run."""
    namespace = anonymous_namespace()
    place = NamespaceThread(namespace)
    try:
        yield from _large(place)
        yield from asyncio.run(_small(namespace))
    finally:
        place.close()
        os.close(namespace)


def _large(place: NamespaceThread) -> Iterator[Row]:
    socket = place.run(lambda: netlink.Socket(netlink.NETFILTER))
    elements, text = _elements(COUNT), _text(THEIRS)
    encoded: list[float] = []
    bare: list[float] = []

    def afresh() -> None:
        commands = "add table inet percale\ndelete table inet percale\nadd table inet percale\n"
        place.run(lambda: run("nft", "-f", "-", stdin=commands))
        made = batching.batch(Edit(put_sets=(MAP,)), {})
        assert nftables.commit(socket, made.requests) is None

    def ours() -> float:
        afresh()
        encoded.append(1000 * seconds(lambda: batches.append(batching.batch(Edit(put=(elements,)), SHAPES))))
        requests = batches.pop().requests
        bare.append(1000 * seconds(lambda: _commit(socket, requests)))
        return encoded[-1] + bare[-1]

    def theirs() -> float:
        afresh()
        return 1000 * seconds(lambda: place.run(lambda: run("nft", "-f", "-", stdin=text))) * COUNT / THEIRS

    batches: list[batching.Batch] = []
    in_turn(1, ours, theirs)
    encoded.clear()
    bare.clear()
    mine, other = in_turn(ROUNDS, ours, theirs)
    socket.close()
    what = f"{COUNT:,} map elements: encode and commit; nft -f"
    yield ratio(what, "ms", mine, other, 0.4, most=True)
    yield at_most(f"  of which encoding (the bare commit: {statistics.median(bare):.0f} ms)", "ms", encoded, 40)


def _commit(socket: netlink.Socket, requests: list[netlink.Request]) -> None:
    failure = nftables.commit(socket, requests)
    if failure is not None:
        raise failure.error


async def _small(namespace: int) -> list[Row]:
    """Three elements and a chain of three rules, from the event loop and back."""
    keeper = TableKeeper(NamespaceThread(namespace))
    pods = SetShape("pods", ("ipv4_addr",))
    await keeper.start()
    samples = []
    try:
        await keeper.restore(Edit(put_sets=(pods,)))
        for number in range(SMALL_EDITS):
            edit = _small_edit(number)
            start = asyncio.get_running_loop().time()
            await keeper.edit(edit)
            samples.append((asyncio.get_running_loop().time() - start) * 1000)
    finally:
        await keeper.stop()
    return [at_most("one edit: 3 elements, a chain of 3 rules, loop to loop", "ms", samples, 0.5)]


def _small_edit(number: int) -> Edit:
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
        Elements("pods", address),
        Elements("ingress4", address, verdict=jump),
        Elements("self4", address * 2),
    )
    return Edit(put_chains=(Chain("class", rules),), put=elements)
