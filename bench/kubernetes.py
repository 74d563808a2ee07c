"""10,000 pods, Services and slices of 10 endpoints from the API server's bytes: decoded and indexed, and a whole agent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import cast

from bench import agents, api_world, service_world
from bench.rows import Row, at_most, run
from percale.agent.main import GC_THRESHOLD
from percale.kernel import syscalls
from percale.model.endpoints import EndpointSlice
from percale.model.pod import Pod
from percale.model.service import Service
from percale.policy.evaluator import Evaluator
from percale.service.node_context import ServiceConfig
from percale.service.resolver import ServiceResolver
from percale.store.kubernetes.api_client import ApiClient
from percale.store.kubernetes.node_leases import LeaseFormat
from percale.store.kubernetes.resources import Operation
from percale.store.kubernetes.watch import ApiWatch
from percale.store.protocol import Snapshot

COUNT, ENDPOINTS = 10_000, 10
ROUNDS = 5


class _Pages:
    """An ApiClient without a network."""

    server = "bench"

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def get(self, path: str, _operation: Operation, params: Mapping[str, str]) -> bytes:
        return api_world.page(self._directory, path.rpartition("/")[2], params.get("continue", ""))

    async def watch(self, *_request: object) -> AsyncGenerator[bytes]:
        await asyncio.Event().wait()
        yield b""


async def decode_and_index(directory: Path) -> None:
    """As an agent does it at its start."""
    watch = ApiWatch(cast("ApiClient", _Pages(directory)), LeaseFormat(), (Pod, Service, EndpointSlice))
    async with contextlib.aclosing(watch.events()) as events:
        snapshot = await anext(events)
        assert isinstance(snapshot, Snapshot)
        evaluator = Evaluator(snapshot.of(Pod))
        resolver = ServiceResolver(_CONFIG, chain(snapshot.of(EndpointSlice), snapshot.of(Service)))
        assert evaluator is not None
        assert sum(1 for _ in resolver.object_keys) >= COUNT


_CONFIG = ServiceConfig(node=api_world.NODE)


def measure() -> Iterator[Row]:
    """Each round in a process of its own, for its memory; the agent reads over HTTP."""
    with tempfile.TemporaryDirectory() as temporary:
        world = Path(temporary) / "world"
        api_world.write(world, COUNT, ENDPOINTS)
        rounds = [json.loads(run(sys.executable, "-m", "bench.kubernetes", str(world))) for _ in range(ROUNDS)]
        what = "10,000 pods, Services, slices × 10 from API bytes"
        yield at_most(f"{what}: decoded, indexed", "CPU s", [each["seconds"] for each in rounds], 1.5)
        yield at_most("the same, peak RSS", "MiB", [each["mebibytes"] for each in rounds], 150)
        yield from _agent(Path(temporary), world)


def _agent(directory: Path, world: Path) -> Iterator[Row]:
    kubeconfig = directory / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c"}}],
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:8001"}}],
            }
        )
    )
    run("ip", "link", "set", "lo", "up")
    services = {"cidrs": [service_world.SERVICE_CIDR], "healthz": None}
    network: dict[str, object] = {"Network": "10.244.0.0/16"}
    server = subprocess.Popen([sys.executable, "-m", "bench.api_world", str(world)])
    try:
        time.sleep(2)
        with (
            agents.interface(f"{api_world.ADDRESS}/12"),
            agents.running(
                directory, api_world.NODE, network, store=f"kubernetes:{kubeconfig}", services=services
            ) as agent,
        ):
            yield at_most("an agent over the same, once ready: RSS", "MiB", [agent.mebibytes("VmRSS")], 150)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    gc.set_threshold(GC_THRESHOLD)
    syscalls.share_memory_arena()
    began = time.process_time()
    asyncio.run(decode_and_index(Path(sys.argv[1])))
    took = time.process_time() - began
    print(json.dumps({"seconds": took, "mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
