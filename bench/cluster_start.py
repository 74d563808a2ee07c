"""A whole agent's start against a real kube-apiserver, until Services are in the kernel; kube-proxy's in the same run.

Both run in the benchmark's network namespace, one after the other, over 10,000 pods, Services and slices of 10 endpoints.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median

from bench import agents, api_server, api_world, service_world
from bench.programs import built
from bench.rows import Row, ratio, run

COUNT, ENDPOINTS = 10_000, 10
ROUNDS = 3
_MODES = ("nftables", "iptables")
_METRICS = "127.0.0.1:10249"
_PROGRAMMED = "kubeproxy_sync_proxy_rules_last_timestamp_seconds"
_PATIENCE = 120.0
"""Seconds after which kube-proxy's sample is this: iptables-nft-restore may take many minutes."""
_POLL = 0.1
"""Each look costs kube-proxy milliseconds: it counts its rules."""


def _percale(server: api_server.ApiServer) -> tuple[float, float]:
    """Seconds until ready, and of CPU until then."""
    services = {"cidrs": [service_world.SERVICE_CIDR], "healthz": None}
    with (
        tempfile.TemporaryDirectory() as temporary,
        agents.running(
            Path(temporary),
            api_world.NODE,
            json.loads(api_server.NETWORK),
            store=f"kubernetes:{server.kubeconfig}",
            services=services,
        ) as agent,
    ):
        return agent.ready, agent.cpu_seconds


def _kube_proxy(server: api_server.ApiServer, mode: str) -> tuple[float, float]:
    """The same, until it has programmed both families once."""
    command = [
        str(built("kube-proxy")),
        f"--kubeconfig={server.kubeconfig}",
        f"--proxy-mode={mode}",
        f"--hostname-override={api_world.NODE}",
        "--cluster-cidr=10.244.0.0/16",
        f"--metrics-bind-address={_METRICS}",
        *(
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ),
    ]
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=log, stderr=log) as process:
            try:
                while not _has_programmed() and time.perf_counter() < start + _PATIENCE:
                    if process.poll() is not None:
                        log.seek(0)
                        raise RuntimeError(f"kube-proxy --proxy-mode={mode}: {log.read().decode()[-2000:]}")
                    time.sleep(_POLL)
                return time.perf_counter() - start, agents.cpu_seconds(process.pid)
            finally:
                process.kill()


def _has_programmed() -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://{_METRICS}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
        times = [float(line.rpartition(" ")[2]) for line in lines if line.startswith(_PROGRAMMED)]
        return bool(times) and all(times)
    return False


def measure() -> Iterator[Row]:
    """In turn; what they leave in the kernel is removed after each."""
    run("ip", "link", "set", "lo", "up")
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in ("percale", *_MODES)}
    with (
        tempfile.TemporaryDirectory() as temporary,
        agents.interface(f"{api_world.ADDRESS}/12"),
        api_server.serving(Path(temporary), api_world.registry(COUNT, ENDPOINTS)) as server,
    ):
        for _ in range(ROUNDS):
            for name, found in samples.items():
                found.append(_percale(server) if name == "percale" else _kube_proxy(server, name))
                run("nft", "flush", "ruleset")
    ours = samples.pop("percale")
    better = min(samples, key=lambda mode: median(took for took, _ in samples[mode]))
    for place, what, unit in (
        (0, f"start at 10,000 Services, against {better} kube-proxy", "s"),
        (1, "the same, CPU", "CPU s"),
    ):
        mine, others = ([each[place] for each in found] for found in (ours, samples[better]))
        yield ratio(what, unit, mine, others, 0.25, most=True)
