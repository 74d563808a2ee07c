"""Client, node and server, each a network namespace; the node forwards, and has the agent's table. Used by rows.

client 10.128.0.1 ── node ── server 10.128.0.2
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.rows import run
from percale.agent.nft_table import merge_transactions
from percale.kernel.netns import NetnsThread
from percale.kernel.nftables.table import KernelNftTable
from percale.render.nft.objects import POLICY_TABLE, TableSpec, Transaction
from percale.render.policy import base_chains as enforcing
from percale.render.service import base_chains as balancing

CLIENT, SERVER = "10.128.0.1", "10.128.0.2"
PORT = 8080
_CONNECTIONS = 2000


@dataclass(frozen=True, slots=True)
class Wires:
    """One client, one node, one server."""

    name: str

    def inside(self, who: str) -> tuple[str, ...]:
        """How to run a command at the client, the node or the server."""
        return "ip", "netns", "exec", f"{self.name}-{who}"

    def load(self, *edits: Transaction) -> None:
        """The node's table holds these and nothing else."""
        asyncio.run(self._load(merge_transactions(edits)))

    async def _load(self, image: Transaction) -> None:
        namespace = os.open(f"/run/netns/{self.name}-node", os.O_RDONLY)
        shapes = (*enforcing.SET_SPECS, *balancing.SET_SPECS)
        place = NetnsThread(namespace)
        os.close(namespace)
        nft_table = KernelNftTable(place, spec=TableSpec(POLICY_TABLE, f"{enforcing.TEXT}\n{balancing.TEXT}", shapes))
        await nft_table.start()
        await nft_table.sync(image)
        await nft_table.stop()

    def connects(self, address: str, port: int) -> tuple[float, float]:
        """Microseconds until a connection stands, and connections in a second."""
        command = (sys.executable, "-m", "bench.connecting", "connect", address, str(port), str(_CONNECTIONS))
        took, rate = json.loads(run(*self.inside("client"), *command))
        return took, rate


@contextlib.contextmanager
def wires(name: str) -> Iterator[Wires]:
    """Made by hand, with a server that listens."""
    made = Wires(name)
    names = [f"{name}-{who}" for who in ("client", "node", "server")]
    try:
        for each in names:
            run("ip", "netns", "add", each)
            run("ip", "-n", each, "link", "set", "lo", "up")
        for who, address in (("client", CLIENT), ("server", SERVER)):
            end, node = f"{name}-{who}", f"{name}-node"
            pair = f"link add eth0 netns {end} up type veth peer name pcl-{who} netns {node}"
            for line in (
                pair,
                f"-n {node} link set pcl-{who} up",
                f"-n {node} route add {address} dev pcl-{who}",
                f"-n {end} addr add {address}/32 dev eth0",
                f"-n {end} route add 169.254.1.1 dev eth0",
                f"-n {end} route add default via 169.254.1.1 dev eth0",
            ):
                run("ip", *line.split())
        run(*made.inside("node"), "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        run(*made.inside("node"), "sysctl", "-q", "-w", "net.netfilter.nf_conntrack_max=1000000")
        for who in ("client", "server"):
            run(*made.inside("node"), "sysctl", "-q", "-w", f"net.ipv4.conf.pcl-{who}.proxy_arp=1")
            run(*made.inside("node"), "ip", "addr", "add", "169.254.1.1/32", "dev", f"pcl-{who}")
        with serving(made.inside("server"), PORT):
            yield made
    finally:
        for each in names:
            subprocess.run(["ip", "netns", "del", each], capture_output=True, check=False)


@contextlib.contextmanager
def serving(inside: Sequence[str], port: int) -> Iterator[None]:
    """A server in there, listening when this begins."""
    with subprocess.Popen([*inside, sys.executable, "-m", "bench.connecting", "serve", str(port)]) as process:
        try:
            probe = [*inside, sys.executable, "-m", "bench.connecting", "connect", "127.0.0.1", str(port), "1"]
            deadline = time.monotonic() + 10
            while subprocess.run(probe, capture_output=True, check=False).returncode:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"nobody listens at port {port}")
            yield
        finally:
            process.terminate()
