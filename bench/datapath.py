"""Pod to pod over two nodes, one TCP stream and ping: a lab against the same network made with `ip`, no firewall."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.lab_pair import lab_pair
from bench.rows import Row, in_turn, ratio, run

ROUNDS = 7
PING_ROUNDS = 41
STREAM_SECONDS = "2"
PINGS = 3000


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pods: the prefix of commands run in each, and the server's address."""

    client: tuple[str, ...]
    server: tuple[str, ...]
    address: str

    def throughput(self) -> float:
        """Gbit/s of one TCP stream."""
        with subprocess.Popen([*self.server, "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL) as listener:
            try:
                out = until_connected([*self.client, "iperf3", "-c", self.address, "-t", STREAM_SECONDS, "-f", "g"])
            finally:
                listener.terminate()
        found = re.search(r"([\d.]+) Gbits/sec\s+receiver", out)
        assert found is not None, out
        return float(found[1])

    def latency(self) -> float:
        """The mean round trip in µs, from the total time of many pings sent back to back: ping prints whole µs only."""
        out = run(*self.client, "ping", "-q", "-A", "-c", str(PINGS), self.address)
        found = re.search(r"time (\d+)ms", out)
        assert found is not None, out
        return int(found[1]) * 1000 / PINGS


def until_connected(command: list[str]) -> str:
    """The command's output, retried until its server listens."""
    deadline = time.monotonic() + 5
    while True:
        try:
            return run(*command)
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextlib.contextmanager
def _by_lab(backend: str) -> Iterator[Pair]:
    with lab_pair(f"bench-{backend}", backend=backend) as lab:
        yield Pair(lab.inside("client"), lab.inside("server"), lab.address)


def _hand_made(prefix: str, backend: str) -> str:
    """`ip` commands for two nodes on one bridge with a pod behind each."""
    lines = [f"netns add {prefix}w", f"-n {prefix}w link add br0 up type bridge"]
    for me, other in ((1, 2), (2, 1)):
        node, pod, vtep = f"{prefix}n{me}", f"{prefix}p{me}", f"0a:00:00:00:00:0{other}"
        lines += [f"netns add {node}", f"netns add {pod}"]
        lines += [f"-n {prefix}w link add n{me} up master br0 type veth peer name eth0 netns {node}"]
        lines += [f"-n {node} addr add 172.30.0.{me}/24 dev eth0", f"-n {node} link set eth0 up"]
        lines += [f"-n {node} link add pod address ee:ee:ee:ee:ee:ee up type veth peer name eth0 netns {pod}"]
        lines += [f"-n {pod} addr add 10.9.{me}.2/32 dev eth0", f"-n {pod} link set eth0 up"]
        lines += [f"-n {pod} route add 169.254.1.1 dev eth0", f"-n {pod} route add default via 169.254.1.1 dev eth0"]
        lines += [f"-n {pod} neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0"]
        lines += [f"-n {node} route add 10.9.{me}.2 dev pod"]
        if backend == "host-gw":
            lines += [f"-n {node} route add 10.9.{other}.0/24 via 172.30.0.{other}"]
            continue
        lines += [
            f"-n {pod} link set eth0 mtu 1450",
            f"-n {node} link set pod mtu 1450",
            f"-n {node} link add vx type vxlan id 1 local 172.30.0.{me} dev eth0 dstport 8472 nolearning",
            f"-n {node} link set vx address 0a:00:00:00:00:0{me} mtu 1450 up",
            f"-n {node} addr add 10.9.{me}.0/32 dev vx",
            f"-n {node} neigh add 10.9.{other}.0 lladdr {vtep} dev vx",
            f"-n {node} route add 10.9.{other}.0/24 via 10.9.{other}.0 dev vx onlink",
        ]
    return "\n".join(lines)


@contextlib.contextmanager
def _by_hand(backend: str) -> Iterator[Pair]:
    prefix = f"hand-{backend}-"
    names = [f"{prefix}{name}" for name in ("w", "n1", "n2", "p1", "p2")]
    try:
        for line in _hand_made(prefix, backend).splitlines():
            run("ip", *line.split())
        for me, other in ((1, 2), (2, 1)):
            node = ("ip", "netns", "exec", f"{prefix}n{me}")
            run(*node, "sysctl", "-q", "net.ipv4.ip_forward=1")
            if backend == "vxlan":
                fdb = f"fdb add 0a:00:00:00:00:0{other} dev vx dst 172.30.0.{other} self permanent"
                run(*node, "bridge", *fdb.split())
        enter = ("ip", "netns", "exec")
        yield Pair((*enter, f"{prefix}p1"), (*enter, f"{prefix}p2"), "10.9.2.2")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def measure() -> Iterator[Row]:
    """Throughput and latency of both backends, interleaved with the hand-made network."""
    for backend in ("vxlan", "host-gw"):
        with _by_lab(backend) as lab, _by_hand(backend) as hand:
            ours, theirs = in_turn(ROUNDS, lab.throughput, hand.throughput)
            yield ratio(f"{backend}: TCP stream, against by hand", "Gbit/s", ours, theirs, 0.98, most=False)
            ours, theirs = in_turn(PING_ROUNDS, lab.latency, hand.latency)
            yield ratio(f"{backend}: ping, against by hand", "µs", ours, theirs, 1.1, most=True)
