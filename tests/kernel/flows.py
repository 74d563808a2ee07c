"""A node that forwards between two pods, with `table inet percale` loaded by hand: what tests of connections share.

a 10.244.1.2, fd00:244:1::2 ── node ── b 10.244.2.2, fd00:244:2::2
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TypeVar

from tests.kernel.conftest import Space
from tests.kernel.inside import inside

from percale.kernel.netlink.conntrack import Conntrack
from percale.render.policy.base_chains import TEXT

T = TypeVar("T")

A = {4: "10.244.1.2", 6: "fd00:244:1::2"}
B = {4: "10.244.2.2", 6: "fd00:244:2::2"}
VIP = {4: "10.96.0.10", 6: "fd00:96::a"}
PORT = 8080
VIP_PORT = 80
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
PATIENCE = 30.0
"""Seconds until what must come is there."""
SILENCE = 0.3
"""Seconds without a byte that count as a stall; the first retransmission comes after 0.2."""

CLOSED = """\
    chain closed {
        drop comment "np:default/closed#ingress"
    }
"""
"""A class that allows nothing."""

SERVICE = f"""\
table inet service {{
    chain to {{
        type nat hook prerouting priority dstnat; policy accept;
        ip daddr {VIP[4]} tcp dport {VIP_PORT} dnat ip to {B[4]}:{PORT}
        ip6 daddr {VIP[6]} tcp dport {VIP_PORT} dnat ip6 to [{B[6]}]:{PORT}
    }}
    chain from {{
        type nat hook postrouting priority srcnat; policy accept;
        ct status dnat masquerade
    }}
}}
"""
"""A service in front of b that hides the client, as kube-proxy may do it."""


@dataclass
class Wire:
    """One established connection (TCP) or exchange (UDP), by its two sockets."""

    client: socket.socket
    server: socket.socket

    def passes(self, *, answers: bool = False) -> bool:
        """A byte gets through, from the client or as an answer; TCP has time to send again what was lost."""
        return self._arrives(PATIENCE, answers=answers)

    def stalls(self, *, answers: bool = False) -> bool:
        """No byte gets through."""
        return not self._arrives(SILENCE, answers=answers)

    def close(self) -> None:
        self.client.close()
        self.server.close()

    def _arrives(self, within: float, *, answers: bool) -> bool:
        source, target = (self.server, self.client) if answers else (self.client, self.server)
        source.send(b"x")
        target.settimeout(within)
        try:
            return bool(target.recv(4096))
        except TimeoutError:
            return False


@dataclass
class World:
    """The `world` fixture."""

    node: Space
    a: Space
    b: Space

    def open(self) -> World:
        self.node.shell(
            "ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
        )
        for number, pod in enumerate((self.a, self.b), 1):
            self.node.shell(
                f"ip link add p{number} type veth peer name eth0 netns {pod.path}; ip link set p{number} up; "
                f"ip addr add 10.244.{number}.1/24 dev p{number}; "
                f"ip addr add fd00:244:{number}::1/64 dev p{number} nodad"
            )
            pod.shell(
                "ip link set lo up; ip link set eth0 up; "
                f"ip addr add 10.244.{number}.2/24 dev eth0; ip addr add fd00:244:{number}::2/64 dev eth0 nodad; "
                f"ip route add default via 10.244.{number}.1; ip -6 route add default via fd00:244:{number}::1"
            )
        self.nft(f"table inet percale {{\n{CLOSED}{TEXT}}}\n")
        return self

    def nft(self, commands: str) -> None:
        self.node.shell(f"nft -f - <<'END'\n{commands}\nEND")

    def close_b(self) -> None:
        """From now on b takes no new connection."""
        self.nft(
            f"add element inet percale ingress4 {{ {B[4]} : jump closed }}\n"
            f"add element inet percale ingress6 {{ {B[6]} : jump closed }}"
        )

    def open_b(self) -> None:
        """And again it does."""
        self.nft("flush map inet percale ingress4\nflush map inet percale ingress6")

    def conntrack(self) -> Conntrack:
        return inside(self.node, Conntrack)

    def tcp(self, version: int, *, via: tuple[str, int] | None = None) -> Wire:
        """A connection of a to b that has passed a byte each way."""
        family = FAMILIES[version]
        with inside(self.b, lambda: socket.create_server((B[version], PORT), family=family)) as listener:
            client = inside(self.a, lambda: socket.socket(family, socket.SOCK_STREAM))
            client.settimeout(PATIENCE)
            client.connect(via or (B[version], PORT))
            wire = Wire(client, listener.accept()[0])
        assert wire.passes()
        assert wire.passes(answers=True)
        return wire

    def udp(self, version: int) -> Wire:
        """The same with datagrams."""
        family = FAMILIES[version]
        server = inside(self.b, lambda: socket.socket(family, socket.SOCK_DGRAM))
        server.bind((B[version], PORT))
        client = inside(self.a, lambda: socket.socket(family, socket.SOCK_DGRAM))
        client.connect((B[version], PORT))
        client.send(b"x")
        server.settimeout(PATIENCE)
        server.connect(server.recvfrom(16)[1])
        wire = Wire(client, server)
        assert wire.passes()
        assert wire.passes(answers=True)
        return wire
