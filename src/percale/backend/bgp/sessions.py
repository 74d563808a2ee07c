"""From the cluster's BGP objects to the sessions of one node. Pure; called by `backend.py`.

mesh      every two nodes that reflect no routes, port 179
BGPPeer   node, nodeSelector or all ── peerIP: a router
                                    └─ peerSelector: nodes, both ways, port 1790
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, ip_address
from typing import Literal, NamedTuple

from msgspec import Struct

from percale.backend.bgp.speaker import PORT, SECOND_PORT, PeerType, Session
from percale.backend.protocol import LocalNode
from percale.model.addresses import IPAddress
from percale.model.bgp import (
    AS_NUMBER,
    DEFAULT_AS,
    NO_LOAD_BALANCER_LABEL,
    REFLECTOR,
    BGPConfigurationSpec,
    BGPFilter,
    BGPFilterRule,
    BGPPeerSpec,
    Password,
    SecretKey,
    as_number,
    without_effect,
)
from percale.model.calico_selector import parse_selector
from percale.model.ip_family import Family
from percale.model.node import Node
from percale.model.subnet_lease import SubnetLease
from percale.model.validation.bgp import peer_address, seconds

_LONGEST_PASSWORD = 80
"""Bytes that the kernel takes (TCP_MD5SIG_MAXKEYLEN)."""


class NodeFacts(Struct, frozen=True):
    """What BGP needs of a Node."""

    labels: Mapping[str, str] = {}
    reflector: IPv4Address | None = None
    """Its cluster id, if it reflects routes."""
    as_number: int | None = None
    advertises_services: bool = True
    problem: str | None = None


class BgpObjects(Struct, frozen=True):
    """The cluster's, by name."""

    configurations: Mapping[str, BGPConfigurationSpec] = {}
    peers: Mapping[str, BGPPeerSpec] = {}
    filters: Mapping[str, BGPFilter] = {}
    nodes: Mapping[str, NodeFacts] = {}
    passwords: Mapping[SecretKey, str] = {}


class NodeSessions(Struct, frozen=True):
    """A node's sessions; `problems` name what was left out, `ignored` what has no effect."""

    sessions: tuple[Session, ...]
    problems: tuple[str, ...]
    ignored: tuple[str, ...]


class _Way(NamedTuple):
    """Of a session: what it is for, and the ports at both ends."""

    type: PeerType
    port: int
    local_port: int


class _LeftOut(Exception):
    """A peer cannot be used; the text says why."""


def facts_of_node(node: Node) -> NodeFacts:
    """An annotation or label that cannot be read is a problem, and as if it were absent."""
    labels = node.metadata.labels
    given = {**labels, **node.metadata.annotations}
    reflector, number, problem = None, None, None
    try:
        if cluster := given.get(REFLECTOR):
            reflector = IPv4Address(cluster)
        if asked := given.get(AS_NUMBER):
            number = as_number(asked)
    except ValueError as error:
        problem = f"node {node.metadata.name}: {error}"
    return NodeFacts(dict(labels), reflector, number, NO_LOAD_BALANCER_LABEL not in labels, problem)


def secrets_of(objects: BgpObjects) -> set[SecretKey]:
    """The keys that passwords are in."""
    given = [spec.nodeMeshPassword for spec in objects.configurations.values()]
    given += [spec.password for spec in objects.peers.values()]
    return {each.secretKeyRef for each in given if each is not None and each.secretKeyRef is not None}


def service_blocks(objects: BgpObjects) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The CIDRs of cluster, external and load balancer addresses that are advertised."""
    spec = objects.configurations.get("default", BGPConfigurationSpec())
    cluster, external, balancers = (
        tuple(block.cidr for block in blocks)
        for blocks in (spec.serviceClusterIPs, spec.serviceExternalIPs, spec.serviceLoadBalancerIPs)
    )
    return cluster, external, balancers


class SessionPlanner:
    """One node's sessions; `leases` are its peers'."""

    def __init__(self, local: LocalNode, leases: Sequence[SubnetLease], objects: BgpObjects, *, bfd: bool) -> None:
        self._local = local
        self._objects = objects
        self._bfd = bfd
        self._default = objects.configurations.get("default", BGPConfigurationSpec())
        self._addresses: dict[str, tuple[IPAddress, ...]] = {
            lease.spec.node: lease.spec.public_ips for lease in sorted(leases, key=lambda each: each.metadata.name)
        }
        self._problems: list[str] = []

    def plan(self) -> NodeSessions:
        """All of them, one for each neighbour and port."""
        found: dict[tuple[IPAddress, int], Session] = {}
        for session in (*self._mesh(), *self._selected()):
            found.setdefault((session.neighbor, session.port), session)
        self._problems += [facts.problem for facts in self._objects.nodes.values() if facts.problem is not None]
        return NodeSessions(
            tuple(sorted(found.values(), key=lambda each: each.name)), tuple(self._problems), tuple(self._ignored())
        )

    def as_of(self, node: str) -> int:
        """Its annotation's, else its own configuration's, else the cluster's."""
        own = self._objects.configurations.get(f"node.{node}", BGPConfigurationSpec())
        given = self._facts(node).as_number or own.asNumber or self._default.asNumber
        return as_number(given) if given is not None else DEFAULT_AS

    def port_of(self, node: str) -> int:
        """Where it listens for its mesh and for routers."""
        own = self._objects.configurations.get(f"node.{node}", BGPConfigurationSpec())
        return own.listenPort or self._default.listenPort or PORT

    @property
    def reflector(self) -> IPv4Address | None:
        """This node's cluster id."""
        return self._facts(self._local.name).reflector

    def _facts(self, node: str) -> NodeFacts:
        return self._objects.nodes.get(node, NodeFacts())

    def _mesh(self) -> Iterator[Session]:
        if self._default.nodeToNodeMeshEnabled is False or self.reflector is not None:
            return
        try:
            password = self._password(self._default.nodeMeshPassword)
        except _LeftOut as reason:
            self._problems.append(f"the mesh of nodes is left out: {reason}")
            return
        restart = self._default.nodeMeshMaxRestartTime
        spec = BGPPeerSpec(maxRestartTime=restart)
        for node in self._addresses:
            if self._facts(node).reflector is None:
                way = _Way("node-to-node mesh", self.port_of(node), self.port_of(self._local.name))
                yield from self._with_node(node, spec, way, password)

    def _selected(self) -> Iterator[Session]:
        for name, spec in sorted(self._objects.peers.items()):
            try:
                yield from list(self._of_peer(spec))
            except _LeftOut as reason:
                self._problems.append(f"BGPPeer {name} is left out: {reason}")

    def _of_peer(self, spec: BGPPeerSpec) -> Iterator[Session]:
        mine = _selects(spec.node, spec.nodeSelector)
        kind: PeerType = "node specific" if spec.node or spec.nodeSelector else "global"
        here = mine(self._local.name, self._facts(self._local.name).labels)
        if spec.peerIP:
            if here:
                yield from self._with_router(spec, kind)
            return
        theirs = _selects("", spec.peerSelector)
        chosen = theirs(self._local.name, self._facts(self._local.name).labels) and spec.reversePeering != "Manual"
        password = self._password(spec.password) if here or chosen else None
        for node in self._addresses:
            labels = self._facts(node).labels
            if (here and theirs(node, labels)) or (chosen and mine(node, labels)):
                way = _Way(kind, _second_port(self.port_of(node)), _second_port(self.port_of(self._local.name)))
                yield from self._with_node(node, spec, way, password)

    def _with_node(self, node: str, spec: BGPPeerSpec, how: _Way, password: str | None) -> Iterator[Session]:
        reflector = self.reflector
        client = reflector if reflector is not None and self._facts(node).reflector != reflector else None
        for address in self._addresses[node]:
            family = self._local.families.get(Family(address.version))
            if family is None or family.public_ip is None:
                continue
            other_as = self.as_of(node)
            yield self._session(
                spec,
                how,
                address,
                other_as,
                password=password,
                node=node,
                passive=family.public_ip > address,  # type: ignore[operator]  # both are of one version
                client_of=client if other_as == self._local_as(spec) else None,
            )

    def _with_router(self, spec: BGPPeerSpec, kind: PeerType) -> Iterator[Session]:
        text, port = peer_address(spec.peerIP)
        address = ip_address(text)
        family = self._local.families.get(Family(address.version))
        if family is None or family.public_ip is None:
            raise _LeftOut(f"{address} is IPv{address.version}, which this node has no address of")
        if address in self._local.underlay_addresses:
            return  # a global peer that is this node
        node = next((name for name, addresses in self._addresses.items() if address in addresses), None)
        default = self.port_of(node) if node is not None else PORT
        assert spec.asNumber is not None
        yield self._session(
            spec,
            _Way(kind, port or default, self.port_of(self._local.name)),
            address,
            as_number(spec.asNumber),
            password=self._password(spec.password),
            node=node,
        )

    def _local_as(self, spec: BGPPeerSpec) -> int:
        return as_number(spec.localASNumber) if spec.localASNumber is not None else self.as_of(self._local.name)

    def _session(
        self,
        spec: BGPPeerSpec,
        how: _Way,
        address: IPAddress,
        other_as: int,
        *,
        password: str | None,
        node: str | None,
        passive: bool = False,
        client_of: IPv4Address | None = None,
    ) -> Session:
        imports, exports = self._rules(spec.filters, Family(address.version))
        return Session(
            name=_name(how.type, address, how.port),
            type=how.type,
            neighbor=address,
            as_number=other_as,
            local_as=self._local_as(spec),
            node=node,
            port=how.port,
            local_port=how.local_port,
            passive=passive,
            client_of=client_of,
            password=password,
            restart_time=seconds(spec.maxRestartTime) if spec.maxRestartTime is not None else None,
            keepalive=seconds(spec.keepaliveTime) if spec.keepaliveTime is not None else None,
            ttl_hops=spec.ttlSecurity or None,
            next_hop=_next_hop(spec),
            own_as_allowed=spec.numAllowedLocalASNumbers or 0,
            any_source=spec.sourceAddress == "None",
            bfd=(self._bfd and node is not None) or spec.failureDetectionMode == "BFDIfDirectlyConnected",
            imports=imports,
            exports=exports,
        )

    def _rules(
        self, names: Collection[str], family: Family
    ) -> tuple[tuple[BGPFilterRule, ...], tuple[BGPFilterRule, ...]]:
        missing = [name for name in names if name not in self._objects.filters]
        if missing:
            raise _LeftOut(f"there is no BGPFilter {missing[0]}")
        specs = [self._objects.filters[name].spec for name in names]
        fields = ("importV4", "exportV4") if family is Family.IPV4 else ("importV6", "exportV6")
        imports, exports = (tuple(rule for spec in specs for rule in getattr(spec, field)) for field in fields)
        return imports, exports

    def _password(self, given: Password | None) -> str | None:
        if given is None or given.secretKeyRef is None:
            return None
        key = given.secretKeyRef
        password = self._objects.passwords.get(key)
        if password is None:
            if key.optional:
                return None
            raise _LeftOut(f"there is no password: Secret {key.name}, key {key.key}")
        if not 0 < len(password.encode()) <= _LONGEST_PASSWORD or '"' in password or not password.isprintable():
            wanted = f"1 to {_LONGEST_PASSWORD} bytes that can be printed, without quotes"
            raise _LeftOut(f"the password in Secret {key.name}, key {key.key} is not {wanted}")
        return password

    def _ignored(self) -> Iterator[str]:
        objects = self._objects
        for name, configuration in objects.configurations.items():
            yield from (f"BGPConfiguration {name}: spec.{path}" for path in without_effect(configuration))
        for name, peer in objects.peers.items():
            yield from (f"BGPPeer {name}: spec.{path}" for path in without_effect(peer))
        for name, rules in objects.filters.items():
            yield from (f"BGPFilter {name}: spec.{path}" for path in without_effect(rules.spec))


def _selects(name: str, selector: str) -> Callable[[str, Mapping[str, str]], bool]:
    """Whether a node is meant: the one of this name, those selected, else all."""
    if name:
        return lambda node, _labels: node == name
    matches = parse_selector(selector)
    return lambda _node, labels: matches(labels)


def _second_port(port: int) -> int:
    return SECOND_PORT if port != SECOND_PORT else PORT


def _next_hop(spec: BGPPeerSpec) -> Literal["auto", "self", "keep"]:
    if spec.keepOriginalNextHop or spec.nextHopMode == "Keep":
        return "keep"
    return "self" if spec.nextHopMode == "Self" else "auto"


_NAMES: Mapping[PeerType, str] = {"node-to-node mesh": "Mesh", "node specific": "Node", "global": "Global"}


def _name(kind: PeerType, address: IPAddress, port: int) -> str:
    """A symbol of BIRD, of at most 64 characters: the longest IPv6 address has 39. A port is no group of an IPv6 address."""
    text = str(address).replace(".", "_").replace(":", "_")
    return f"{_NAMES[kind]}_{text}" + (f"_port_{port}" if port != PORT else "")
