"""`kind: Lab`: the machines of a lab as a user writes them, and `Topology`, the same with every address assigned.

`input` decodes a document, `fabric` builds the topology, `machines` adds and removes nodes. Pure.

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


class SegmentSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Machines that reach each other without a router; the router has the first address."""

    name: str
    cidr: IPv4Network | None = None
    cidr6: IPv6Network | None = None
    mtu: int | None = None


class LabNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine of the cluster, on the first segment by default."""

    name: str
    segment: str | None = None
    labels: dict[str, str] = {}
    address: IPv4Address | None = None
    address6: IPv6Address | None = None


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine outside the cluster; an address outside all segments gives it a segment of its own."""

    name: str
    segment: str | None = None
    address: IPv4Address | None = None
    address6: IPv6Address | None = None
    ports: tuple[str, ...] = ("80/TCP", "53/UDP")
    """The ports that it answers on, as a pod does."""


class LabSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All is optional; `DEFAULT` has the defaults."""

    network: dict[str, Any] | None = None
    segments: tuple[SegmentSpec, ...] | None = None
    nodes: tuple[LabNode, ...] | None = None
    hosts: tuple[Host, ...] | None = None
    serviceCIDR: str | None = None
    """Of cluster IPs; two families with a comma, as the API server's --service-cluster-ip-range."""
    loadBalancers: str | None = None
    """Networks for addresses of Services of type LoadBalancer; two families with a comma."""


class Lab(Object, frozen=True, omit_defaults=True, kw_only=True):
    API_VERSION: ClassVar[str] = "percale.io/v1alpha1"
    KIND: ClassVar[str] = "Lab"
    PLURAL: ClassVar[str] = "labs"
    NAMESPACED: ClassVar[bool] = False

    metadata: ObjectMeta = ObjectMeta(name="lab")
    spec: LabSpec = LabSpec()


DEFAULT = LabSpec(
    segments=(SegmentSpec("a"), SegmentSpec("b"), SegmentSpec("world", IPv4Network("203.0.113.0/24"))),
    nodes=(LabNode("node1", "a"), LabNode("node2", "a"), LabNode("node3", "b")),
    hosts=(Host("outside", "world"),),
)


class Segment(Struct, frozen=True):
    """A segment with its networks assigned."""

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
    """A node or an outside host, with its segment and addresses."""

    name: str
    kind: Literal["node", "host"]
    segment: Segment
    address: IPv4Interface
    address6: IPv6Interface
    labels: dict[str, str]
    ports: tuple[str, ...]


class Topology(Struct, frozen=True):
    """Every machine of a lab, in the order of its document."""

    segments: tuple[Segment, ...]
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
        """A topology with one more node. Raises LabError."""
        if self.find(node.name) is not None:
            raise LabError(f"there is a machine named {node.name} already")
        try:
            _check_names([node], (), "add-node")
            machine = _TopologyBuilder(list(self.segments), list(self.machines), "add-node").node(node)
        except BadManifest as error:
            raise LabError(str(error)) from error
        return Topology(self.segments, (*self.machines, machine))

    def without(self, name: str) -> Topology:
        """A topology without this machine."""
        return Topology(self.segments, tuple(machine for machine in self.machines if machine.name != name))


def topology(spec: LabSpec, pod_networks: Iterable[IPNetwork] = (), where: str = "the lab") -> Topology:
    """Assign every address: the document's, else the segment's next free one. Raises BadManifest."""
    if spec.segments == ():
        raise BadManifest("a lab needs a segment", where=where, hint="leave `segments` out for the default ones")
    segments, nodes, hosts = _with_defaults(spec)
    _check_names([*nodes, *hosts], segments, where)
    builder = _TopologyBuilder([], [], where)
    for segment in segments:
        builder.add_segment(segment)
    for host in hosts:
        builder.add_host_segment(host)
    builder.check_networks(pod_networks)
    # Machines with explicit addresses come first, so that no other machine is assigned them.
    machines: list[LabNode | Host] = [*nodes, *hosts]
    order = sorted(machines, key=lambda machine: machine.address is None and machine.address6 is None)
    placed = {
        machine.name: builder.node(machine) if isinstance(machine, LabNode) else builder.host(machine)
        for machine in order
    }
    return Topology(tuple(builder.segments), tuple(placed[machine.name] for machine in machines))


def _with_defaults(spec: LabSpec) -> tuple[Sequence[SegmentSpec], Sequence[LabNode], Sequence[Host]]:
    """The document completed by the defaults, as far as these fit."""
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


def _check_names(machines: Sequence[LabNode | Host], segments: Sequence[SegmentSpec], where: str) -> None:
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


class _TopologyBuilder(Struct, frozen=True):
    """Assigns networks to segments and addresses to machines. Every method raises BadManifest."""

    segments: list[Segment]
    machines: list[Machine]
    where: str

    def add_segment(self, spec: SegmentSpec) -> Segment:
        """Its own networks, else the first free of 192.168.N.0/24 and fd00:192:168:N::/64."""
        cidr = spec.cidr or next(net for net in _networks4() if not self._overlapping(net))
        cidr6 = spec.cidr6 or next(net for net in _networks6() if not self._overlapping(net))
        if cidr.prefixlen > 30 or cidr6.prefixlen > 126:
            small = cidr if cidr.prefixlen > 30 else cidr6
            raise BadManifest(f"segment {spec.name}: {small} has no room for machines", where=self.where)
        for net in (cidr, cidr6):
            if net.is_loopback or net.is_multicast or net.is_link_local:
                raise BadManifest(f"segment {spec.name}: {net} is no network for machines", where=self.where)
        if spec.mtu is not None and not 1280 <= spec.mtu <= 65521:
            raise BadManifest(f"segment {spec.name}: an MTU of {spec.mtu} is not 1280 to 65521", where=self.where)
        for net in (cidr, cidr6):
            other = self._overlapping(net)
            if other is not None:
                raise BadManifest(f"segments {other.name} and {spec.name} overlap at {net}", where=self.where)
        segment = Segment(spec.name, cidr, cidr6, spec.mtu)
        self.segments.append(segment)
        return segment

    def add_host_segment(self, host: Host) -> None:
        """A segment for a host whose address is in no other."""
        address = host.address
        if (
            host.segment is None
            and address is not None
            and not any(address in segment.cidr for segment in self.segments)
        ):
            cidr = IPv4Network((address, 24), strict=False)
            if address - 1 == cidr.network_address:
                raise BadManifest(f"host {host.name}: {address} is where its router would be", where=self.where)
            taken = {segment.name for segment in self.segments}
            self.add_segment(SegmentSpec(next(name for name in _segment_names(host.name) if name not in taken), cidr))

    def check_networks(self, pod_networks: Iterable[IPNetwork]) -> None:
        """The pod network must not overlap a segment."""
        for net in pod_networks:
            other = self._overlapping(net)
            if other is not None:
                raise BadManifest(
                    f"the pod network {net} and segment {other.name} overlap",
                    where=self.where,
                    hint="give the segment another cidr",
                )

    def node(self, node: LabNode) -> Machine:
        segment = (
            self._segment_of(node.name, node.segment, node.address)
            if node.segment or node.address
            else self.segments[0]
        )
        return self._place(node, "node", segment, node.labels, ())

    def host(self, host: Host) -> Machine:
        for port in host.ports:
            parse_port(port, f"{self.where}: host {host.name}")
        segment = (
            self._segment_of(host.name, host.segment, host.address)
            if host.segment or host.address
            else self.segments[-1]
        )
        return self._place(host, "host", segment, {}, host.ports)

    def _segment_of(self, name: str, wanted: str | None, address: IPv4Address | None) -> Segment:
        for segment in self.segments:
            if wanted == segment.name or (wanted is None and address is not None and address in segment.cidr):
                return segment
        known = ", ".join(segment.name for segment in self.segments)
        what = f"no segment {wanted}" if wanted else f"{address} is in no segment"
        raise BadManifest(f"{name}: {what}", where=self.where, hint=f"there are {known}")

    def _place(
        self,
        spec: LabNode | Host,
        kind: Literal["node", "host"],
        segment: Segment,
        labels: dict[str, str],
        ports: tuple[str, ...],
    ) -> Machine:
        address = self._address(spec.name, spec.address, segment.cidr, segment.gateway.ip)
        address6 = self._address(spec.name, spec.address6, segment.cidr6, segment.gateway6.ip)
        machine = Machine(
            spec.name,
            kind,
            segment,
            IPv4Interface((int(address), segment.cidr.prefixlen)),
            IPv6Interface((int(address6), segment.cidr6.prefixlen)),
            labels,
            ports,
        )
        self.machines.append(machine)
        return machine

    def _address(self, name: str, spec: IPAddress | None, net: IPNetwork, gateway: IPAddress) -> IPAddress:
        taken: dict[IPAddress, str] = {gateway: "the router"}
        for machine in self.machines:
            taken[machine.address.ip] = taken[machine.address6.ip] = machine.name
        if spec is None:
            free = next((address for address in _hosts(net) if address not in taken), None)
            if free is None:
                raise BadManifest(f"{name}: {net} is full", where=self.where, hint="give the segment a larger cidr")
            return free
        if spec not in net or spec in (net.network_address, net.broadcast_address):
            raise BadManifest(f"{name}: {spec} is no address of its segment {net}", where=self.where)
        if spec in taken:
            raise BadManifest(f"{name} and {taken[spec]} both have {spec}", where=self.where)
        return spec

    def _overlapping(self, net: IPNetwork) -> Segment | None:
        for segment in self.segments:
            own: IPNetwork = segment.cidr if isinstance(net, IPv4Network) else segment.cidr6
            if own.overlaps(net):
                return segment
        return None


def parse_port(text: str, where: str) -> tuple[int, str]:
    """`80`, `80/TCP` or `53/udp` as (53, "UDP"). Raises BadManifest."""
    written, _, protocol = text.partition("/")
    number, protocol = port_number(written), protocol.upper() or "TCP"
    if number is None or protocol not in ("TCP", "UDP"):
        raise BadManifest(f"{text!r} is not a port", where=where, hint="write 80, 80/TCP or 53/UDP")
    return number, protocol


def _segment_names(host: str) -> Iterator[str]:
    """The host's name, shortened to fit, then numbered ones."""
    return chain((host[:11].rstrip("-"),), (f"{host[:7].rstrip('-')}-{number}" for number in range(2, 1000)))


def _hosts(net: IPNetwork) -> Iterator[IPAddress]:
    """A network's addresses for machines; lazily: an IPv6 network has very many."""
    first, last = int(net.network_address) + 1, int(net.broadcast_address)
    kind = type(net.network_address)
    return (kind(number) for number in range(first, last))


def _networks4() -> Iterator[IPv4Network]:
    return (IPv4Network(f"192.168.{number}.0/24") for number in range(1, 255))


def _networks6() -> Iterator[IPv6Network]:
    return (IPv6Network(f"fd00:192:168:{number}::/64") for number in range(1, 255))
