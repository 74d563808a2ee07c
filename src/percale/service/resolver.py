"""Resolves Services for this node, updated object by object. Not thread-safe.

    put, gone ─▶ facts (compact; the objects are not kept) ─▶ VIP owners ─▶ dirty Services ─▶ resolved again, compared, reported

One slice changes: one Service is computed. Equal to a fresh table over the same objects (a property test holds it to that).
Callers: the agent, the lab, the command `percale service`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from msgspec.structs import replace

from percale.model.endpoints import Endpoints, EndpointSlice
from percale.model.meta import Object, ObjectKey
from percale.model.node import Node
from percale.model.service import Service
from percale.model.subnet_lease import SubnetLease
from percale.service.address_index import AddressIndex
from percale.service.cost import ServiceCosts
from percale.service.endpoint_selection import Record, candidates, nodes_of, select
from percale.service.endpoint_slices import DRAINING, LOCAL, READY, SliceFacts, facts_of_slice
from percale.service.endpoints_mirroring import is_mirrored, mirrored_slices
from percale.service.node_context import NodeFacts, ServiceConfig, facts_of_node, node_port_addresses
from percale.service.refused_addresses import OF_A_NODE, OF_THE_API_SERVER, Refused
from percale.service.resolved_service import ResolvedPort, ResolvedService
from percale.service.service_ports import PortSpec, ServiceFacts, facts_of_service, format_vip
from percale.service.strategies import slots_of
from percale.service.tunnel_endpoints import Tunnels
from percale.service.vip_conflicts import VipOwners

API_SERVER = ObjectKey("default", "kubernetes")
"""The Service of the API server."""

KINDS: tuple[type[Object], ...] = (Node, SubnetLease, EndpointSlice, Endpoints, Service)
"""The kinds that it evaluates. Services come last, so that each is resolved once."""


class ServiceResolver:
    """`services` has each Service that this node implements."""

    def __init__(self, config: ServiceConfig, objects: Iterable[Object] = ()) -> None:
        self.config = config
        self.node = NodeFacts()
        self.services: dict[ObjectKey, ResolvedService] = {}
        self.vip_owners = VipOwners()
        self._costs = ServiceCosts()
        self._cluster_ips: dict[bytes, int] = {}
        self._facts: dict[ObjectKey, ServiceFacts] = {}
        """Without the requested addresses that belong to a node."""
        self._requested: dict[ObjectKey, ServiceFacts] = {}
        """As requested, of Services with addresses that may belong to a node."""
        self._requesters: dict[bytes, set[ObjectKey]] = {}
        """By such an address, or one that is always refused: the Services that request it."""
        self._node_addresses = AddressIndex[tuple[type[Object], str]]()
        """By kind and name of Nodes and leases."""
        self._api_servers = AddressIndex[ObjectKey]()
        """By slices of the Service `kubernetes`, which the API server itself writes."""
        self._slices: dict[ObjectKey, dict[str, SliceFacts]] = {}
        """Of each Service, by name."""
        self._mirrored: dict[ObjectKey, tuple[SliceFacts, ...]] = {}
        self._service_of_slice: dict[ObjectKey, ObjectKey] = {}
        """The Service of each slice."""
        self.tunnels = Tunnels(config.tunnel_ports)
        self._tunnel_port_objects: dict[tuple[type[Object], ObjectKey], ObjectKey] = {}
        """The Services of slices and Endpoints that have a tunnel's port."""
        self.apply(objects)

    # Queries

    @property
    def cluster_ips(self) -> Iterable[bytes]:
        """Cluster IPs in use: their undefined ports are rejected."""
        return self._cluster_ips.keys()

    @property
    def node_port_addresses(self) -> tuple[bytes, ...]:
        """This node's addresses that serve node ports."""
        return node_port_addresses(self.config, self.node)

    @property
    def object_keys(self) -> Iterator[tuple[type[Object], ObjectKey]]:
        """Kind and key of every object that it has."""
        yield from ((Service, key) for key in self._facts)
        yield from ((EndpointSlice, key) for key in self._service_of_slice)
        yield from ((Endpoints, key) for key in self._mirrored)
        yield from ((SubnetLease, key) for key in self.tunnels.leases)
        if self.node != NodeFacts():
            yield Node, ObjectKey(None, self.config.node)
        yield from ((kind, ObjectKey(None, name)) for kind, name in self._node_addresses)

    @property
    def problems(self) -> Iterator[str]:
        """Problems of Services and slices; each concerns its own Service only."""
        return (problem for each in self.services.values() for problem in each.problems)

    def refusal(self, address: bytes) -> str | None:
        """Which Service requests this address, and why it was refused."""
        for key in sorted(self._requesters.get(address, ())):
            for each in self._facts[key].refused:
                if each.address == address:
                    return f"Service {key}: {each}"
        return None

    def serving(self, spec: PortSpec) -> frozenset[Record]:
        """All serving endpoints of a service port, selected by this node or not."""
        found = candidates(self._slices_of(self._facts[spec.key]), spec.family, spec.name.port, spec.name.protocol)
        return frozenset(record for record, state in found.states.items() if state & (READY | DRAINING))

    # Changes

    def apply(self, put: Iterable[Object] = (), gone: Iterable[tuple[type[Object], ObjectKey]] = ()) -> set[ObjectKey]:
        """Objects are new or changed, others deleted (each is in one of the two); returns the Services that resolve differently.

        A change of `node_port_addresses` concerns no Service.
        """
        dirty: set[ObjectKey] = set()
        for kind, key in gone:
            self._remove(kind, key, dirty)
        for obj in put:
            self._put(obj, dirty)
        changed: set[ObjectKey] = set()
        while dirty:
            key = dirty.pop()
            if self._resolve(key, dirty):
                changed.add(key)
        return changed

    def _put(self, obj: Object, dirty: set[ObjectKey]) -> None:
        match obj:
            case EndpointSlice():
                self._put_slice(obj.key, facts_of_slice(obj, self.config.node), dirty)
            case Service():
                self._request(obj.key, facts_of_service(obj, self.config), dirty)
            case Endpoints():
                slices = mirrored_slices(obj) if is_mirrored(obj) else []
                facts = [facts_of_slice(each, self.config.node) for each in slices]
                self._mirrored[obj.key] = tuple(each for each in facts if each is not None)
                self._track_tunnel_ports(Endpoints, obj.key, self._mirrored[obj.key])
                dirty.add(obj.key)
            case Node():
                node = facts_of_node(obj)
                if obj.metadata.name == self.config.node:
                    self._put_node(node, dirty)
                self._put_addresses(Node, obj.metadata.name, node.addresses, dirty)
            case SubnetLease(spec=spec):
                public = tuple([each.packed for each in spec.public_ips])
                self._put_addresses(SubnetLease, obj.metadata.name, public, dirty)
                if self.tunnels.put(obj):
                    dirty.update(self._tunnel_port_objects.values())

    def _remove(self, kind: type[Object], key: ObjectKey, dirty: set[ObjectKey]) -> None:
        if kind is EndpointSlice:
            self._put_slice(key, None, dirty)
        elif kind is Service:
            self._request(key, None, dirty)
        elif kind is Endpoints:
            self._mirrored.pop(key, None)
            self._track_tunnel_ports(Endpoints, key, ())
            dirty.add(key)
        elif kind is Node or kind is SubnetLease:
            if kind is Node and key.name == self.config.node:
                self._put_node(NodeFacts(), dirty)
            self._put_addresses(kind, key.name, (), dirty)
            if kind is SubnetLease and self.tunnels.remove(key):
                dirty.update(self._tunnel_port_objects.values())

    def _request(self, key: ObjectKey, facts: ServiceFacts | None, dirty: set[ObjectKey]) -> None:
        """A Service is new or changed; None: deleted."""
        old = self._facts.get(key)
        for address in _restricted_addresses(self._requested.pop(key, old)):
            self._requesters[address].discard(key)
            if not self._requesters[address]:
                del self._requesters[address]
        if facts is None:
            self._remove_service(key, dirty)
            return
        if facts.external:
            self._requested[key] = facts
        for address in _restricted_addresses(facts):
            self._requesters.setdefault(address, set()).add(key)
        self._put_service(self._without_taken_addresses(facts), dirty)

    def _without_taken_addresses(self, facts: ServiceFacts) -> ServiceFacts:
        taken = {
            address: OF_A_NODE if address in self._node_addresses else OF_THE_API_SERVER
            for address in facts.external
            if address in self._node_addresses or address in self._api_servers
        }
        if not taken:
            return facts
        ports = [
            replace(port, vips=tuple([vip for vip in port.vips if vip.kind != "external" or vip.address not in taken]))
            for port in facts.ports
        ]
        refused = (Refused("spec.externalIPs", address, why) for address, why in sorted(taken.items()))
        return replace(facts, ports=tuple(ports), refused=(*facts.refused, *refused))

    def _put_addresses(
        self, kind: type[Object], name: str, addresses: tuple[bytes, ...], dirty: set[ObjectKey]
    ) -> None:
        """A node's addresses."""
        if self.config.external_ips == ():
            self._change_taken(self._node_addresses.update((kind, name), addresses), dirty)

    def _change_taken(self, changed: Iterable[bytes], dirty: set[ObjectKey]) -> None:
        """Addresses that nobody may request any more, or again: only Services that do are resolved again."""
        for address in changed:
            for key in self._requesters.get(address, ()):
                if key in self._requested:
                    self._put_service(self._without_taken_addresses(self._requested[key]), dirty)

    def _put_service(self, facts: ServiceFacts, dirty: set[ObjectKey]) -> None:
        old = self._facts.get(facts.key)
        if facts == old:
            return
        if old is not None:
            self._remove_service(facts.key, dirty)
        dirty.add(facts.key)
        self._facts[facts.key] = facts
        for address in _cluster_ips(facts):
            self._cluster_ips[address] = self._cluster_ips.get(address, 0) + 1
        dirty.update(self.vip_owners.add(facts.ports))

    def _remove_service(self, key: ObjectKey, dirty: set[ObjectKey]) -> None:
        dirty.add(key)
        facts = self._facts.pop(key, None)
        if facts is None:
            return
        for address in _cluster_ips(facts):
            self._cluster_ips[address] -= 1
            if not self._cluster_ips[address]:
                del self._cluster_ips[address]
        dirty.update(self.vip_owners.remove(facts.ports))

    def _put_slice(self, key: ObjectKey, facts: SliceFacts | None, dirty: set[ObjectKey]) -> None:
        """None: deleted, or not for this proxy any more."""
        self._track_tunnel_ports(EndpointSlice, key, (facts,) if facts is not None else ())
        if self.config.external_ips == ():
            servers = tuple(facts.split_addresses) if facts is not None and facts.service == API_SERVER else ()
            self._change_taken(self._api_servers.update(key, servers), dirty)
        old = self._service_of_slice.pop(key, None)
        if old is not None:
            dirty.add(old)
            del self._slices[old][key.name]
            if not self._slices[old]:
                del self._slices[old]
        if facts is not None:
            service = facts.service
            dirty.add(service)
            self._service_of_slice[key] = service
            self._slices.setdefault(service, {})[key.name] = facts

    def _track_tunnel_ports(self, kind: type[Object], key: ObjectKey, slices: tuple[SliceFacts, ...]) -> None:
        self._tunnel_port_objects.pop((kind, key), None)
        for each in slices:
            if self.tunnels.has_tunnel_port(each):
                self._tunnel_port_objects[kind, key] = each.service

    def _put_node(self, node: NodeFacts, dirty: set[ObjectKey]) -> None:
        if node.zone != self.node.zone:
            dirty.update(self._facts)
        self.node = node

    # Resolving

    def _resolve(self, key: ObjectKey, dirty: set[ObjectKey]) -> bool:
        """Resolve one Service again; whether it resolves differently. Others may become too large by it, or no longer be."""
        facts = self._facts.get(key)
        old = self.services.get(key)
        relevant = facts is not None and (facts.ports or facts.problems or facts.refused)
        new = self._resolved(facts, dirty) if facts is not None and relevant else None
        if new is None:
            dirty |= self._costs.remove(key) - {key}
            self.services.pop(key, None)
        else:
            self.services[key] = new  # also when equal: its ports own the VIPs
        return new != old

    def _resolved(self, facts: ServiceFacts, dirty: set[ObjectKey]) -> ResolvedService:
        slices = self._slices_of(facts)
        refused = [f"Service {facts.key}: {each}" for each in facts.refused]
        of_slices = [problem for each in slices for problem in each.problems]
        problems = [*facts.problems, *refused, *self._conflict_problems(facts), *of_slices]
        specs: Sequence[PortSpec] = facts.ports
        costly, others = self._costs.put(facts, slices)
        dirty |= others - {facts.key}
        if costly is not None:
            # One port of each family is enough for the kernel to refuse all connections to the Service's addresses.
            problems.append(costly)
            specs, slices = list({spec.family: spec for spec in reversed(specs)}.values()), ()
        return ResolvedService(
            key=facts.key,
            ports=tuple([self._port(spec, slices) for spec in specs]),
            health_check_port=facts.health_check_port,
            local_ready=_local_ready(slices) if facts.health_check_port else 0,
            problems=tuple(problems),
        )

    def _conflict_problems(self, facts: ServiceFacts) -> Iterator[str]:
        if self.vip_owners.contested:
            for spec in facts.ports:
                for vip, other in self.vip_owners.lost_vips(spec):
                    yield f"Service {facts.key}: {format_vip(vip)}/{spec.name.protocol} belongs to Service {other.key}"

    def _slices_of(self, facts: ServiceFacts) -> tuple[SliceFacts, ...]:
        """Endpoints count if there are no slices, and no selector from which a controller would make some.

        A tunnel between nodes is never an endpoint.
        """
        by_name = self._slices.get(facts.key)
        if by_name is not None:
            found = tuple(by_name[name] for name in sorted(by_name))
        else:
            found = self._mirrored.get(facts.key, ()) if facts.selectorless else ()
        return tuple([part for each in found for part in self.tunnels.without_tunnels(each)])

    def _port(self, spec: PortSpec, slices: tuple[SliceFacts, ...]) -> ResolvedPort:
        which = (spec.family, spec.name.port, spec.name.protocol)
        selection = select(candidates(slices, *which), self.config.node, self.node.zone)
        nodes = nodes_of(slices, *which) if spec.strategy.weights else {}
        uses_local = spec.internal_local or spec.external_local
        return ResolvedPort(
            spec=spec,
            vips=self.vip_owners.owned_vips(spec),
            cluster=b"".join(slots_of(spec.strategy, selection.cluster, nodes)),
            local=b"".join(slots_of(spec.strategy, selection.local, nodes)) if uses_local else b"",
            anywhere=selection.anywhere,
        )


def _restricted_addresses(facts: ServiceFacts | None) -> Collection[bytes]:
    """Requested addresses that are refused, always or while a node has them."""
    if facts is None or not (facts.external or facts.refused):
        return ()
    return {*facts.external, *(each.address for each in facts.refused)}


def _cluster_ips(facts: ServiceFacts) -> list[bytes]:
    """Once for each port that has it."""
    return [vip.address for spec in facts.ports for vip in spec.vips if vip.kind == "cluster"]


def _local_ready(slices: Iterable[SliceFacts]) -> int:
    """Endpoints, not addresses: one with an address of each family counts once."""
    here: dict[int, set[bytes]] = {4: set(), 6: set()}
    for each in slices:
        for index, state in enumerate(each.states):
            if each.ports and state & READY and state & LOCAL:
                here[each.family].add(each.addresses[index * each.size : (index + 1) * each.size])
    return max(map(len, here.values()))
