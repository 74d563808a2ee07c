"""What the names of a probe's ends (explain/end_names.py) mean in a lab that runs.

Called by `machine_verbs`. A DNS name is looked up from the client pod's namespace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from percale.errors import LabError, NotFound
from percale.explain.end_names import (
    MachineName,
    Name,
    NamedNumber,
    PodName,
    ServiceName,
    WorkloadName,
    first_pod,
    parse_name,
    suggest_end,
)
from percale.explain.pod_owners import owners
from percale.explain.service_world import service_at
from percale.lab.api.probe import look_up
from percale.lab.cluster import Cluster
from percale.lab.dns.records import DOMAIN
from percale.lab.process.bootstrap import NETNS
from percale.lab.process.netns_visit import visit_async
from percale.lab.spec.topology import Machine
from percale.model.addresses import IPAddress, is_address
from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.model.meta import Object, ObjectKey
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.service import Service
from percale.model.subnet_lease import SubnetLease
from percale.model.workloads import Job, ReplicaSet
from percale.objects.columns import pod_state, reason
from percale.service.service_ports import PortName

_SORTS = {"node": "node", "host": "external"}
"""As names have them, by a machine's kind."""


class ProbeTarget(Struct, frozen=True):
    """Source or target of a probe, or where a program runs."""

    name: str
    addresses: tuple[IPAddress, ...]
    namespace: Path | None
    """None: an address outside the lab, or a Service's."""
    hostname: str
    pod: ObjectKey | None = None
    node: str | None = None
    """Set for a node itself."""
    service: ObjectKey | None = None
    resolver: Path | None = None
    """A pod's own /etc/resolv.conf; None: the machine's."""

    @property
    def is_of_lab(self) -> bool:
        """False: an address that no machine, pod or Service has."""
        return self.namespace is not None or self.service is not None


class ProbeTargets(Struct, frozen=True):
    """Finds targets in the cluster's current state."""

    cluster: Cluster

    def find(self, text: str, namespace: str | None) -> ProbeTarget:
        """A pod, machine or address. Raises NotFound, BadInput, LabError."""
        return self._find(parse_name(text, namespace), services=())

    def _find(self, name: Name, services: Iterable[ObjectKey]) -> ProbeTarget:
        """`services` are proposed too."""
        match name:
            case IPv4Address() | IPv6Address():
                return self.at_address(name)
            case MachineName():
                return machine_target(self.machine(f"{name.sort}/{name.name}"))
            case ServiceName():
                raise LabError(f"svc/{name.key} is a Service, and no place", hint="name a pod behind it")
            case WorkloadName():
                key = first_pod(self._pods_and_owners(), name)
            case PodName():
                key = name.key
        pod = self.cluster.cache.get(Pod, key)
        if pod is None:
            raise NotFound(f"there is no pod {key}", hint=self._suggestion(key, services))
        return self._pod_target(pod)

    async def resolve(
        self, text: str, namespace: str | None, client: ProbeTarget, timeout_seconds: float
    ) -> ProbeTarget:
        """As `find`, and Services and names of the client's name server. Raises NotFound, LabError, TimeoutError."""
        name = parse_name(text, namespace)
        if isinstance(name, ServiceName):
            return await self._resolve_service(self._service(name.key), client, timeout_seconds)
        try:
            return self._find(name, self.cluster.cache.keys(Service))
        except NotFound as error:
            if not isinstance(name, PodName) or not name.is_bare or client.resolver is None:
                raise
            try:
                return ProbeTarget(text, await self._look_up(text, client, timeout_seconds), None, text)
            except NotFound:
                what = f"there is no pod {name.key}, and {client.name} resolves no such name"
                raise NotFound(what, hint=error.hint) from error

    async def _resolve_service(self, service: Service, client: ProbeTarget, timeout_seconds: float) -> ProbeTarget:
        """At its cluster IPs; where it has none, what its name resolves to. From outside, at the addresses that lead there."""
        if client.pod is None and client.node is None:
            node = self.cluster.machines.topology.nodes[0].name
            return _from_outside(service, client, lambda port: self._command(f"probe {client.name} node/{node} {port}"))
        target = _service_target(service)
        if target.addresses:
            return target
        named = f"{service.metadata.name}.{service.metadata.namespace}.svc.{DOMAIN}."
        try:
            return replace(target, addresses=await self._look_up(named, client, timeout_seconds))
        except NotFound as error:
            raise _no_address_error(service, target, self._command("get endpointslices -A")) from error

    def ports(self, target: ProbeTarget) -> Iterator[NamedNumber]:
        """The ports that a pod or Service names."""
        if target.pod is not None and (pod := self.cluster.cache.get(Pod, target.pod)) is not None:
            for container in pod.spec.containers:
                yield from (NamedNumber(each.name, each.protocol, each.containerPort) for each in container.ports)
        if target.service is not None and (found := self.cluster.cache.get(Service, target.service)) is not None:
            yield from (NamedNumber(each.name, each.protocol, each.port) for each in found.spec.ports)

    async def _look_up(self, name: str, client: ProbeTarget, timeout_seconds: float) -> tuple[IPAddress, ...]:
        if client.resolver is None or client.namespace is None:
            raise LabError(f"{name} is known to pods only, not to {client.name}", hint="let FROM be a pod")
        resolver, hint = client.resolver, self._command("get svc -A")
        return await visit_async(client.namespace, lambda: look_up(resolver, name, timeout_seconds, hint))

    def machine(self, text: str) -> Machine:
        """`NAME`, `node/NAME` or `external/NAME`. Raises NotFound."""
        sort, _, name = text.rpartition("/")
        topology = self.cluster.machines.topology
        found = topology.find(name)
        if found is None or sort not in ("", _SORTS[found.kind]):
            known = ", ".join(self._machine_names())
            raise NotFound(f"there is no {text if sort else f'node or host {name}'}", hint=f"there are {known}")
        return found

    def _suggestion(self, key: ObjectKey, services: Iterable[ObjectKey]) -> str:
        return suggest_end(key, owners(self._pods_and_owners()), self._machine_names(), services)

    def _pods_and_owners(self) -> Iterable[Object]:
        cache = self.cluster.cache
        return (*cache.all(Pod), *cache.all(ReplicaSet), *cache.all(Job))

    def _machine_names(self) -> list[str]:
        return [f"{_SORTS[machine.kind]}/{machine.name}" for machine in self.cluster.machines.topology.machines]

    def _service(self, key: ObjectKey) -> Service:
        found = self.cluster.cache.get(Service, key)
        if found is None:
            same = min(
                (str(other) for other in self.cluster.cache.keys(Service) if other.name == key.name), default=None
            )
            hint = f"did you mean svc/{same}?" if same else self._command("get svc -A")
            raise NotFound(f"there is no service {key}", hint=hint)
        return found

    def _command(self, words: str) -> str:
        return self.cluster.machines.lab_dir.command(words)

    def _pod_target(self, pod: Pod) -> ProbeTarget:
        path = self.cluster.kubelet.namespace(pod.key)
        if path is None:
            raise LabError(f"pod {pod.key} is not running yet: {reason(pod) or pod_state(pod)}")
        ips = tuple(ip_address(entry.ip) for entry in pod.status.podIPs)
        files = self.cluster.machines.lab_dir.pod(pod.metadata.namespace or DEFAULT_NAMESPACE, pod.metadata.name)
        resolver = None if pod.spec.hostNetwork else files / "resolv.conf"
        return ProbeTarget(str(pod.key), ips, path, pod.host_name, pod=pod.key, resolver=resolver)

    def at_address(self, address: IPAddress) -> ProbeTarget:
        """The machine, pod or Service with this address, or the address itself."""
        for machine in self.cluster.machines.topology.machines:
            target = machine_target(machine)
            if address in target.addresses:
                return replace(target, addresses=(address,))
        for pod in self.cluster.cache.all(Pod):
            if not pod.spec.hostNetwork and str(address) in {entry.ip for entry in pod.status.podIPs}:
                return replace(self._pod_target(pod), addresses=(address,))
        for service in self.cluster.cache.all(Service):
            if str(address) in {*service.spec.clusterIPs, *_outside_addresses(service)}:
                return replace(_service_target(service), addresses=(address,))
        return ProbeTarget(str(address), (address,), None, str(address))

    def service_at(self, address: IPAddress, number: int, protocol: str) -> tuple[PortName, int] | None:
        """The service port, with its number, that leads a packet to there away."""
        objects = (*self.cluster.cache.all(Node), *self.cluster.cache.all(Service))
        return service_at(objects, address.packed, number, protocol)

    def end_and_port(self, name: str, address: IPAddress, number: int | None, protocol: str) -> tuple[str, str]:
        """TO and PORT for `percale why`; a Service by its name, whichever of its addresses it is."""
        if number is None:
            return name, protocol.lower()
        found = self.service_at(address, number, protocol)
        if found is None:
            return name, f"{number}/{protocol.lower()}"
        service, own = found
        return f"svc/{service.namespace}/{service.service}", f"{own}/{protocol.lower()}"

    def question(
        self, client: ProbeTarget, owner: ProbeTarget, address: IPAddress, number: int, protocol: str
    ) -> tuple[str, str, str] | None:
        """FROM, TO and PORT for `percale why`; None: between machines, where no policy decides."""
        to, port = self.end_and_port(owner.name, address, number, protocol)
        between_machines = client.pod is None and owner.pod is None and not to.startswith("svc/")
        return None if between_machines else (client.name, to, port)

    def sender(self, address: IPAddress) -> ProbeTarget:
        """Who sends ICMP errors from here: the one with this address, the node of this pod subnet, the router."""
        found = self.at_address(address)
        if found.is_of_lab:
            return found
        for lease in self.cluster.cache.all(SubnetLease):
            if any(address in subnet for subnet in lease.spec.subnets):
                return machine_target(self.machine(f"node/{lease.spec.node}"))
        segments = self.cluster.machines.topology.segments
        if any(address in (each.gateway.ip, each.gateway6.ip) for each in segments):
            return replace(found, name="the router")
        return found

    def routes_command(self, client: ProbeTarget, address: IPAddress, sender: ProbeTarget | None) -> str:
        """What shows the routes of whom had none: the sender's, else the client's; for the router those of the client's node."""
        words = "ip -6 route" if address.version == 6 else "ip route"
        at = client if sender is None else sender
        if at.namespace is None and client.pod is not None:
            pod = self.cluster.cache.get(Pod, client.pod)
            at = replace(at, name=f"node/{pod.spec.nodeName}") if pod is not None else client
        return self._command(f"exec {at.name} -- {words}")


def machine_target(machine: Machine) -> ProbeTarget:
    """A node or host as a target."""
    return ProbeTarget(
        f"{_SORTS[machine.kind]}/{machine.name}",
        (machine.address.ip, machine.address6.ip),
        NETNS / machine.name,
        machine.name,
        node=machine.name if machine.kind == "node" else None,
    )


def choose_address(server: ProbeTarget, client: ProbeTarget, version: int | None) -> IPAddress:
    """The server's first address of the requested family, or of one that both have. Raises LabError."""
    usable = [address for address in server.addresses if version in (None, address.version)]
    if not usable:
        raise LabError(f"{server.name} has no IPv{version or 4} address")
    families = {address.version for address in client.addresses}
    common = next((address for address in usable if address.version in families), None)
    if common is None:
        what = f"{client.name} has no IPv{usable[0].version} address"
        raise LabError(what, hint="pods have both in a dual-stack lab, such as examples/lab/dual-stack.yaml")
    return common


def _no_address_error(service: Service, target: ProbeTarget, command: str) -> NotFound:
    """A Service without a cluster IP, whose name has no address."""
    if service.spec.type == "ExternalName":
        name = service.spec.externalName
        return NotFound(
            f"{target.name} is a name for {name}, which does not resolve", hint="an IP address needs Endpoints"
        )
    return NotFound(f"{target.name} is headless, and has no ready endpoint", hint=command)


def _outside_addresses(service: Service) -> Iterator[str]:
    yield from (each.ip for each in service.status.loadBalancer.ingress if each.ip)
    yield from service.spec.externalIPs


def _from_outside(service: Service, client: ProbeTarget, at_node: Callable[[str], str]) -> ProbeTarget:
    """At its load balancer's addresses and external IPs; else raises LabError with the command for its node port."""
    if addresses := tuple(map(ip_address, filter(is_address, _outside_addresses(service)))):
        return replace(_service_target(service), addresses=addresses)
    ports = (f"{each.nodePort}/{each.protocol.lower()}" for each in service.spec.ports if each.nodePort)
    ask = next(map(at_node, ports), None)
    what = f"svc/{service.key} has no address outside the cluster, where {client.name} is"
    raise LabError(what, hint=f"its node port: {ask}" if ask else "a Service of type NodePort or LoadBalancer has one")


def _service_target(service: Service) -> ProbeTarget:
    """Its cluster IPs; a headless one has none."""
    addresses = (ip_address(each) for each in service.spec.clusterIPs if is_address(each))
    return ProbeTarget(f"svc/{service.key}", tuple(addresses), None, service.metadata.name, service=service.key)
