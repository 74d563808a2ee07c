"""Services: from decoded objects and from files to the kernel, one change, memory, and a client's cost of a cluster IP.

Ten endpoints per Service. Theirs is a chain for each Service and each endpoint, as in kube-proxy's nftables mode,
loaded by `nft -f`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_network
from pathlib import Path

from bench import agents
from bench.node_table import ScriptedStore, TableBench
from bench.policy_world import node_name, policy_world
from bench.rows import Row, at_most, in_turn, ratio, run, seconds
from bench.service_paths import paths
from bench.service_world import (
    POD_CIDR,
    PORT,
    SERVICE_CIDR,
    TARGET,
    cluster_ip,
    endpoint_ip,
    endpoint_slice,
    service,
    service_world,
)
from percale.agent.informer import Informer
from percale.agent.metrics import Metrics
from percale.agent.service.conntrack_cleanup import conntrack_cleaner
from percale.agent.service.proxier import ServiceProxier
from percale.kernel.netlink import socket as netlink
from percale.kernel.netns import NetnsThread, anonymous_namespace
from percale.kernel.nftables import batch
from percale.kernel.nftables.event_subscriptions import commit_batch
from percale.kernel.nftables.table import KernelNftTable
from percale.model.meta import Object
from percale.model.pod import Pod
from percale.render.nft.objects import POLICY_TABLE, TableSpec, Transaction
from percale.render.policy import base_chains as policy_base
from percale.render.service import base_chains as service_base
from percale.render.service.renderer import ServiceRenderer
from percale.service.node_context import ServiceConfig
from percale.service.resolver import KINDS, ServiceResolver
from percale.store.protocol import Upserted

SERVICES, ENDPOINTS = 10_000, 10
THEIRS = 1_000
ROUNDS = 5
STARTS = 3
CHANGES = 31
CONFIG = ServiceConfig(node=node_name(3), pod_cidrs=(ip_network(POD_CIDR),), service_cidrs=(ip_network(SERVICE_CIDR),))


def measure() -> Iterator[Row]:
    """The rows of Services; host ports are in `cni`."""
    objects: list[Object] = list(service_world(SERVICES, ENDPOINTS))
    yield from _to_kernel(objects)
    yield from _agent(objects)
    yield from paths()


def _to_kernel(objects: list[Object]) -> Iterator[Row]:
    world = f"{SERVICES:,} services × {ENDPOINTS}"
    found: list[_Samples] = []

    def ours() -> float:
        found.append(asyncio.run(_ours(objects)))
        return found[-1].cold

    bare = _BareCommit(objects)
    in_turn(1, ours, bare)  # the first batch pays for the kernel's first allocations
    found.clear()
    mine, commits, other = in_turn(ROUNDS, ours, bare, _theirs)
    yield ratio(f"{world}: objects to kernel, against the bare commit", "s", mine, commits, 1.3, most=True)
    yield ratio(f"the same, against chains by nft -f ({THEIRS:,}, scaled)", "s", mine, other, 0.1, most=True)
    for what in ("an endpoint changes", "a service changes"):
        samples = [sample for each in found for sample in each.changes[what]]
        yield at_most(f"  {what}, event to commit", "ms", samples, 5)


@dataclass(slots=True)
class _Samples:
    cold: float
    changes: dict[str, list[float]] = field(default_factory=dict)


async def _ours(objects: list[Object]) -> _Samples:
    """From cold, then changes one by one."""
    bench, store = TableBench(services=True), ScriptedStore(objects)
    metrics = Metrics()
    flows = conntrack_cleaner(bench.problems, metrics)
    informer = Informer(store, bench.problems)
    proxier = ServiceProxier(
        CONFIG,
        informer.subscribe(*KINDS),
        bench.table,
        conntrack_cleaner=flows,
        problems=bench.problems,
        events=bench.events,
        registry=metrics.registry,
        local_pods=set,
        on_health_check_ports=lambda _: None,
    )
    async with bench.running(informer.run, proxier.run) as cold:
        found = _Samples(cold)
        for what, changed in _changes():
            found.changes.setdefault(what, []).append(await bench.change(store, Upserted(changed)))
    flows.close()
    return found


def _changes() -> Iterator[tuple[str, Object]]:
    rng = random.Random(3)
    for count in range(CHANGES):
        number = rng.randrange(SERVICES)
        others = [number * ENDPOINTS + index for index in range(ENDPOINTS)]
        others[count % ENDPOINTS] = SERVICES * ENDPOINTS + count
        yield "an endpoint changes", endpoint_slice(number, others)
        yield "a service changes", service(number, port=PORT + 1)


class _BareCommit:
    """The kernel's part alone: a prepared batch is committed into an empty table."""

    def __init__(self, objects: list[Object]) -> None:
        table = ServiceResolver(CONFIG, objects)
        set_specs = {spec.name: spec for spec in (*policy_base.SET_SPECS, *service_base.SET_SPECS)}
        self._requests = batch.encode_transaction(ServiceRenderer(table).update(table.services), set_specs).requests

    def __call__(self) -> float:
        namespace = anonymous_namespace()
        thread = NetnsThread(namespace)
        gc.collect()
        try:
            asyncio.run(_text(namespace))
            socket = thread.run(lambda: netlink.Socket(netlink.NETFILTER))
            start = time.perf_counter()
            failure = commit_batch(socket, self._requests)
            took = time.perf_counter() - start
            socket.close()
        finally:
            thread.close()
            os.close(namespace)
        assert failure is None, failure
        return took


async def _text(namespace: int) -> None:
    set_specs = (*policy_base.SET_SPECS, *service_base.SET_SPECS)
    nft_table = KernelNftTable(
        NetnsThread(namespace), spec=TableSpec(POLICY_TABLE, f"{policy_base.TEXT}\n{service_base.TEXT}", set_specs)
    )
    await nft_table.start()
    await nft_table.sync(Transaction())
    await nft_table.stop()


# The comparison


def _theirs() -> float:
    """Seconds to format and load the ruleset."""
    namespace = anonymous_namespace()
    thread = NetnsThread(namespace)
    try:
        load = partial(run, "nft", "-f", "-")
        took = seconds(lambda: thread.run(lambda: load(stdin="".join(_ruleset()))))
    finally:
        thread.close()
        os.close(namespace)
    return took * SERVICES / THEIRS


def _ruleset() -> Iterator[str]:
    """A chain for each endpoint, a chain for each service with a map of the former, and a map of the latter."""
    yield "table ip naive {\n"
    for number in range(THEIRS):
        for index in range(ENDPOINTS):
            address = endpoint_ip(number * ENDPOINTS + index)
            yield f" chain endpoint-{number}-{index} {{\n"
            yield f"  ip saddr {address} meta mark set mark or 0x4000\n"
            yield f"  meta l4proto tcp dnat to {address}:{TARGET}\n }}\n"
        goto = ", ".join(f"{index} : goto endpoint-{number}-{index}" for index in range(ENDPOINTS))
        yield f" chain service-{number} {{\n"
        yield f"  ip saddr != {POD_CIDR} meta mark set mark or 0x4000\n"
        yield f"  numgen random mod {ENDPOINTS} vmap {{ {goto} }}\n }}\n"
    elements = ", ".join(f"{cluster_ip(number)} . tcp . {PORT} : goto service-{number}" for number in range(THEIRS))
    yield " map services {\n  type ipv4_addr . inet_proto . inet_service : verdict\n"
    yield f"  elements = {{ {elements} }}\n }}\n"
    yield " chain prerouting {\n  type nat hook prerouting priority -100;\n"
    yield "  ip daddr . meta l4proto . th dport vmap @services\n }\n}\n"


# The agent


def _agent(objects: list[Object]) -> Iterator[Row]:
    """From exec to ready: without a table, and over the previous run's table; then with pods as well."""
    services = {"cidrs": [SERVICE_CIDR]}
    cold: list[float] = []
    again: list[float] = []
    with tempfile.TemporaryDirectory() as temporary, agents.interface("172.16.0.5/16"):
        directory = Path(temporary)
        agents.fill(directory / "store", objects)
        for number in range(STARTS + 1):
            run("nft", "delete", "table", "inet", "percale-services") if number else None
            for found in (cold, again):
                with agents.running(
                    directory, node_name(3), {"Network": POD_CIDR, "SubnetLen": 24}, services=services
                ) as agent:
                    found.append(agent.ready)
        world = f"{SERVICES:,} × {ENDPOINTS} from files, agent start to ready"
        yield at_most(world, "s", cold[1:], 2)
        yield at_most("the same over the previous table", "s", again[1:], 2)
        agents.fill(directory / "store", [obj for obj in policy_world(10_000, 0) if isinstance(obj, Pod)])
        run("nft", "delete", "table", "inet", "percale-services")
        with agents.running(
            directory, node_name(3), {"Network": POD_CIDR, "SubnetLen": 24}, services=services
        ) as agent:
            yield at_most("  agent RSS with 10,000 pods", "MiB", [agent.mebibytes("VmRSS")], 150)
            yield at_most("  the same, peak", "MiB", [agent.mebibytes("VmHWM")], 150)
        run("nft", "delete", "table", "inet", "percale-services")
