"""Two nodes with Services, pods that say who asked them, and a host outside: what tests of the services' packets share.

pod 7, pod 8 ── n1 ──┐                      pods answer TCP and UDP at 8080 with "NAME CLIENT"
pod 7, pod 8 ── n2 ──┴── router ── outside  (who reaches service addresses by way of n1)
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tests.kernel.conftest import Space
from tests.kernel.inside import HasNamespace, inside
from tests.kernel.nodes import DUAL, Fabric, Machine, Node, Pod
from tests.waiting import PATIENCE

from percale.kernel.netns import NetnsThread
from percale.kernel.nftables.table import KernelNftTable
from percale.model.endpoints import Endpoint, EndpointConditions, EndpointPort, EndpointSlice
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.node import Node as NodeObject
from percale.model.node import NodeAddress, NodeStatus
from percale.model.service import (
    LoadBalancerIngress,
    LoadBalancerStatus,
    Service,
    ServicePort,
    ServiceSpec,
    ServiceStatus,
)
from percale.render.network.node_elements import node_elements
from percale.render.network.pod_veth import source_elements
from percale.render.nft.objects import POLICY_TABLE, TableSpec, Transaction
from percale.render.policy import base_chains as policy_base
from percale.render.service import base_chains as service_base
from percale.render.service.renderer import ServiceRenderer
from percale.service.node_context import ServiceConfig
from percale.service.resolver import ServiceResolver

T = TypeVar("T")
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_FRESH = cycle(range(33000, 65000))
"""Ports of clients."""
KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}
PORT, TARGET, NODE_PORT = 80, 8080, 30001
CLUSTER = {4: "172.30.0.41", 6: "fd00:172::41"}
UNUSED = {4: "172.30.9.9", 6: "fd00:172::99"}
EXTERNAL = {4: "198.51.100.11", 6: "2001:db8:99::11"}
LB = {4: "198.51.100.12", 6: "2001:db8:99::12"}
PODS = {4: "10.244.0.0/16", 6: "fd00:244::/48"}
CLUSTER_IPS = {4: "172.30.0.0/16", 6: "fd00:172::/112"}
SILENCE = 0.4
"""Seconds without an answer that count as none, where none may come."""
_TOTAL_RETRANSMITS = struct.Struct("100xI")
"""In TCP_INFO."""


class Seen(NamedTuple):
    """What a client saw: `who` answered and whom it saw; else `action` says what happened."""

    action: str
    who: str = ""
    client: str = ""


class Answering:
    """Listeners of both protocols in namespaces, served by one thread: each says its name and who asked."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, ("end", ""))
        self._going = threading.Event()
        self._going.set()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def listen(self, where: Path | HasNamespace, name: str, port: int = TARGET) -> None:
        for version, family in FAMILIES.items():
            for protocol, kind in KINDS.items():
                listener = inside(where, lambda family=family, kind=kind: socket.socket(family, kind))  # type: ignore[misc]
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if version == 6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind(("", port))
                if protocol == "TCP":
                    listener.listen(512)
                listener.setblocking(False)
                self._selector.register(listener, selectors.EVENT_READ, (protocol, name))

    def pause(self) -> None:
        """Connections are taken by the kernel, and stay open."""
        self._going.clear()

    def go_on(self) -> None:
        self._going.set()

    def close(self) -> None:
        self._wake.send(b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._wake.close()
        self._selector.close()

    def _serve(self) -> None:
        while True:
            ready = self._selector.select()
            self._going.wait()
            for key, _ in ready:
                protocol, name = key.data
                if protocol == "end":
                    return
                assert isinstance(key.fileobj, socket.socket)
                with contextlib.suppress(OSError):  # the client is gone: it says so itself
                    self._answer(key.fileobj, protocol, name)

    def _answer(self, listener: socket.socket, protocol: str, name: str) -> None:
        if protocol == "TCP":
            connection, peer = listener.accept()
            with connection:
                connection.sendall(f"{name} {peer[0]}".encode())
        else:
            _, peer = listener.recvfrom(64)
            listener.sendto(f"{name} {peer[0]}".encode(), peer)


def ask(
    where: Path | HasNamespace,
    target: str,
    port: int,
    protocol: str = "TCP",
    *,
    source: tuple[str, int] | None = None,
    within: float = PATIENCE,
) -> Seen:
    """One connection; `within` in seconds. That TCP sent a packet again counts as a drop, too."""
    family = FAMILIES[ip_address(target).version]
    with inside(where, lambda: socket.socket(family, KINDS[protocol])) as client:
        client.settimeout(within)
        if source is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind(source)
        elif protocol == "UDP":
            client.bind(("", next(_FRESH)))  # the kernel might choose one of a flow that it still knows
        try:
            client.connect((target, port))
            if protocol == "UDP":
                with contextlib.suppress(PermissionError):  # this node's own packet was stopped on its way out
                    client.send(b"who?")
            who, _, seen = client.recv(64).decode().partition(" ")
        except TimeoutError:
            return Seen("drop")
        except ConnectionRefusedError:
            return Seen("reject")
        except OSError as error:
            if error.errno != errno.EHOSTUNREACH:  # its flow still leads to an address that no pod has any more
                raise
            return Seen("drop")
        if protocol == "TCP":
            info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TOTAL_RETRANSMITS.size)
            if _TOTAL_RETRANSMITS.unpack(info) != (0,):
                return Seen("drop")
        return Seen("endpoints", who, seen)


class ServiceNode:
    """A node's table of services, in its kernel."""

    def __init__(self, node: Node, *, masquerade_all: bool = False) -> None:
        self.node = node
        self.table = ServiceResolver(
            ServiceConfig(
                node=node.name,
                pod_cidrs=tuple(map(ip_network, PODS.values())),
                service_cidrs=tuple(map(ip_network, CLUSTER_IPS.values())),
                masquerade_all=masquerade_all,
            )
        )
        self.elements = ServiceRenderer(self.table)
        self.elements.local_pods = frozenset(
            ip_address(each).packed for pod in node.pods for each in pod.addresses.values()
        )
        shapes = (*policy_base.SET_SPECS, *service_base.SET_SPECS)
        text = f"{policy_base.TEXT}\n{service_base.TEXT}"
        self.nft_table = KernelNftTable(NetnsThread(node.space.descriptor), spec=TableSpec(POLICY_TABLE, text, shapes))

    def address(self, version: int) -> str:
        n, s = self.node.number, self.node.segment
        return f"192.168.{s}.{n}" if version == 4 else f"fd00:{s}::{n}"

    async def start(self) -> None:
        await self.nft_table.start()
        await self.nft_table.sync(self.elements.snapshot())

    async def apply(
        self, put: Iterable[Object] = (), gone: Iterable[tuple[type[Object], ObjectKey]] = ()
    ) -> Transaction:
        edit = self.elements.update(self.table.apply(put, gone))
        await self.nft_table.apply(edit)
        return edit


@dataclass
class ServiceWorld:
    """Both nodes' tables have the same objects."""

    fabric: Fabric
    outside: Machine
    nodes: list[ServiceNode]
    answering: Answering = field(default_factory=Answering)

    async def apply(self, *put: Object, gone: Iterable[tuple[type[Object], ObjectKey]] = ()) -> None:
        for each in self.nodes:
            await each.apply(put, tuple(gone))

    def pod(self, node: int, number: int) -> Pod:
        return next(pod for pod in self.nodes[node - 1].node.pods if pod.number == number)

    def nft(self, node: int, *words: str) -> str:
        return self.nodes[node - 1].node.space.run("nft", *words)

    # Objects

    def node_objects(self) -> list[Object]:
        return [
            NodeObject(
                metadata=ObjectMeta(name=each.node.name),
                status=NodeStatus(
                    addresses=tuple(NodeAddress(type="InternalIP", address=each.address(version)) for version in (4, 6))
                ),
            )
            for each in self.nodes
        ]

    def service(
        self, version: int, name: str = "web", *, annotations: dict[str, str] | None = None, **spec: Any
    ) -> Service:
        """Of every kind, TCP and UDP on one port number."""
        ports = tuple(
            ServicePort(name=protocol.lower(), port=PORT, protocol=protocol, nodePort=NODE_PORT)  # type: ignore[arg-type]
            for protocol in KINDS
        )
        fields = {
            "ports": ports,
            "type": "LoadBalancer",
            "clusterIP": CLUSTER[version],
            "externalIPs": (EXTERNAL[version],),
            **spec,
        }
        return Service(
            metadata=ObjectMeta(name=name, namespace="ns", annotations=annotations or {}),
            spec=ServiceSpec(**fields),
            status=ServiceStatus(loadBalancer=LoadBalancerStatus(ingress=(LoadBalancerIngress(ip=LB[version]),))),
        )

    def slice(self, version: int, *names: str, service: str = "web", draining: Iterable[str] = ()) -> EndpointSlice:
        """Endpoints as `n1/7`: the pod 7 of n1."""
        ending = EndpointConditions(ready=False, serving=True, terminating=True)
        endpoints = []
        for name in (*names, *draining):
            node, _, number = name.partition("/")
            pod = self.pod(int(node[1:]), int(number))
            conditions = ending if name in draining else EndpointConditions()
            endpoints.append(Endpoint(addresses=(pod.addresses[version],), nodeName=node, conditions=conditions))
        return EndpointSlice(
            metadata=ObjectMeta(
                name=f"{service}-{version}", namespace="ns", labels={"kubernetes.io/service-name": service}
            ),
            addressType="IPv4" if version == 4 else "IPv6",
            endpoints=tuple(endpoints),
            ports=tuple(EndpointPort(name=p.lower(), port=TARGET, protocol=p) for p in KINDS),  # type: ignore[arg-type]
        )


@contextlib.asynccontextmanager
async def service_world(
    new_space: Callable[[], Space], backend: str = "vxlan", *, masquerade_all: bool = False
) -> AsyncIterator[ServiceWorld]:
    fabric = Fabric(new_space)
    document = {**DUAL, "Backend": {"Type": backend}}
    one, two = await fabric.node(1, document), await fabric.node(2, document)
    outside = fabric.machine(9, 1)
    for node in (one, two):
        fabric.pod(node, 8)
    await fabric.meet(one, two)
    networks = [ip_network(each) for each in PODS.values()]
    for node in (one, two):
        node.tables.declare("node/masquerade", node_elements(networks, node.subnets, masquerade=True))
        for pod in node.pods:
            own = source_elements(f"pcl{pod.number}", map(ip_address, pod.addresses.values()))
            node.tables.declare(f"pod/{pod.number}", own)
        await node.synced()
        node.sh("echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit")
    outside.sh("ip route add 172.30.0.0/16 via 192.168.1.1; ip route add 198.51.100.0/24 via 192.168.1.1")
    outside.sh("ip -6 route add fd00:172::/112 via fd00:1::1; ip -6 route add 2001:db8:99::/64 via fd00:1::1")
    world = ServiceWorld(fabric, outside, [ServiceNode(node, masquerade_all=masquerade_all) for node in (one, two)])
    try:
        for node in (one, two):
            for pod in node.pods:
                world.answering.listen(pod, f"{node.name}/{pod.number}")
        for each in world.nodes:
            await each.start()
        await world.apply(*world.node_objects())
        yield world
    finally:
        for each in world.nodes:
            await each.nft_table.stop()
        world.answering.close()
        await fabric.down()


def all_at_once(actions: Iterable[Callable[[], T]]) -> list[T]:
    with ThreadPoolExecutor(12) as threads:
        return list(threads.map(lambda action: action(), actions))


def runs(machine: Machine, target: str, port: int, count: int, protocol: str = "TCP") -> Iterator[Seen]:
    """So many connections, one after the other."""
    return (ask(machine, target, port, protocol) for _ in range(count))
