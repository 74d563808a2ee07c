"""Whom a name means among the objects of a world. Called by `percale why` and `percale service resolve`; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from msgspec import Struct
from msgspec.structs import replace

from percale.errors import BadInput, NotFound
from percale.explain.end_names import (
    MachineName,
    Name,
    NamedNumber,
    PodName,
    ServiceName,
    WorkloadName,
    find_port,
    first_pod,
    parse_name,
    suggest_end,
)
from percale.explain.pod_networks import PodNetworks
from percale.explain.pod_owners import owners
from percale.model.meta import Object, ObjectKey
from percale.model.selector import LabelSelector
from percale.model.service import Service
from percale.policy.evaluator import Evaluator
from percale.policy.pod_facts import PodFacts
from percale.policy.rule_terms import FlowProtocol
from percale.policy.verdict import FlowEnd
from percale.suggestion import did_you_mean, some_of


class Target(Struct, frozen=True):
    """What a user's argument names. `unknown`: it has no address yet, and the ends' ones are placeholders."""

    name: str
    ends: tuple[FlowEnd, ...]
    """One for each address."""
    unknown: bool = False
    of_workload: bool = False
    """It stands for the workload that was named."""

    @property
    def pod(self) -> PodFacts | None:
        return next((end.pod for end in self.ends), None)


class TargetLookup(Struct, frozen=True):
    """Where names are looked up."""

    evaluator: Evaluator
    objects: Sequence[Object] = ()
    """For the pods of workloads, and the names of Services."""
    made_up: frozenset[ObjectKey] = frozenset()
    """Pods whose addresses are not the ones that they will have."""
    hosts: Mapping[str, tuple[str, ...]] | None = None
    """The addresses of a lab's hosts outside, by name; None where there is no lab."""
    owned: frozenset[ObjectKey] = frozenset()
    """Pods that a workload makes."""
    selectors: tuple[tuple[str, LabelSelector], ...] = ()
    """What else than policies selects pods, by namespace: Services and workloads."""
    networks: PodNetworks = PodNetworks()
    """Of the pods whose addresses are made up."""

    def find(self, text: str, namespace: str | None = None) -> Target:
        """Who is meant, as FROM. Raises NotFound with the nearest name that is known, BadInput."""
        return self._target(parse_name(text, namespace), services=())

    def target(self, name: Name) -> Target:
        """Whom a name means, as TO; a Service would have been possible. Raises NotFound, BadInput."""
        return self._target(name, [each.key for each in self.objects if isinstance(each, Service)])

    def _target(self, name: Name, services: Sequence[ObjectKey]) -> Target:
        match name:
            case IPv4Address() | IPv6Address():
                return Target(str(name), (self.evaluator.flow_end(name.packed),))
            case MachineName(sort="node"):
                return self._node(name.name)
            case MachineName():
                return self._host(name.name)
            case WorkloadName():
                return replace(self._pod(first_pod(self.objects, name), services), of_workload=True)
            case ServiceName():
                raise BadInput(f"svc/{name.key} is a Service, and not at one end", hint="name a pod behind it")
            case PodName():
                return self._pod(name.key, services)

    def address_text(self, end: FlowEnd) -> str:
        """Its address; of a pod that has none yet, what is known of it."""
        if end.pod is None or end.pod.key not in self.made_up:
            return str(ip_address(end.address))
        networks = [
            each for each in self.networks.of(end.pod.node) if len(each.network_address.packed) == len(end.address)
        ]
        return f"an address of {networks[0]}" if len(networks) == 1 else "its address"

    def _pod(self, key: ObjectKey, services: Sequence[ObjectKey]) -> Target:
        members = self.evaluator.selector_index
        pod = members.pod(key)
        if pod is None:
            raise NotFound(f"there is no pod {key}", hint=self._hint(key, services))
        addresses = pod.addresses if pod.host_addresses is None else pod.host_addresses
        if not addresses and key not in self.made_up:
            if pod.finished:
                raise NotFound(f"pod {key} has finished: its address is not its own any more")
            raise NotFound(
                f"pod {key} has no address of its own", hint="another pod, which runs, has the one it claims"
            )
        if not addresses:  # of its node, which nobody has chosen
            nodes = min(self.evaluator.node_index.addresses, default=None)
            hint = f"ask for its node, such as node/{nodes}" if nodes else "its Node is not there"
            raise NotFound(f"pod {key} has its node's address, and no node that is known", hint=hint)
        if pod.host_addresses is not None:
            return Target(str(key), tuple(FlowEnd(each, None, pod.node) for each in addresses), key in self.made_up)
        return Target(str(key), tuple(FlowEnd(each, pod) for each in addresses), key in self.made_up)

    def _hint(self, key: ObjectKey, services: Sequence[ObjectKey]) -> str:
        if "." in key.name or (key.name == "external" and "external" not in (self.hosts or ())):
            return "for what is outside, give an address; for a Service, svc/NS/NAME"
        machines = [f"node/{each}" for each in self.evaluator.node_index.addresses]
        machines += [f"external/{each}" for each in self.hosts or ()]
        return suggest_end(key, owners(self.objects), machines, services)

    def _node(self, name: str) -> Target:
        addresses = self.evaluator.node_index.addresses
        if name not in addresses:
            raise NotFound(f"there is no node {name}", hint=_suggest_machine("node", name, addresses))
        if not addresses[name]:
            raise NotFound(f"node {name} has no address", hint="its Node object says none in status.addresses")
        return Target(f"node/{name}", tuple(FlowEnd(each, None, name) for each in addresses[name]))

    def _host(self, name: str) -> Target:
        if self.hosts is None:
            raise NotFound(f"external/{name} is a host of a lab", hint="name its address, or a lab by --lab")
        if name not in self.hosts:
            raise NotFound(f"there is no host {name}", hint=_suggest_machine("external", name, self.hosts))
        return Target(f"external/{name}", tuple(FlowEnd(ip_address(each).packed) for each in self.hosts[name]))


def _suggest_machine(sort: str, name: str, known: Iterable[str]) -> str | None:
    names = list(known)
    return did_you_mean(name, names, prefix=f"{sort}/", cutoff=0.3) or some_of(f"{sort}/{each}" for each in names)


def port_of(text: str, target: Target) -> tuple[FlowProtocol, int | None]:
    """`80`, `53/udp`, `icmp`, or the name of a port of the target. Raises BadInput."""
    ports = target.pod.ports if target.pod is not None else ()
    return find_port(text, target.name, (NamedNumber(each.name, each.protocol, each.number) for each in ports))
