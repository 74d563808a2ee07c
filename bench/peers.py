"""5,000 peers from cold: device, neighbours, FDB, routes; ours also the set of tunnel peers.

Ours subscriptions the reconciler, theirs by pyroute2, one request per object.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from bench.rows import Row, at_most, ratio
from percale.agent.events import Events
from percale.agent.logging import LineLog
from percale.agent.network.network_tables import NetworkTables
from percale.agent.problems import Problems
from percale.kernel.netns import NetnsThread, anonymous_namespace
from percale.kernel.nftables.table import KernelNftTable
from percale.kernel.reconciler.reconciler import Reconciler
from percale.kernel.rtnl.driver import KernelDriver
from percale.render.link_kinds import Veth, VethPeer, Vxlan
from percale.render.network.base_chains import network_tables
from percale.render.network.elements import Element
from percale.render.network.tunnels import peer_element
from percale.render.objects import Address, FdbEntry, KernelObject, Link, Neighbour, Route
from percale.store.memory import MemoryStore

PEERS = 5000
ROUNDS = 3


def _facts(number: int) -> tuple[IPv4Network, IPv4Address, str]:
    """A peer's subnet, public address and VTEP MAC."""
    subnet = IPv4Network((0x0A000000 + (number << 8), 24))
    mac = f"0a:00:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
    return subnet, IPv4Address(0xAC100000 + number), mac


def _peer(number: int, mac: str | None = None) -> tuple[KernelObject, ...]:
    subnet, public, usual = _facts(number)
    gateway = subnet.network_address
    mac = mac or usual
    return (
        Neighbour("flannel.1", gateway, mac),
        FdbEntry("flannel.1", mac, public),
        Route(subnet, "flannel.1", gateway, onlink=True),
    )


def _elements(number: int) -> tuple[Element, ...]:
    return (peer_element(_facts(number)[1]),)


def _device() -> tuple[KernelObject, ...]:
    return (
        Link("eth0", Veth(VethPeer("far0")), mtu=1500),
        Link("far0", up=True),
        Address("eth0", IPv4Interface("172.31.255.1/12")),
        Link("flannel.1", Vxlan(1, IPv4Address("172.31.255.1"), "eth0"), mtu=1450),
        Address("flannel.1", IPv4Interface("10.255.0.0/32")),
    )


async def _ours() -> tuple[float, list[float]]:
    """Seconds for all from cold, and milliseconds of single changes."""
    namespace = anonymous_namespace()
    reconciler = Reconciler(KernelDriver(NetnsThread(namespace)))
    problems = Problems(LineLog(stream=sys.stderr))
    events = Events("n1", MemoryStore(), problems)
    tables = NetworkTables(
        network_tables(), problems, events, lambda spec: KernelNftTable(NetnsThread(namespace), spec=spec)
    )
    running = asyncio.create_task(tables.run())
    try:
        await reconciler.start()
        tables.start()
        await tables.wait_loaded()
        start = time.perf_counter()
        reconciler.declare("device", _device())
        for number in range(1, PEERS + 1):
            reconciler.declare(f"peer/{number}", _peer(number))
            tables.declare(f"peer/{number}", _elements(number))
        await reconciler.wait_applied(f"peer/{PEERS}")
        await reconciler.wait_idle()
        await tables.wait_applied(f"peer/{PEERS}")
        cold = time.perf_counter() - start
        changes = []
        for number in range(1, 31):
            start = time.perf_counter()
            reconciler.declare(f"peer/{number}", _peer(number, f"0a:01:00:00:00:{number:02x}"))
            await reconciler.wait_applied(f"peer/{number}")
            changes.append((time.perf_counter() - start) * 1000)
        return cold, changes
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await reconciler.stop()
        os.close(namespace)


def _theirs() -> float:
    namespace = anonymous_namespace()
    thread = NetnsThread(namespace)
    try:
        return thread.run(_program_by_pyroute2)
    finally:
        thread.close()
        os.close(namespace)


def _program_by_pyroute2() -> float:
    from pyroute2 import IPRoute  # noqa: PLC0415  (the comparison, imported only here)

    with IPRoute() as ip:
        start = time.perf_counter()
        ip.link("add", ifname="eth0", kind="veth", peer="far0")
        under = ip.link_lookup(ifname="eth0")[0]
        ip.link("set", index=under, state="up")
        ip.link("set", index=ip.link_lookup(ifname="far0")[0], state="up")
        ip.addr("add", index=under, address="172.31.255.1", prefixlen=12)
        ip.link("add", ifname="flannel.1", kind="vxlan", vxlan_id=1, vxlan_link=under, vxlan_port=8472)
        index = ip.link_lookup(ifname="flannel.1")[0]
        ip.link("set", index=index, state="up")
        ip.addr("add", index=index, address="10.255.0.0", prefixlen=32)
        for request in map(_facts, range(1, PEERS + 1)):
            _add_by_pyroute2(ip, index, *request)
        return time.perf_counter() - start


def _add_by_pyroute2(ip: Any, index: int, subnet: IPv4Network, public: IPv4Address, mac: str) -> None:
    gateway = str(subnet.network_address)
    ip.neigh("replace", ifindex=index, dst=gateway, lladdr=mac, state=128)
    ip.fdb("add", ifindex=index, lladdr=mac, dst=str(public))
    ip.route("replace", dst=str(subnet), gateway=gateway, oif=index, flags=["onlink"])


def measure() -> Iterator[Row]:
    """Cold, against pyroute2, and one change among 5,000."""
    ours, theirs, changes = [], [], []
    for _ in range(ROUNDS):
        cold, some = asyncio.run(_ours())
        ours.append(cold)
        changes += some
        theirs.append(_theirs())
    yield at_most("5,000 peers from cold", "s", ours, 1.0)
    yield ratio("5,000 peers from cold, against pyroute2", "s", ours, theirs, 0.1, most=True)
    yield at_most("one peer changes among 5,000, declared to kernel", "ms", changes, 5.0)
