"""The CNI part of an agent as a process of its own, which dies where it is told to: the tests' victim.

    python agent.py DIRECTORY WIRING DIE      in the node's namespace; prints "ready", ends on SIGTERM

DIE names the step after which the process is gone as with kill -9, `-` none. The real agent takes a second to start and has
no such switch; everything below it is the real thing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from percale.agent.events import Events
from percale.agent.logging import LineLog
from percale.agent.network.network_tables import NetworkTables
from percale.agent.problems import Problems
from percale.cni.attachments import Attachments
from percale.cni.pod_netns import PodNamespaces
from percale.cni.records import Records
from percale.cni.server import CniServer
from percale.errors import KernelError
from percale.ipam.address_pool import AddressPool
from percale.kernel.nftables.table import KernelNftTable
from percale.kernel.reconciler.reconciler import Reconciler
from percale.kernel.rtnl.driver import KernelDriver
from percale.model.subnet_lease import NodeSubnets
from percale.render.network.base_chains import network_tables
from percale.render.network.pod_veth import PodDefaults
from percale.store.memory import MemoryStore

SUBNETS = NodeSubnets(IPv4Network("10.244.1.0/24"), IPv6Network("fd00:244:1::/64"))

STEPS: Mapping[str, tuple[type, str]] = {
    "address": (AddressPool, "allocate"),
    "pair": (Reconciler, "wait_applied"),
    "inside": (PodNamespaces, "apply"),
    "draft": (Path, "rename"),
    "record": (Records, "put"),
    "answer": (Attachments, "attach"),
    "withdraw": (Attachments, "_withdraw"),
    "unrecord": (Records, "remove"),
    "release": (AddressPool, "release"),
}


_BEFORE = frozenset({"draft"})
"""Steps that end where their method begins: a record's file is written, and not in its place yet."""


def die_at(step: str) -> None:
    """Replace the step's method by one after which, or before which, the process is gone."""
    place, name = STEPS[step]
    method: Callable[..., Any] = getattr(place, name)

    @wraps(method)
    def dying(*arguments: Any, **more: Any) -> Any:
        if step not in _BEFORE:
            method(*arguments, **more)
        os.kill(os.getpid(), signal.SIGKILL)

    @wraps(method)
    async def dying_later(*arguments: Any, **more: Any) -> Any:
        await method(*arguments, **more)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(place, name, dying_later if asyncio.iscoroutinefunction(method) else dying)


async def no_annotations(namespace: str, name: str) -> Mapping[str, str]:
    return {}


async def serve(directory: Path, wiring: Any, die: str) -> None:
    log = LineLog()
    servers: list[CniServer] = []

    def on_problem(source: str, error: KernelError) -> None:
        log.warn("refused", source=source, error=str(error))
        for server in servers:
            server.heal(source)

    reconciler = Reconciler(KernelDriver(), on_problem=on_problem)
    await reconciler.start()
    problems = Problems(log)
    events = Events("n1", MemoryStore(), problems)
    tables = NetworkTables(network_tables(), problems, events, lambda spec: KernelNftTable(spec=spec))
    running = asyncio.create_task(tables.run())
    server = CniServer(
        directory / "s",
        defaults=PodDefaults(SUBNETS, 1450, wiring),
        reconciler=reconciler,
        guards=tables,
        pool=AddressPool(directory / "addresses", "n1", SUBNETS),
        records=Records(directory / "pods"),
        annotations=no_annotations,
        ready=lambda: None,
        log=log,
    )
    servers.append(server)
    await server.start()
    tables.start()
    reconciler.start_garbage_collection()
    tables.start_garbage_collection()
    await reconciler.wait_idle()
    await tables.wait_loaded()
    if die != "-":
        die_at(die)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print("ready", flush=True)
    await ended.wait()
    await server.stop()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await reconciler.stop()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
