"""Where attacks happen: two nodes with real agents, and on each a victim that policies protect, a friend, and an attacker.

    victim1 friend1 attacker1 ── n1 ── switch ── n2 ── attacker2 friend2 victim2

Both victims take nothing but what the two friends send; attackers take anything. All pods have both families. An attack
sends what must not arrive with one mark in it, and then, in the same way, what is permitted, with another: `World.attempt`
counts both.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, Literal, NamedTuple, TypeAlias

from tests import builders
from tests.kernel.adversary import frames
from tests.kernel.agent.cluster import NETNS, Cluster, Node, Pod, sh
from tests.kernel.agent.policies import DENY, Policies, allowing, selecting
from tests.kernel.agent.services import Services
from tests.kernel.inside import inside
from tests.waiting import until

from percale.model.backend_options import OPTIONS
from percale.render.network.pod_veth import HOST_MAC

Family: TypeAlias = Literal[4, 6]
FAMILIES: tuple[Family, ...] = (4, 6)
WIRINGS = ("routed", "bridge")
BACKENDS: dict[str, dict[str, Any]] = {
    "vxlan": {"Type": "vxlan"},
    "direct": {"Type": "vxlan", "DirectRouting": True},
    "host-gw": {"Type": "host-gw"},
    "udp": {"Type": "udp"},
    "bgp": {"Type": "bgp"},
}
"""By name, the net-conf's Backend. A new one meets all attacks."""
TUNNEL_PORTS = {"udp": 8285}
"""Of backends whose port is not vxlan's, which is closed without a tunnel, too."""

NODE_ADDRESSES: dict[Family, tuple[str, str]] = {4: ("192.168.0.1", "192.168.0.2"), 6: ("fd00::1", "fd00::2")}
SWITCH: dict[Family, str] = {4: "192.168.0.254", 6: "fd00::254"}
"""A host outside, whose namespace is called so too."""
_NETWORK = {"Network": "10.244.0.0/16"}
_DUAL = {**_NETWORK, "EnableIPv6": True, "IPv6Network": "fd00:244::/48"}
_SERVICE_NETWORKS: dict[Family, str] = {4: "10.96.0.0/16", 6: "fd00:96::/112"}
_ROLES = ("victim", "friend", "attacker")
_FRIENDS = ("friend1", "friend2")
_EVERYTHING = 0x0003
_SO_RCVBUFFORCE = 33
_MORE_THAN_ENOUGH = 8 << 20


class Terms(NamedTuple):
    """What worlds differ in."""

    wiring: str
    backend: str

    def __str__(self) -> str:
        return f"{self.wiring}-{self.backend}"

    @property
    def families(self) -> tuple[Family, ...]:
        """Of the pods."""
        carried = OPTIONS[BACKENDS[self.backend]["Type"]].families
        return tuple(family for family in FAMILIES if family in carried)

    @property
    def tunnel_port(self) -> int:
        return TUNNEL_PORTS.get(self.backend, 8472)


TERMS = [Terms(*each) for each in itertools.product(WIRINGS, BACKENDS)]


class Sniffer:
    """Counts the marks in whatever comes into a namespace, by any of its devices; what leaves it does not count."""

    def __init__(self, namespace: str) -> None:
        self._socket = packet_socket(namespace, _EVERYTHING)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _MORE_THAN_ENOUGH)
        self._seen: list[bytes] = []

    def count(self, mark: bytes) -> int:
        """Packets with this mark until now."""
        while True:
            try:
                packet, place = self._socket.recvfrom(4096)
            except BlockingIOError:
                return sum(mark in packet for packet in self._seen)
            if place[2] != socket.PACKET_OUTGOING:
                self._seen.append(packet)

    def close(self) -> None:
        self._socket.close()


class Attempt:
    """One attack. Packets with `forbidden` in them must not arrive at any of the places; `permitted` must, and after them."""

    def __init__(self, number: int, sniffers: dict[str, Sniffer]) -> None:
        self.forbidden = f"<forbidden {number}>".encode()
        self.permitted = f"<permitted {number}>".encode()
        self._sniffers = sniffers
        self._controlled: set[str] = set()

    def control(self, place: str, send: Callable[[bytes], object]) -> None:
        """Have `send` put what is permitted on the same way until it arrives here: so would have the forbidden."""
        sniffer = self._sniffers[place]

        def arrived() -> int:
            with suppress(BlockingIOError):
                send(self.permitted)
            time.sleep(0.01)
            return sniffer.count(self.permitted)

        until(arrived, f"the control arrives at {place}")
        self._controlled.add(place)

    def arrived(self) -> Counter[str]:
        """Forbidden packets by place, at the end."""
        assert self._controlled == self._sniffers.keys(), "each place needs a control"
        return +Counter({place: each.count(self.forbidden) for place, each in self._sniffers.items()})


class World:
    """Made once for all attacks on the same terms."""

    def __init__(self, cluster: Cluster, terms: Terms) -> None:
        self.cluster = cluster
        self.terms = terms
        self.policies = Policies(cluster)
        self.services = Services(cluster)
        self.nodes: dict[str, Node] = {}
        self.pods: dict[str, Pod] = {}
        self._numbers = itertools.count(1)
        self._macs: dict[str, str] = {}
        self._raw: dict[str, socket.socket] = {}
        self._down = ExitStack()

    def open(self) -> World:
        self._down.callback(self.services.close)
        families = self.terms.families
        network = _DUAL if 6 in families else _NETWORK
        self.cluster.network = {**network, "Backend": BACKENDS[self.terms.backend]}
        for number in (1, 2):
            self._declare(number)
            node = self.cluster.node(number, ipv6=6 in families)
            node.settings["services"] = {"cidrs": [_SERVICE_NETWORKS[family] for family in families]}
            node.settings["cni"]["wiring"] = self.terms.wiring
            self.nodes[node.name] = node.launch()
        self.policies.policy("deny", DENY)
        for number in (1, 2):
            self.policies.policy(f"victim{number}", allowing(f"victim{number}", *_FRIENDS))
            self.policies.policy(f"attacker{number}", {**selecting(f"attacker{number}"), "ingress": [{}]})
        for node in self.nodes.values():
            node.wait_ready()
        for role, number in itertools.product(_ROLES, (1, 2)):
            name = f"{role}{number}"
            self.pods[name] = self.policies.pod(self.nodes[f"n{number}"], name)
        for friend, number, family in itertools.product(_FRIENDS, (1, 2), families):
            victim = self.address(f"victim{number}", family)
            until(lambda friend=friend, victim=victim: self.pods[friend].reaches(victim), f"{friend} gets in")  # type: ignore[misc]
        return self

    def _declare(self, number: int) -> None:
        """The Node object: Services look for its addresses there."""
        own = [both[number - 1] for both in NODE_ADDRESSES.values()]
        self.services.write(f"node-n{number}", builders.node(f"n{number}", *own))

    def write_service(self, name: str, vip: str, endpoint: str, port: dict[str, Any], **more: Any) -> None:
        """A manifest of this name: a Service of node port and cluster IP with one endpoint, wherever that is."""
        family = f"IPv{6 if ':' in vip else 4}"
        fields = {"type": "NodePort", "clusterIP": vip, "clusterIPs": [vip], "ipFamilies": [family], **more}
        ports = [{"port": port.get("targetPort", port["port"]), "protocol": port["protocol"]}]
        service = builders.service(name, ports=[port], **fields)
        self.services.write(name, service, builders.endpoint_slice(name, endpoint, ports=ports))

    def close(self) -> None:
        for each in self._raw.values():
            each.close()
        self._down.close()

    # Who and where

    def address(self, name: str, family: Family) -> str:
        return self.pods[name].addresses[family == 6]

    def mac(self, namespace: str, device: str = "eth0") -> str:
        """Of a device in a pod, a node or the switch."""
        key = f"{namespace}/{device}"
        if key not in self._macs:
            shown = sh(namespace, "ip", "-o", "link", "show", device)
            self._macs[key] = shown.partition("link/ether ")[2].split()[0]
        return self._macs[key]

    def gateway_mac(self, name: str) -> str:
        """What a pod's packets for elsewhere are addressed to."""
        return HOST_MAC if self.terms.wiring == "routed" else self.mac(self.pods[name].node.name, "cni0")

    def next_mac(self, name: str, target: str) -> str:
        """The MAC that a pod's own kernel would send to for another pod's packet."""
        there = next((each for each in self.pods.values() if target in each.addresses), None)
        if self.terms.wiring == "bridge" and there is not None and there.node is self.pods[name].node:
            return self.mac(there.name)
        return self.gateway_mac(name)

    # Sending

    def inject(self, name: str, frame: bytes, times: int = 1) -> None:
        """A frame out of a namespace's eth0, whatever its headers say."""
        if name not in self._raw:
            self._raw[name] = packet_socket(name, 0, socket.SOCK_RAW)
            self._raw[name].bind(("eth0", 0))
        for _ in range(times):
            self._raw[name].send(frame)

    def frame(self, name: str, packet: bytes, target: str) -> bytes:
        """An IP packet in the frame that the pod's own kernel would put it into."""
        return frames.ethernet(self.mac(name), self.next_mac(name, target), packet)

    def datagram(self, name: str, target: str, port: int, payload: bytes, source: str | None = None) -> None:
        """By UDP, raw, from the pod's own address unless another is given."""
        own = source or self.address(name, 6 if ":" in target else 4)
        self.inject(name, self.frame(name, frames.packet(own, target, frames.udp(40000, port, payload)), target))

    # Counting

    @contextmanager
    def sniffing(self, *places: str) -> Iterator[Attempt]:
        """Its packets are looked for at these pods, nodes (or the switch)."""
        with ExitStack() as stack:
            sniffers = {place: stack.enter_context(closing(Sniffer(place))) for place in places}
            yield Attempt(next(self._numbers), sniffers)

    @contextmanager
    def attempt(self, *places: str) -> Iterator[Attempt]:
        """Nothing forbidden arrives at these places; something permitted does at each of them."""
        with self.sniffing(*places) as attempt:
            yield attempt
            assert not (arrived := attempt.arrived()), f"arrived: {dict(arrived)}"


class Attack(NamedTuple):
    """`only` are the wirings and backends that it is about; empty: all."""

    name: str
    run: Callable[[World, Family], None]
    families: tuple[Family, ...]
    only: frozenset[str]

    def meets(self, terms: Terms) -> bool:
        """It makes sense there."""
        return all(
            not self.only & set(group) or each in self.only
            for each, group in zip(terms, (WIRINGS, BACKENDS), strict=True)
        )


ATTACKS: list[Attack] = []
"""All that modules named attacks_*.py have; `test_attacks.py` runs each in every world that it fits."""


def attack(
    *, only: Iterable[str] = (), families: tuple[Family, ...] = FAMILIES
) -> Callable[[Callable[[World, Family], None]], Callable[[World, Family], None]]:
    """Its docstring says what it tries and what must hold. Leave the world as it was, for the next one."""

    def register(run: Callable[[World, Family], None]) -> Callable[[World, Family], None]:
        assert run.__doc__, f"{run.__name__} does not say what it tries"
        ATTACKS.append(Attack(run.__name__, run, families, frozenset(only)))
        return run

    return register


def packet_socket(namespace: str, kind: int, style: int = socket.SOCK_RAW) -> socket.socket:
    return inside(NETNS / namespace, lambda: socket.socket(socket.AF_PACKET, style, socket.htons(kind)))
