"""Client, node and server, each a network namespace; the node forwards and has the agent's table.

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
from percale.agent.table_sections import merge_transactions
from percale.kernel.netns import NetnsThread
from percale.kernel.nftables.table import KernelNftTable
from percale.render.nft.objects import POLICY_TABLE, TableSpec, Transaction
from percale.render.policy import base_chains as policy_base
from percale.render.service import base_chains as service_base

CLIENT, SERVER = "10.128.0.1", "10.128.0.2"
PORT = 8080
_CONNECTIONS = 2000


@dataclass(frozen=True, slots=True)
class RoutedPair:
    """A client and a server behind one node."""

    name: str

    def inside(self, role: str) -> tuple[str, ...]:
        """The prefix of a command run at the client, the node or the server."""
        return "ip", "netns", "exec", f"{self.name}-{role}"

    def load(self, *transactions: Transaction) -> None:
        """Load exactly these transactions into the node's table."""
        asyncio.run(self._load(merge_transactions(transactions)))

    async def _load(self, transaction: Transaction) -> None:
        namespace = os.open(f"/run/netns/{self.name}-node", os.O_RDONLY)
        set_specs = (*policy_base.SET_SPECS, *service_base.SET_SPECS)
        thread = NetnsThread(namespace)
        os.close(namespace)
        nft_table = KernelNftTable(
            thread, spec=TableSpec(POLICY_TABLE, f"{policy_base.TEXT}\n{service_base.TEXT}", set_specs)
        )
        await nft_table.start()
        await nft_table.sync(transaction)
        await nft_table.stop()

    def connects(self, address: str, port: int) -> tuple[float, float]:
        """The median time to connect in microseconds, and connections per second."""
        command = (sys.executable, "-m", "bench.connections", "connect", address, str(port), str(_CONNECTIONS))
        took, rate = json.loads(run(*self.inside("client"), *command))
        return took, rate


@contextlib.contextmanager
def routed_pair(name: str) -> Iterator[RoutedPair]:
    """The three namespaces, with a server that listens on PORT."""
    pair = RoutedPair(name)
    names = [f"{name}-{role}" for role in ("client", "node", "server")]
    try:
        for each in names:
            run("ip", "netns", "add", each)
            run("ip", "-n", each, "link", "set", "lo", "up")
        for role, address in (("client", CLIENT), ("server", SERVER)):
            namespace, node = f"{name}-{role}", f"{name}-node"
            veth = f"link add eth0 netns {namespace} up type veth peer name pcl-{role} netns {node}"
            for line in (
                veth,
                f"-n {node} link set pcl-{role} up",
                f"-n {node} route add {address} dev pcl-{role}",
                f"-n {namespace} addr add {address}/32 dev eth0",
                f"-n {namespace} route add 169.254.1.1 dev eth0",
                f"-n {namespace} route add default via 169.254.1.1 dev eth0",
            ):
                run("ip", *line.split())
        run(*pair.inside("node"), "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        run(*pair.inside("node"), "sysctl", "-q", "-w", "net.netfilter.nf_conntrack_max=1000000")
        for role in ("client", "server"):
            run(*pair.inside("node"), "sysctl", "-q", "-w", f"net.ipv4.conf.pcl-{role}.proxy_arp=1")
            run(*pair.inside("node"), "ip", "addr", "add", "169.254.1.1/32", "dev", f"pcl-{role}")
        with serving(pair.inside("server"), PORT):
            yield pair
    finally:
        for each in names:
            subprocess.run(["ip", "netns", "del", each], capture_output=True, check=False)


@contextlib.contextmanager
def serving(inside: Sequence[str], port: int) -> Iterator[None]:
    """A server that listens on this port within this block."""
    with subprocess.Popen([*inside, sys.executable, "-m", "bench.connections", "serve", str(port)]) as process:
        try:
            probe = [*inside, sys.executable, "-m", "bench.connections", "connect", "127.0.0.1", str(port), "1"]
            deadline = time.monotonic() + 10
            while subprocess.run(probe, capture_output=True, check=False).returncode:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"no server listens on port {port}")
            yield
        finally:
            process.terminate()
