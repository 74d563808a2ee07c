"""`kind: Lab`: the machines of a lab, as a person writes them, and `Topology`, the same with every address decided.

`manifests` decodes a document, `fabric` builds the topology, `controller` grows it node by node. Pure.

    node1 ─┐                            ┌─ node3
    node2 ─┴─ segment a ── router ── segment b
                             └── segment world ── outside
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from itertools import chain
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from percale.errors import BadManifest, LabError
from percale.lab.run_dir import is_label
from percale.model.addresses import IPAddress, IPNetwork, port_number
from percale.model.meta import Object, ObjectMeta
from percale.model.validation.shared import check_labels

DEFAULT_NETWORK: dict[str, Any] = {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Machines that reach each other without a router; the router has the first address."""

    name: str
    cidr: IPv4Network | None = None
    cidr6: IPv6Network | None = None
    mtu: int | None = None


class LabNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine of the cluster, on the first segment unless it says another."""

    name: str
    segment: str | None = None
    labels: dict[str, str] = {}
    address: IPv4Address | None = None
    address6: IPv6Address | None = None


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine outside the cluster. An address that no segment has gives it a segment of its own."""

    name: str
    segment: str | None = None
    address: IPv4Address | None = None
    address6: IPv6Address | None = None
    ports: tuple[str, ...] = ("80/TCP", "53/UDP")
    """Where it answers, as a pod does."""


class LabSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All is optional: what is left out is as `DEFAULT` has it."""

    network: dict[str, Any] | None = None
    segments: tuple[Segment, ...] | None = None
    nodes: tuple[LabNode, ...] | None = None
    hosts: tuple[Host, ...] | None = None
    serviceCIDR: str | None = None
    """Of cluster IPs; two families with a comma, as the API server's --service-cluster-ip-range."""
    loadBalancers: str | None = None
    """Networks outside, from which Services of type LoadBalancer get addresses; two families with a comma."""


class Lab(Object, frozen=True, omit_defaults=True, kw_only=True):
    """The document."""

    API_VERSION: ClassVar[str] = "percale.io/v1alpha1"
    KIND: ClassVar[str] = "Lab"
    PLURAL: ClassVar[str] = "labs"
    NAMESPACED: ClassVar[bool] = False

    metadata: ObjectMeta = ObjectMeta(name="lab")
    spec: LabSpec = LabSpec()


DEFAULT = LabSpec(
    segments=(Segment("a"), Segment("b"), Segment("world", IPv4Network("203.0.113.0/24"))),
    nodes=(LabNode("node1", "a"), LabNode("node2", "a"), LabNode("node3", "b")),
    hosts=(Host("outside", "world"),),
)


class Wire(Struct, frozen=True):
    """A segment with its networks decided."""

    name: str
    cidr: IPv4Network
    cidr6: IPv6Network
    mtu: int | None

    @property
    def gateway(self) -> IPv4Interface:
        return IPv4Interface((self.cidr.network_address + 1, self.cidr.prefixlen))

    @property
    def gateway6(self) -> IPv6Interface:
        return IPv6Interface((self.cidr6.network_address + 1, self.cidr6.prefixlen))


class Machine(Struct, frozen=True):
    """A node or an outside host, with its place in the network."""

    name: str
    kind: Literal["node", "host"]
    wire: Wire
    address: IPv4Interface
    address6: IPv6Interface
    labels: dict[str, str]
    ports: tuple[str, ...]


class Topology(Struct, frozen=True):
    """Every machine of a lab, in the order of its document."""

    wires: tuple[Wire, ...]
    machines: tuple[Machine, ...]

    @property
    def nodes(self) -> tuple[Machine, ...]:
        return tuple(machine for machine in self.machines if machine.kind == "node")

    @property
    def hosts(self) -> tuple[Machine, ...]:
        return tuple(machine for machine in self.machines if machine.kind == "host")

    def find(self, name: str) -> Machine | None:
        """The node or host of this name."""
        return next((machine for machine in self.machines if machine.name == name), None)

    def with_node(self, node: LabNode) -> Topology:
        """The same and one node more. Raises LabError."""
        if self.find(node.name) is not None:
            raise LabError(f"there is a machine named {node.name} already")
        try:
            _check_names([node], (), "add-node")
            machine = _Placing(list(self.wires), list(self.machines), "add-node").node(node)
        except BadManifest as error:
            raise LabError(str(error)) from error
        return Topology(self.wires, (*self.machines, machine))

    def without(self, name: str) -> Topology:
        """The same without this machine."""
        return Topology(self.wires, tuple(machine for machine in self.machines if machine.name != name))


def topology(spec: LabSpec, pod_networks: Iterable[IPNetwork] = (), where: str = "the lab") -> Topology:
    """Every address decided: a document's own ones, else the next free of their segment. Raises BadManifest."""
    if spec.segments == ():
        raise BadManifest("a lab needs a segment", where=where, hint="leave `segments` out for the default ones")
    segments, nodes, hosts = _with_defaults(spec)
    _check_names([*nodes, *hosts], segments, where)
    placing = _Placing([], [], where)
    for segment in segments:
        placing.wire(segment)
    for host in hosts:
        placing.own_wire(host)
    placing.check_networks(pod_networks)
    # Those that name their address come first, so that nobody else is given it.
    machines: list[LabNode | Host] = [*nodes, *hosts]
    order = sorted(machines, key=lambda machine: machine.address is None and machine.address6 is None)
    placed = {
        machine.name: placing.node(machine) if isinstance(machine, LabNode) else placing.host(machine)
        for machine in order
    }
    return Topology(tuple(placing.wires), tuple(placed[machine.name] for machine in machines))


def _with_defaults(spec: LabSpec) -> tuple[Sequence[Segment], Sequence[LabNode], Sequence[Host]]:
    """What the document leaves out is the default's, as far as that fits to what it says."""
    assert DEFAULT.segments is not None
    assert DEFAULT.nodes is not None
    assert DEFAULT.hosts is not None
    segments = spec.segments if spec.segments is not None else DEFAULT.segments
    names = {segment.name for segment in segments}
    first = segments[0].name
    nodes = spec.nodes
    if nodes is None:
        nodes = tuple(node if node.segment in names else replace(node, segment=first) for node in DEFAULT.nodes)
    hosts = spec.hosts
    if hosts is None:
        hosts = DEFAULT.hosts
        if "world" not in names:
            world = next(segment for segment in DEFAULT.segments if segment.name == "world")
            segments = (*segments, world)
    return segments, nodes, hosts


def _check_names(machines: Sequence[LabNode | Host], segments: Sequence[Segment], where: str) -> None:
    seen: set[str] = set()
    for machine in machines:
        if not is_label(machine.name):
            raise BadManifest(
                f"{machine.name!r} cannot name a machine", where=where, hint="use small letters, digits and '-'"
            )
        if machine.name == "fabric":
            raise BadManifest("the name 'fabric' is the router's own", where=where, hint="use another name")
        if machine.name in seen:
            raise BadManifest(f"two machines are named {machine.name}", where=where, hint="rename one of them")
        if isinstance(machine, LabNode):
            for error in check_labels(machine.labels, ("labels",)):
                raise BadManifest(f"{machine.name}: {error}", where=where)
        seen.add(machine.name)
    seen.clear()
    for segment in segments:
        if not is_label(segment.name) or len(segment.name) > 11:
            raise BadManifest(
                f"{segment.name!r} cannot name a segment",
                where=where,
                hint="use small letters, digits and '-', at most 11 of them",
            )
        if segment.name in seen:
            raise BadManifest(f"two segments are named {segment.name}", where=where, hint="rename one of them")
        seen.add(segment.name)


class _Placing(Struct, frozen=True):
    """Gives networks to segments and addresses to machines, one after the other. Every method raises BadManifest."""

    wires: list[Wire]
    machines: list[Machine]
    where: str

    def wire(self, segment: Segment) -> Wire:
        """The segment with its networks: its own, else the first of 192.168.N.0/24 and fd00:192:168:N::/64 that is free."""
        cidr = segment.cidr or next(net for net in _networks4() if not self._overlapping(net))
        cidr6 = segment.cidr6 or next(net for net in _networks6() if not self._overlapping(net))
        if cidr.prefixlen > 30 or cidr6.prefixlen > 126:
            small = cidr if cidr.prefixlen > 30 else cidr6
            raise BadManifest(f"segment {segment.name}: {small} has no room for machines", where=self.where)
        for net in (cidr, cidr6):
            if net.is_loopback or net.is_multicast or net.is_link_local:
                raise BadManifest(f"segment {segment.name}: {net} is no network for machines", where=self.where)
        if segment.mtu is not None and not 1280 <= segment.mtu <= 65521:
            raise BadManifest(f"segment {segment.name}: an MTU of {segment.mtu} is not 1280 to 65521", where=self.where)
        for net in (cidr, cidr6):
            other = self._overlapping(net)
            if other is not None:
                raise BadManifest(f"segments {other.name} and {segment.name} overlap at {net}", where=self.where)
        wire = Wire(segment.name, cidr, cidr6, segment.mtu)
        self.wires.append(wire)
        return wire

    def own_wire(self, host: Host) -> None:
        """A host whose address is in no segment stands alone behind the router."""
        address = host.address
        if host.segment is None and address is not None and not any(address in wire.cidr for wire in self.wires):
            cidr = IPv4Network((address, 24), strict=False)
            if address - 1 == cidr.network_address:
                raise BadManifest(f"host {host.name}: {address} is where its router would be", where=self.where)
            taken = {wire.name for wire in self.wires}
            self.wire(Segment(next(name for name in _segment_names(host.name) if name not in taken), cidr))

    def check_networks(self, pod_networks: Iterable[IPNetwork]) -> None:
        """The pods' network must be none of the machines'."""
        for net in pod_networks:
            other = self._overlapping(net)
            if other is not None:
                raise BadManifest(
                    f"the pod network {net} and segment {other.name} overlap",
                    where=self.where,
                    hint="give the segment another cidr",
                )

    def node(self, node: LabNode) -> Machine:
        wire = self._wire_of(node.name, node.segment, node.address) if node.segment or node.address else self.wires[0]
        return self._place(node, "node", wire, node.labels, ())

    def host(self, host: Host) -> Machine:
        for port in host.ports:
            parse_port(port, f"{self.where}: host {host.name}")
        wire = self._wire_of(host.name, host.segment, host.address) if host.segment or host.address else self.wires[-1]
        return self._place(host, "host", wire, {}, host.ports)

    def _wire_of(self, name: str, segment: str | None, address: IPv4Address | None) -> Wire:
        for wire in self.wires:
            if segment == wire.name or (segment is None and address is not None and address in wire.cidr):
                return wire
        known = ", ".join(wire.name for wire in self.wires)
        what = f"no segment {segment}" if segment else f"{address} is in no segment"
        raise BadManifest(f"{name}: {what}", where=self.where, hint=f"there are {known}")

    def _place(
        self,
        wish: LabNode | Host,
        kind: Literal["node", "host"],
        wire: Wire,
        labels: dict[str, str],
        ports: tuple[str, ...],
    ) -> Machine:
        address = self._address(wish.name, wish.address, wire.cidr, wire.gateway.ip)
        address6 = self._address(wish.name, wish.address6, wire.cidr6, wire.gateway6.ip)
        machine = Machine(
            wish.name,
            kind,
            wire,
            IPv4Interface((int(address), wire.cidr.prefixlen)),
            IPv6Interface((int(address6), wire.cidr6.prefixlen)),
            labels,
            ports,
        )
        self.machines.append(machine)
        return machine

    def _address(self, name: str, wish: IPAddress | None, net: IPNetwork, gateway: IPAddress) -> IPAddress:
        taken: dict[IPAddress, str] = {gateway: "the router"}
        for machine in self.machines:
            taken[machine.address.ip] = taken[machine.address6.ip] = machine.name
        if wish is None:
            free = next((address for address in _hosts(net) if address not in taken), None)
            if free is None:
                raise BadManifest(f"{name}: {net} is full", where=self.where, hint="give the segment a larger cidr")
            return free
        if wish not in net or wish in (net.network_address, net.broadcast_address):
            raise BadManifest(f"{name}: {wish} is no address of its segment {net}", where=self.where)
        if wish in taken:
            raise BadManifest(f"{name} and {taken[wish]} both have {wish}", where=self.where)
        return wish

    def _overlapping(self, net: IPNetwork) -> Wire | None:
        for wire in self.wires:
            own: IPNetwork = wire.cidr if isinstance(net, IPv4Network) else wire.cidr6
            if own.overlaps(net):
                return wire
        return None


def parse_port(text: str, where: str) -> tuple[int, str]:
    """`80`, `80/TCP` or `53/udp` as (53, "UDP"). Raises BadManifest."""
    written, _, protocol = text.partition("/")
    number, protocol = port_number(written), protocol.upper() or "TCP"
    if number is None or protocol not in ("TCP", "UDP"):
        raise BadManifest(f"{text!r} is not a port", where=where, hint="write 80, 80/TCP or 53/UDP")
    return number, protocol


def _segment_names(host: str) -> Iterator[str]:
    """The host's own name, as far as it fits, and numbered ones."""
    return chain((host[:11].rstrip("-"),), (f"{host[:7].rstrip('-')}-{number}" for number in range(2, 1000)))


def _hosts(net: IPNetwork) -> Iterator[IPAddress]:
    """A network's addresses for machines; lazily, for an IPv6 one has very many."""
    first, last = int(net.network_address) + 1, int(net.broadcast_address)
    kind = type(net.network_address)
    return (kind(number) for number in range(first, last))


def _networks4() -> Iterator[IPv4Network]:
    return (IPv4Network(f"192.168.{number}.0/24") for number in range(1, 255))


def _networks6() -> Iterator[IPv6Network]:
    return (IPv6Network(f"fd00:192:168:{number}::/64") for number in range(1, 255))
