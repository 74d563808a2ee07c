"""Nodes, pods and a router as namespaces, driven by the real reconciler: what tests of backends and masquerading share.

    pod ── pcl… node eth0 ── segment bridge ── router ── segment bridge ── eth0 node pcl… ── pod

Node n of segment s is 192.168.s.n and fd00:s::n, its pods 10.244.n.x and fd00:244:0:n::x.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace
from tests import waiting
from tests.kernel.conftest import Space
from tests.kernel.inside import inside
from tests.kernel.network_tables import running_tables

from percale.agent.network.network_tables import NetworkTables
from percale.backend.interface_selection import InterfaceOptions, local_node, select_interface
from percale.backend.protocol import LocalNode, lease_spec
from percale.backend.registry import make_backend
from percale.backend.state_dir import BACKEND_STATE, load_state
from percale.backend.transition import Transition
from percale.backend.wireguard import key_file
from percale.backend.wireguard.backend import WireguardBackend
from percale.errors import BadConfig
from percale.ipam.subnet_plan import candidate
from percale.kernel.netns import NetnsThread
from percale.kernel.reconciler.reconciler import Reconciler
from percale.kernel.rtnl.driver import KernelDriver
from percale.model.ip_family import Family
from percale.model.netconf import network_config
from percale.model.subnet_lease import OTHER_BACKEND, NodeSubnets, SubnetLease, make_lease
from percale.render.network.pod_veth import source_elements
from percale.render.network.tunnels import peer_element, tunnel_elements

T = TypeVar("T")

DUAL = {"Network": "10.244.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00:244::/48"}

_POD_MAC = "02:00:00:00:00:77"
_ROUTER = "; ".join(
    f"ip link add seg{s} address 02:00:00:00:99:0{s} type bridge mcast_snooping 0; ip link set seg{s} up; "
    f"ip addr add 192.168.{s}.254/24 dev seg{s}; ip addr add fd00:{s}::fe/64 dev seg{s} nodad"
    for s in (1, 2)
)
_FORWARD = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
_NO_DAD = "for c in all default; do echo 0 > /proc/sys/net/ipv6/conf/$c/accept_dad; done"
"""Else every link-local address is of no use for two seconds."""


async def eventually(condition: Callable[[], T], what: str = "") -> T:
    """What `condition` returns once it is true; it may run programs, so it has a thread of its own."""
    result: T = await waiting.eventually(lambda: asyncio.to_thread(condition), what)
    return result


class Machine:
    """A namespace on a segment of the router."""

    def __init__(self, router: Space, space: Space, number: int, segment: int) -> None:
        self.router = router
        self.space = space
        self.number = number
        self.segment = segment

    @property
    def path(self) -> Path:
        return self.space.path

    def sh(self, line: str) -> str:
        return self.space.shell(line)

    def plug_in(self, *, ipv4: bool = True, ipv6: bool = True) -> None:
        """eth0 on the machine's segment, with addresses and default routes."""
        name = f"p{self.number}"
        self.router.shell(
            f"ip link add {name} type veth peer name eth0 netns {self.space.path}; "
            f"ip link set {name} master seg{self.segment} up"
        )
        self.configure(ipv4=ipv4, ipv6=ipv6)

    def configure(self, *, ipv4: bool = True, ipv6: bool = True) -> None:
        s, n = self.segment, self.number
        self.sh("ip link set lo up; ip link set eth0 up")
        if ipv4:
            self.sh(f"ip addr replace 192.168.{s}.{n}/24 dev eth0; ip route replace default via 192.168.{s}.254")
        if ipv6:
            self.sh(f"ip addr replace fd00:{s}::{n}/64 dev eth0 nodad; ip -6 route replace default via fd00:{s}::fe")

    def move(self, segment: int) -> None:
        """Move eth0 to another segment, and configure it again."""
        self.segment = segment
        self.sh("ip addr flush dev eth0 scope global")
        self.router.shell(f"ip link set p{self.number} master seg{segment}")
        self.configure()

    def pings(self, address: str) -> bool:
        return ", 1 received" in self.space.run("ping", "-n", "-c1", "-W1", address, check=False)

    def socket(self, family: int, kind: int = socket.SOCK_DGRAM, protocol: int = 0) -> socket.socket:
        """A socket in here, for use from anywhere."""
        made = inside(self, lambda: socket.socket(family, kind, protocol))
        made.settimeout(waiting.PATIENCE)
        return made


class Pod(Machine):
    """A routed pod of a node."""

    addresses: dict[int, str]


class Node(Machine):
    """A machine with a reconciler, a backend and pods; it renders its peers again when its underlay changes, as an agent."""

    def __init__(self, router: Space, space: Space, number: int, segment: int) -> None:
        super().__init__(router, space, number, segment)
        self.name = f"n{number}"
        self.pods: list[Pod] = []
        self._peers: dict[str, SubnetLease] = {}
        self.reconciler: Reconciler
        self.tables: NetworkTables
        self._life = AsyncExitStack()
        self.problems: list[str] = []
        self._state = space.path.with_name(f"{space.path.name}-state")

    async def start(self, document: dict[str, Any]) -> None:
        """A new life of the agent; the reconciler closes the driver."""
        self._config = network_config(document)
        self._backend = make_backend(self._config)
        await load_state(self._backend, self._state)
        driver = KernelDriver(NetnsThread(self.space.descriptor))
        self.reconciler = Reconciler(driver, on_problem=lambda source, error: self.problems.append(source))
        await self.reconciler.start()
        self.tables = await self._life.enter_async_context(running_tables(self.space.descriptor, self.subnets))
        self.reconciler.on_underlay(lambda underlay: self.render())

    async def renew_key(self) -> None:
        """As the agent does where somebody has removed it."""
        assert isinstance(self._backend, WireguardBackend)
        (self._state / BACKEND_STATE / self._backend.type / key_file.FILE).unlink()
        assert self._backend.renew_key()
        self.render()
        await self.reconciler.wait_idle()

    async def stop(self) -> None:
        await self._life.aclose()
        await self.reconciler.stop()

    @property
    def subnets(self) -> NodeSubnets:
        return candidate(self._config, self.number - 1)

    @property
    def local(self) -> LocalNode:
        underlay = self.reconciler.underlay
        try:
            located = select_interface(InterfaceOptions(), underlay)
        except BadConfig:
            located = select_interface(InterfaceOptions(), underlay, [Family.IPV4])
        return local_node(self.name, located, self.subnets)

    def is_at(self, *public_ips: str) -> bool:
        """The reconciler has seen the node's new place."""
        try:
            return tuple(map(str, self.local.public_ips)) == public_ips
        except BadConfig:
            return False

    @property
    def lease(self) -> SubnetLease:
        made, other = make_lease(lease_spec(self._backend, self.local)), self._backend.other_backend(self.local)
        return replace(made, metadata=replace(made.metadata, annotations={OTHER_BACKEND: other} if other else {}))

    def take_new_backend(self) -> None:
        """From now on its lease says the one to which the cluster changes."""
        assert isinstance(self._backend, Transition)
        self._backend.moved = True

    def know(self, *leases: SubnetLease) -> None:
        """These are all the peers, from now on."""
        for gone in self._peers.keys() - {lease.metadata.name for lease in leases}:
            self.reconciler.declare(f"peer/{gone}", ())
            self.tables.declare(f"peer/{gone}", ())
        self._peers = {lease.metadata.name: lease for lease in leases}
        self.render()

    def render(self) -> None:
        try:
            local = self.local
        except BadConfig:  # the interface is gone; what was declared stays, as in the agent
            return
        self.reconciler.declare("node/device", self._backend.device(local))
        tunnels = tunnel_elements(self._backend.tunnel_ends(local))
        self.tables.declare("node/guards", tunnels)
        for pod in self.pods:
            sources = source_elements(f"pcl{pod.number}", map(ip_address, pod.addresses.values()))
            self.tables.declare(f"pod/{pod.number}", sources)
        for name, lease in self._peers.items():
            peer = self._backend.peer(local, lease)
            self.reconciler.declare(f"peer/{name}", peer.objects)
            self.tables.declare(f"peer/{name}", map(peer_element, peer.addresses))

    async def synced(self) -> None:
        """Everything declared is there, and nothing else of ours."""
        self.reconciler.start_garbage_collection()
        self.tables.start_garbage_collection()
        await self.reconciler.wait_idle()
        await self.tables.wait_applied("node/guards")

    def pod(self, number: int, space: Space) -> Pod:
        """Pod `number`, wired by hand as the routed wiring does it."""
        pod = Pod(self.router, space, number, self.segment)
        pod.addresses = {4: f"10.244.{self.number}.{number}", 6: f"fd00:244:0:{self.number}::{number}"}
        device = f"pcl{number}"
        self.sh(
            f"ip link add {device} address ee:ee:ee:ee:ee:ee type veth peer name eth0 netns {space.path}; "
            f"ip link set {device} up; "
            f"ip route add {pod.addresses[4]} dev {device}; ip route add {pod.addresses[6]} dev {device}; "
            f"ip neigh add {pod.addresses[4]} lladdr {_POD_MAC} dev {device}; "
            f"ip neigh add {pod.addresses[6]} lladdr {_POD_MAC} dev {device}"
        )
        pod.sh(
            f"{_NO_DAD}; ip link set lo up; ip link set eth0 address {_POD_MAC} up; "
            f"ip addr add {pod.addresses[4]} dev eth0; ip addr add {pod.addresses[6]} dev eth0 nodad; "
            "ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1; "
            "ip -6 route add default via fe80::ecee:eeff:feee:eeee dev eth0; "
            "ip neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0; "
            "ip neigh add fe80::ecee:eeff:feee:eeee lladdr ee:ee:ee:ee:ee:ee dev eth0"
        )
        self.pods.append(pod)
        if self._peers:
            self.render()
        return pod


async def reaches(one: Node, other: Node, *versions: int) -> None:
    """The pod of one node reaches the pod of the other."""
    for version in versions or (4, 6):
        target = other.pods[0].addresses[version]
        await eventually(partial(one.pods[0].pings, target), target)


class Fabric:
    """The router, and whatever is plugged into it."""

    def __init__(self, new_space: Callable[[], Space]) -> None:
        self._new_space = new_space
        self._nodes: list[Node] = []
        self.router = new_space()
        self.router.shell(f"{_NO_DAD}; ip link set lo up; {_ROUTER}; {_FORWARD}")

    def machine(self, number: int, segment: int) -> Machine:
        """Somebody outside of the cluster."""
        machine = Machine(self.router, self._new_space(), number, segment)
        machine.sh(_NO_DAD)
        machine.plug_in()
        return machine

    async def node(
        self, number: int, document: dict[str, Any], *, segment: int = 1, ipv4: bool = True, ipv6: bool = True
    ) -> Node:
        """A running node with one pod."""
        node = Node(self.router, self._new_space(), number, segment)
        node.sh(f"{_NO_DAD}; {_FORWARD}")
        node.plug_in(ipv4=ipv4, ipv6=ipv6)
        self._nodes.append(node)
        await node.start(document)
        node.pod(7, self._new_space())
        return node

    def pod(self, node: Node, number: int) -> Pod:
        """One more pod."""
        return node.pod(number, self._new_space())

    async def pair(self, document: dict[str, Any]) -> tuple[Node, Node]:
        """Nodes 1 and 2 on one segment, which know each other."""
        one, two = await self.node(1, document), await self.node(2, document)
        await self.meet(one, two)
        return one, two

    async def meet(self, *nodes: Node) -> None:
        """All know all, and the kernel holds it."""
        for node in nodes:
            node.know(*(other.lease for other in nodes if other is not node))
        for node in nodes:
            await node.synced()

    async def down(self) -> None:
        while self._nodes:
            await self._nodes.pop().stop()
