"""Services as this node sees them, kept up to date object by object. Not for two threads at a time.

    put, gone ─▶ facts (compact; the objects are not kept) ─▶ claims ─▶ dirty Services ─▶ resolved anew, compared, reported

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
from percale.service.cost import too_costly
from percale.service.endpoint_selection import Record, candidates, choose, nodes_of
from percale.service.endpoint_slices import DRAINING, LOCAL, READY, SliceFacts, facts_of_slice
from percale.service.endpoints_mirroring import is_mirrored, mirrored_slices
from percale.service.node_context import NodeFacts, ServiceConfig, facts_of_node, node_port_addresses
from percale.service.refused_addresses import OF_A_NODE, NodeAddresses, Refused
from percale.service.resolved_service import ResolvedPort, ResolvedService
from percale.service.service_ports import PortSpec, ServiceFacts, facts_of_service, spelled_vip
from percale.service.strategies import slots_of
from percale.service.tunnel_endpoints import Tunnels
from percale.service.vip_conflicts import Claims

KINDS: tuple[type[Object], ...] = (Node, SubnetLease, EndpointSlice, Endpoints, Service)
"""What a table wants to know of. Services come last: each finds its endpoints, and is resolved once."""


class ServiceTable:
    """`services` has each Service for which there is something to do here."""

    def __init__(self, config: ServiceConfig, objects: Iterable[Object] = ()) -> None:
        self.config = config
        self.node = NodeFacts()
        self.services: dict[ObjectKey, ResolvedService] = {}
        self.claims = Claims()
        self._cluster_ips: dict[bytes, int] = {}
        self._facts: dict[ObjectKey, ServiceFacts] = {}
        """Without the addresses that they asked for and that are a node's."""
        self._asking: dict[ObjectKey, ServiceFacts] = {}
        """The same with them, of Services with addresses that may be a node's."""
        self._asked_for: dict[bytes, set[ObjectKey]] = {}
        """Such an address, or one that is refused always → who wants it."""
        self._of_nodes = NodeAddresses()
        self._slices: dict[ObjectKey, tuple[SliceFacts, ...]] = {}
        self._mirrored: dict[ObjectKey, tuple[SliceFacts, ...]] = {}
        self._homes: dict[ObjectKey, ObjectKey] = {}
        """A slice → its Service."""
        self.tunnels = Tunnels(config.tunnel_ports)
        self._concerned: dict[tuple[type[Object], ObjectKey], ObjectKey] = {}
        """Slices and Endpoints with a tunnel's port → their Services."""
        self.apply(objects)

    # Asking

    @property
    def cluster_ips(self) -> Iterable[bytes]:
        """Active ones: their undefined ports are rejected."""
        return self._cluster_ips.keys()

    @property
    def node_port_addresses(self) -> tuple[bytes, ...]:
        """This node's addresses that take node ports."""
        return node_port_addresses(self.config, self.node)

    @property
    def known(self) -> Iterator[tuple[type[Object], ObjectKey]]:
        """The objects that it has facts of."""
        yield from ((Service, key) for key in self._facts)
        yield from ((EndpointSlice, key) for key in self._homes)
        yield from ((Endpoints, key) for key in self._mirrored)
        yield from ((SubnetLease, key) for key in self.tunnels.leases)
        if self.node != NodeFacts():
            yield Node, ObjectKey(None, self.config.node)
        yield from ((kind, ObjectKey(None, name)) for kind, name in self._of_nodes)

    @property
    def problems(self) -> Iterator[str]:
        """What is wrong with Services and slices; each concerns its own Service only."""
        return (problem for each in self.services.values() for problem in each.problems)

    def refusal(self, address: bytes) -> str | None:
        """Which Service asks for this address, and why it has it not."""
        for key in sorted(self._asked_for.get(address, ())):
            for each in self._facts[key].refused:
                if each.address == address:
                    return f"Service {key}: {each}"
        return None

    def serving(self, spec: PortSpec) -> frozenset[Record]:
        """All endpoints of a service port that answer, whether this node chooses them for new connections or not."""
        found = candidates(self._slices_of(self._facts[spec.key]), spec.family, spec.name.port, spec.name.protocol)
        return frozenset(record for record, state in found.states.items() if state & (READY | DRAINING))

    # Changes

    def apply(self, put: Iterable[Object] = (), gone: Iterable[tuple[type[Object], ObjectKey]] = ()) -> set[ObjectKey]:
        """Objects are new or changed, others are gone (each is in one of the two). The Services that mean something else now.

        A change of `node_port_addresses` is not among them: it is no Service's.
        """
        dirty: set[ObjectKey] = set()
        for kind, key in gone:
            self._remove(kind, key, dirty)
        for obj in put:
            self._put(obj, dirty)
        return {key for key in dirty if self._resolve(key)}

    def _put(self, obj: Object, dirty: set[ObjectKey]) -> None:
        match obj:
            case EndpointSlice():
                self._put_slice(obj.key, facts_of_slice(obj, self.config.node), dirty)
            case Service():
                self._ask(obj.key, facts_of_service(obj, self.config), dirty)
            case Endpoints():
                slices = mirrored_slices(obj) if is_mirrored(obj) else []
                facts = [facts_of_slice(each, self.config.node) for each in slices]
                self._mirrored[obj.key] = tuple(each for each in facts if each is not None)
                self._note_ports(Endpoints, obj.key, self._mirrored[obj.key])
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
                    dirty.update(self._concerned.values())

    def _remove(self, kind: type[Object], key: ObjectKey, dirty: set[ObjectKey]) -> None:
        if kind is EndpointSlice:
            self._put_slice(key, None, dirty)
        elif kind is Service:
            self._ask(key, None, dirty)
        elif kind is Endpoints:
            self._mirrored.pop(key, None)
            self._note_ports(Endpoints, key, ())
            dirty.add(key)
        elif kind is Node or kind is SubnetLease:
            if kind is Node and key.name == self.config.node:
                self._put_node(NodeFacts(), dirty)
            self._put_addresses(kind, key.name, (), dirty)
            if kind is SubnetLease and self.tunnels.remove(key):
                dirty.update(self._concerned.values())

    def _ask(self, key: ObjectKey, facts: ServiceFacts | None, dirty: set[ObjectKey]) -> None:
        """What a Service asks for; None: it is gone."""
        old = self._facts.get(key)
        for address in _watched(self._asking.pop(key, old)):
            self._asked_for[address].discard(key)
            if not self._asked_for[address]:
                del self._asked_for[address]
        if facts is None:
            self._remove_service(key, dirty)
            return
        if facts.external:
            self._asking[key] = facts
        for address in _watched(facts):
            self._asked_for.setdefault(address, set()).add(key)
        self._put_service(self._admitted(facts), dirty)

    def _admitted(self, facts: ServiceFacts) -> ServiceFacts:
        taken = {address for address in facts.external if address in self._of_nodes} if facts.external else ()
        if not taken:
            return facts
        ports = [
            replace(port, vips=tuple([vip for vip in port.vips if vip.kind != "external" or vip.address not in taken]))
            for port in facts.ports
        ]
        refused = (Refused("spec.externalIPs", address, OF_A_NODE) for address in sorted(taken))
        return replace(facts, ports=tuple(ports), refused=(*facts.refused, *refused))

    def _put_addresses(
        self, kind: type[Object], name: str, addresses: tuple[bytes, ...], dirty: set[ObjectKey]
    ) -> None:
        """A node's. Who asks for one that has come or gone is looked at again, and nobody else."""
        if self.config.external_ips != ():
            return
        for address in self._of_nodes.tell((kind, name), addresses):
            for key in self._asked_for.get(address, ()):
                if key in self._asking:
                    self._put_service(self._admitted(self._asking[key]), dirty)

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
        for rival in self.claims.add(facts.ports):
            dirty.add(rival.key)

    def _remove_service(self, key: ObjectKey, dirty: set[ObjectKey]) -> None:
        dirty.add(key)
        facts = self._facts.pop(key, None)
        if facts is None:
            return
        for address in _cluster_ips(facts):
            self._cluster_ips[address] -= 1
            if not self._cluster_ips[address]:
                del self._cluster_ips[address]
        for heir in self.claims.remove(facts.ports):
            dirty.add(heir.key)

    def _put_slice(self, key: ObjectKey, facts: SliceFacts | None, dirty: set[ObjectKey]) -> None:
        """None: it is gone, or none of ours any more."""
        self._note_ports(EndpointSlice, key, (facts,) if facts is not None else ())
        old = self._homes.pop(key, None)
        if old is not None:
            dirty.add(old)
            self._slices[old] = tuple(each for each in self._slices[old] if each.name != key.name)
            if not self._slices[old]:
                del self._slices[old]
        if facts is not None:
            home = facts.service
            dirty.add(home)
            self._homes[key] = home
            known = self._slices.get(home)
            self._slices[home] = (facts,) if known is None else tuple(sorted((*known, facts), key=_name))

    def _note_ports(self, kind: type[Object], key: ObjectKey, slices: tuple[SliceFacts, ...]) -> None:
        self._concerned.pop((kind, key), None)
        for each in slices:
            if self.tunnels.concern(each):
                self._concerned[kind, key] = each.service

    def _put_node(self, node: NodeFacts, dirty: set[ObjectKey]) -> None:
        if node.zone != self.node.zone:
            dirty.update(self._facts)
        self.node = node

    # Resolving

    def _resolve(self, key: ObjectKey) -> bool:
        """One Service anew; whether it means something else now."""
        facts = self._facts.get(key)
        old = self.services.get(key)
        said = facts is not None and (facts.ports or facts.problems or facts.refused)
        new = self._resolved(facts) if facts is not None and said else None
        if new is None:
            self.services.pop(key, None)
        else:
            self.services[key] = new  # also when it is equal: its ports are those that hold the claims
        return new != old

    def _resolved(self, facts: ServiceFacts) -> ResolvedService:
        slices = self._slices_of(facts)
        refused = [f"Service {facts.key}: {each}" for each in facts.refused]
        problems = [*facts.problems, *refused, *self._lost(facts), *[said for each in slices for said in each.problems]]
        specs: Sequence[PortSpec] = facts.ports
        if (costly := too_costly(facts, slices)) is not None:
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

    def _lost(self, facts: ServiceFacts) -> Iterator[str]:
        if self.claims.contested:
            for spec in facts.ports:
                for vip, other in self.claims.lost(spec):
                    yield f"Service {facts.key}: {spelled_vip(vip)}/{spec.name.protocol} belongs to Service {other.key}"

    def _slices_of(self, facts: ServiceFacts) -> tuple[SliceFacts, ...]:
        """Plain Endpoints count where nobody has written slices, and no selector says that a controller will.

        A tunnel between nodes is no endpoint, whoever wrote it.
        """
        found = self._slices.get(facts.key)
        if found is None:
            found = self._mirrored.get(facts.key, ()) if facts.selectorless else ()
        return tuple([part for each in found for part in self.tunnels.without(each)])

    def _port(self, spec: PortSpec, slices: tuple[SliceFacts, ...]) -> ResolvedPort:
        which = (spec.family, spec.name.port, spec.name.protocol)
        choice = choose(candidates(slices, *which), self.config.node, self.node.zone)
        nodes = nodes_of(slices, *which) if spec.strategy.weights else {}
        uses_local = spec.internal_local or spec.external_local
        return ResolvedPort(
            spec=spec,
            vips=self.claims.won(spec),
            cluster=b"".join(slots_of(spec.strategy, choice.cluster, nodes)),
            local=b"".join(slots_of(spec.strategy, choice.local, nodes)) if uses_local else b"",
            anywhere=choice.anywhere,
        )


def _watched(facts: ServiceFacts | None) -> Collection[bytes]:
    """Addresses that it may not have, or not always."""
    if facts is None or not (facts.external or facts.refused):
        return ()
    return {*facts.external, *(each.address for each in facts.refused)}


def _name(facts: SliceFacts) -> str:
    return facts.name


def _cluster_ips(facts: ServiceFacts) -> list[bytes]:
    """One for each port that has it."""
    return [vip.address for spec in facts.ports for vip in spec.vips if vip.kind == "cluster"]


def _local_ready(slices: Iterable[SliceFacts]) -> int:
    """Endpoints, not addresses: one with an address of each family counts once."""
    here: dict[int, set[bytes]] = {4: set(), 6: set()}
    for each in slices:
        for index, state in enumerate(each.states):
            if each.ports and state & READY and state & LOCAL:
                here[each.family].add(each.addresses[index * each.size : (index + 1) * each.size])
    return max(map(len, here.values()))
