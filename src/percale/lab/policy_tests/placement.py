"""Plans the labs of policy tests: nodes whose subnets hold exactly the pods' addresses, outside hosts with the tests' addresses.

    cases ─▶ batches (tests that can share a lab) ─▶ LabPlan: a Lab document, reserved leases, each pod's node

Pure; `runner.py` starts the labs. A probe that no lab can send gets a reason instead, and so does a test without a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from percale.cni.requests import ANNOTATION
from percale.errors import BadInput, LabError
from percale.explain.policy_tests.cases import Case, Probe
from percale.lab.policy_tests.subnet_layout import NodeSubnets, assign_subnets, network_for
from percale.lab.spec.topology import Lab, LabSpec, topology
from percale.model.addresses import IPAddress, IPNetwork
from percale.model.manifest.schema import from_text
from percale.model.meta import ObjectKey, ObjectMeta
from percale.model.netconf import network_config
from percale.model.node import Node
from percale.model.pod import Container, ContainerPort, Pod, PodStatus
from percale.model.subnet_lease import RESERVED, SubnetLease, SubnetLeaseSpec

States: TypeAlias = Sequence[Case]
"""The states of one test, in order."""

LABS = 4
"""Labs at a time: most of a lab's time is spent waiting for packets that are dropped."""


@dataclass(slots=True)
class LabPlan:
    """A lab for some cases."""

    document: dict[str, Any]
    node_subnets: tuple[NodeSubnets, ...]
    ports: dict[ObjectKey, frozenset[tuple[int, str]]]
    """The ports that each pod must answer on, in any of the cases."""
    machines: dict[str, str]
    """Targets of the lab's probe (external/NAME, node/NAME), by address."""
    taken: set[IPAddress]
    impossible: dict[str, str]
    """Outside addresses that no host of the lab can have, each with the reason."""
    _given: dict[ObjectKey, tuple[str, ...]] = field(default_factory=dict)

    def leases(self) -> Iterator[SubnetLease]:
        """Reserved leases, so that each node gets its planned subnet."""
        for node in self.node_subnets:
            v4, v6 = node.subnets.get(4), node.subnets.get(6)
            spec = SubnetLeaseSpec(
                node=node.name,
                subnet=v4 if isinstance(v4, IPv4Network) else None,
                ipv6Subnet=v6 if isinstance(v6, IPv6Network) else None,
            )
            yield SubnetLease(metadata=ObjectMeta(name=node.name, annotations={RESERVED: "true"}), spec=spec)

    def placed(self, pod: Pod) -> Pod:
        """The pod as the lab must create it: with exactly its addresses, answering on every probed port."""
        if pod.spec.hostNetwork:
            return replace(pod, status=PodStatus())
        first = ip_address(pod.status.addresses[0])
        node = next(node for node in self.node_subnets if first in node.subnets[first.version])
        addresses = (*pod.status.addresses, *self._extra_addresses(pod, node))
        open_ports = tuple(
            ContainerPort(containerPort=number, protocol="UDP" if protocol == "UDP" else "TCP")
            for number, protocol in sorted(self.ports.get(pod.key, ()))
        )
        containers = (*pod.spec.containers, Container(name="probed", ports=open_ports))
        return replace(
            pod,
            metadata=replace(pod.metadata, annotations={ANNOTATION: ",".join(addresses)}),
            spec=replace(pod.spec, containers=containers, nodeName=node.name),
            status=PodStatus(),
        )

    def why_not_sent(self, case: Case, probe: Probe) -> str | None:
        """Why the evaluator has to answer; None for a probe that the lab can send."""
        if probe.port is None or probe.protocol not in ("TCP", "UDP"):
            return f"a lab's probes are TCP and UDP, not {probe.protocol}"
        pods = {str(pod.key): pod for pod in case.pods}
        for end in (probe.source, probe.destination):
            reason = _why_not_placed(pods[end]) if end in pods else self.impossible.get(end)
            if reason is not None:
                return reason
        return None

    def spare(self, node: NodeSubnets) -> tuple[str, ...]:
        """An unused address of each family; each is returned once."""
        return tuple(self._free(subnet) for subnet in node.subnets.values())

    def _extra_addresses(self, pod: Pod, node: NodeSubnets) -> tuple[str, ...]:
        """A dual-stack lab's pods have both families: an unused address of each family that the case does not set."""
        have = {ip_address(each).version for each in pod.status.addresses}
        if pod.key not in self._given:
            missing = [subnet for version, subnet in node.subnets.items() if version not in have]
            self._given[pod.key] = tuple(map(self._free, missing))
        return self._given[pod.key]

    def _free(self, subnet: IPNetwork) -> str:
        address = subnet.broadcast_address - 1
        while address in self.taken:
            address -= 1
        self.taken.add(address)
        return str(address)


class Batch(Struct, frozen=True):
    """Tests that share a lab; `plan` None: no lab can run them, for `reason`."""

    sequences: tuple[States, ...]
    plan: LabPlan | None
    reason: str = ""

    def why_not_sent(self, case: Case, probe: Probe) -> str | None:
        """Why the evaluator has to answer; None for a probe that a lab can send."""
        return self.plan.why_not_sent(case, probe) if self.plan is not None else self.reason

    @property
    def needs_lab(self) -> bool:
        """Whether there is a probe that a lab can send."""
        cases = [case for sequence in self.sequences for case in sequence]
        return any(self.why_not_sent(case, probe) is None for case in cases for probe in case.probes)


def batches(sequences: Iterable[States]) -> list[Batch]:
    """Tests without machines of their own share labs, ordered by pods, so that few pods are recreated between states."""
    plain: list[States] = []
    special: list[States] = []
    for sequence in sequences:
        (plain if all(map(_is_plain, sequence)) else special).append(sequence)
    plain.sort(key=lambda sequence: sorted((pod.key, pod.status.addresses) for case in sequence for pod in case.pods))
    shared = _shared(plain)
    if all(batch.plan is not None for batch in shared):
        return [*shared, *(_batch([sequence]) for sequence in special)]
    return [_batch([sequence]) for sequence in (*plain, *special)]


def _is_plain(case: Case) -> bool:
    named = {address for pod in case.pods for address in pod.status.addresses}
    own = all(
        pod.spec.nodeName is None and not pod.spec.hostNetwork and is_placed(pod) for pod in case.pods
    ) and not any(":" in address for address in named)
    return (
        own and not case.nodes and all("/" in end for probe in case.probes for end in (probe.source, probe.destination))
    )


def _shared(sequences: Sequence[States]) -> list[Batch]:
    """At most LABS batches with about the same number of states."""
    states = sum(map(len, sequences))
    share = max(8, -(-states // LABS))
    parts: list[list[States]] = []
    for sequence in sequences:
        if not parts or sum(map(len, parts[-1])) >= share:
            parts.append([])
        parts[-1].append(sequence)
    return [_batch(part) for part in parts]


def _batch(sequences: Sequence[States]) -> Batch:
    try:
        return Batch(tuple(sequences), _plan_lab([case for sequence in sequences for case in sequence]))
    except (LabError, BadInput) as error:
        return Batch(tuple(sequences), None, str(error))


def is_placed(pod: Pod) -> bool:
    """Whether a lab has the pod."""
    return _why_not_placed(pod) is None


def _why_not_placed(pod: Pod) -> str | None:
    if pod.status.phase != "Running":
        return f"a lab's pods are Running, {pod.key} is {pod.status.phase}"
    if pod.spec.hostNetwork and pod.spec.nodeName is None:
        return f"{pod.key} is on its node's network, and on no node of the case"
    return None


def _plan_lab(cases: Sequence[Case]) -> LabPlan:
    """Raises LabError, BadInput when no lab fits the cases."""
    pods = [pod for case in cases for pod in case.pods if is_placed(pod)]
    nodes = {node.metadata.name: node for case in cases for node in case.nodes}
    homes = dict.fromkeys((*nodes, *(pod.spec.nodeName for pod in pods if pod.spec.nodeName is not None)))
    node_subnets = assign_subnets([pod for pod in pods if not pod.spec.hostNetwork], list(homes))
    node_ips = {name: [ip_address(each.address) for each in node.status.addresses] for name, node in nodes.items()}
    known = {ip_address(each) for pod in pods for each in pod.status.addresses}
    known |= {each for ips in node_ips.values() for each in ips}
    ends = {end for case in cases for probe in case.probes for end in (probe.source, probe.destination)}
    wanted = sorted({ip_address(end) for end in ends if "/" not in end} - known, key=lambda ip: (ip.version, ip))

    def document_with(outside: Sequence[IPAddress]) -> dict[str, Any]:
        return _document(cases, nodes, node_subnets, node_ips, outside)

    outside, impossible = _possible_hosts(wanted, document_with)
    names = _host_names(outside)
    machines = {str(address): f"external/{name}" for address, name in names.items()}
    machines |= {str(address): f"node/{name}" for name, ips in node_ips.items() for address in ips}
    return LabPlan(document_with(outside), node_subnets, _ports(cases), machines, known, impossible)


def _possible_hosts(
    wanted: Sequence[IPAddress], document_with: Callable[[Sequence[IPAddress]], dict[str, Any]]
) -> tuple[list[IPAddress], dict[str, str]]:
    """The addresses that hosts of the lab can have, and why the others cannot. Raises LabError, BadInput without any host."""
    try:
        document_with(wanted)
    except (LabError, BadInput):
        document_with(())
    else:
        return list(wanted), {}
    possible: list[IPAddress] = []
    impossible: dict[str, str] = {}
    for address in wanted:
        try:
            document_with([*possible, address])
        except (LabError, BadInput) as error:
            impossible[str(address)] = f"no host of a lab can have {address}: {error.what}"
        else:
            possible.append(address)
    return possible, impossible


def _host_names(outside: Iterable[IPAddress]) -> dict[IPAddress, str]:
    return {address: f"h{number}" for number, address in enumerate(outside, start=1)}


def _document(
    cases: Sequence[Case],
    nodes: Mapping[str, Node],
    node_subnets: Sequence[NodeSubnets],
    node_ips: Mapping[str, Sequence[IPAddress]],
    outside: Sequence[IPAddress],
) -> dict[str, Any]:
    """The Lab document. Raises LabError, BadInput when its machines do not fit."""
    names = _host_names(outside)
    segments = [_segment("nodes", [each for ips in node_ips.values() for each in ips]), *_host_segments(outside)]
    spec: dict[str, Any] = {
        "network": network_for(node_subnets),
        "segments": [each.fields for each in segments],
        "nodes": [
            {
                "name": node.name,
                "segment": "nodes",
                "labels": nodes[node.name].metadata.labels if node.name in nodes else {},
                **_addressed(node_ips.get(node.name, ())),
            }
            for node in node_subnets
        ],
        "hosts": [
            {
                "name": names[address],
                "segment": next(each.name for each in segments if address in each.addresses),
                "ports": _ports_at(cases, address),
                **_addressed([address]),
            }
            for address in outside
        ],
    }
    topology(msgspec.convert(spec, LabSpec, dec_hook=from_text), network_config(spec["network"]).networks)
    return {"apiVersion": Lab.API_VERSION, "kind": Lab.KIND, "metadata": {"name": "policy-test"}, "spec": spec}


# Ports


def _ports(cases: Iterable[Case]) -> dict[ObjectKey, frozenset[tuple[int, str]]]:
    """The ports that any probe of any case sends to, by pod."""
    found: dict[ObjectKey, set[tuple[int, str]]] = {}
    for case in cases:
        owners = {address: pod.key for pod in case.pods for address in pod.status.addresses}
        for probe in case.probes:
            for address in case.addresses(probe.destination):
                if address in owners and probe.port is not None and probe.protocol in ("TCP", "UDP"):
                    found.setdefault(owners[address], set()).add((probe.port, probe.protocol))
    return {key: frozenset(ports) for key, ports in found.items()}


def _ports_at(cases: Iterable[Case], address: IPAddress) -> list[str]:
    """A host's ports as a Lab document lists them."""
    return sorted(
        {
            f"{probe.port}/{probe.protocol}"
            for case in cases
            for probe in case.probes
            if probe.destination == str(address) and probe.protocol in ("TCP", "UDP")
        }
    )


# Machines


class _Segment(Struct, frozen=True):
    name: str
    addresses: tuple[IPAddress, ...]
    """Addresses that it must contain."""
    networks: dict[int, IPNetwork]

    @property
    def fields(self) -> dict[str, str]:
        keys = {4: "cidr", 6: "cidr6"}
        return {"name": self.name, **{keys[version]: str(network) for version, network in self.networks.items()}}


def _segment(name: str, addresses: Sequence[IPAddress]) -> _Segment:
    families = {version: [each for each in addresses if each.version == version] for version in (4, 6)}
    return _Segment(name, tuple(addresses), {version: _cover(each) for version, each in families.items() if each})


def _host_segments(addresses: Iterable[IPAddress]) -> list[_Segment]:
    """A segment per host; hosts whose networks would overlap share one."""
    found: list[_Segment] = []
    for number, address in enumerate(addresses, start=1):
        new = _segment(f"out{number}", [address])
        network = new.networks[address.version]
        overlapping = [
            each
            for each in found
            if address.version in each.networks and each.networks[address.version].overlaps(network)
        ]
        found = [each for each in found if each not in overlapping]
        found.append(_segment(new.name, [*(ip for each in overlapping for ip in each.addresses), address]))
    return found


def _cover(addresses: Sequence[IPAddress]) -> IPNetwork:
    """The smallest usual network in which all of them are usable. Raises LabError."""
    for length in (24, 22, 20, 16, 12, 8) if addresses[0].version == 4 else (64, 56, 48, 32):
        network = ip_network(
            (int(addresses[0]), length) if addresses[0].version == 6 else (str(addresses[0]), length), False
        )
        reserved = {network.network_address, network.network_address + 1, network.broadcast_address}
        if all(each in network and each not in reserved for each in addresses):
            return network
    raise LabError(f"no network of a lab has {', '.join(map(str, addresses))}")


def _addressed(addresses: Iterable[IPAddress]) -> dict[str, str]:
    return {"address" if each.version == 4 else "address6": str(each) for each in addresses}
