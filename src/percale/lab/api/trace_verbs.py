"""The verb of the lab's API for `percale trace`: who the ends are, and all places between them. Served by `server`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from msgspec import Struct, to_builtins

from percale.errors import LabError
from percale.explain.end_names import find_port
from percale.lab.api.agent_statuses import statuses_of, why_unready
from percale.lab.api.probe_targets import ProbeTargets, choose_address, machine_target
from percale.lab.api.server import Answer, Verb
from percale.lab.cluster import Cluster
from percale.lab.process.bootstrap import FABRIC, NETNS
from percale.lab.trace_plan import Place, TracePlan
from percale.model.endpoints import SERVICE_LABEL, EndpointSlice
from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.model.meta import ObjectKey
from percale.model.pod import Pod

_MOST_PODS = 16
"""Endpoints that are looked into; the others' nodes are, like all."""
_LOOK_UP = 2.0
"""Seconds for a name."""


class TraceVerbs(Struct, frozen=True):
    """Each method is a verb; its arguments are the request's fields."""

    cluster: Cluster

    def all(self) -> Mapping[str, Verb]:
        """By the names that requests use."""
        return {"trace_places": self.trace_places}

    async def trace_places(
        self, *, source: str, target: str, port: str, namespace: str | None, version: Literal[6] | None
    ) -> Answer:
        """What to send, from where, and where to look for it. Raises LabError, NotFound, BadInput."""
        targets = ProbeTargets(self.cluster)
        client = targets.find(source, namespace)
        if client.namespace is None:
            raise LabError(f"{source} is not in this lab", hint="FROM is a pod, node/NAME or external/NAME")
        try:
            server = await targets.resolve(target, namespace, client, _LOOK_UP)
        except TimeoutError as error:
            hint = "trace the way to it: percale trace FROM svc/kube-system/kube-dns 53/udp"
            raise LabError(f"the name server of {client.name} does not answer", hint=hint) from error
        address = choose_address(server, client, version)
        owner = server if server.namespace or server.service else targets.at_address(address)
        protocol, number = find_port(port, server.name, targets.ports(owner))
        if protocol == "SCTP":
            raise LabError("a trace goes by TCP, UDP or ICMP", hint="percale why has a verdict on SCTP")
        service = owner.service
        if number is not None and (found := targets.service_at(address, number, protocol)) is not None:
            service = ObjectKey(found[0].namespace or DEFAULT_NAMESPACE, found[0].service)
        pods = [each for each in (client.pod, server.pod or owner.pod) if each is not None]
        endpoints = list(self._endpoints(service)) if service is not None else []
        pods += [key for key, _ in endpoints[:_MOST_PODS] if key is not None]
        places = list(self._places(dict.fromkeys(pods)))
        start = next((each for each in places if each.namespace == str(client.namespace)), None)
        if start is None:
            raise LabError(f"{client.name} is not running yet")
        plan = TracePlan(
            client.name,
            server.name,
            (client.name, *targets.end_and_port(owner.name, address, number, protocol)),
            str(address),
            protocol,
            number,
            tuple(dict.fromkeys([number or 0, *(port for _, port in endpoints)])),
            start.name,
            tuple(places),
            dict(self._names()),
            self.cluster.machines.cut_pairs(),
            await self._troubles(),
        )
        answer: Answer = to_builtins(plan)
        return answer

    def _endpoints(self, service: ObjectKey) -> Iterator[tuple[ObjectKey | None, int]]:
        """The pods behind it, and their ports."""
        for each in self.cluster.cache.all(EndpointSlice):
            if (each.metadata.namespace, each.metadata.labels.get(SERVICE_LABEL)) != service:
                continue
            ports = [port.port for port in each.ports if port.port is not None]
            for endpoint in each.endpoints:
                pod = endpoint.targetRef
                key = ObjectKey(service.namespace, pod.name or "") if pod is not None and pod.kind == Pod.KIND else None
                yield from ((key, port) for port in ports)

    def _places(self, pods: Mapping[ObjectKey, None]) -> Iterator[Place]:
        """All machines and the router, and these pods."""
        for machine in self.cluster.machines.topology.machines:
            yield Place(machine.name, machine.kind, str(NETNS / machine.name))
        yield Place("router", "router", str(NETNS / FABRIC))
        for key in pods:
            pod, path = self.cluster.cache.get(Pod, key), self.cluster.kubelet.namespace(key)
            if pod is not None and path is not None and not pod.spec.hostNetwork:
                yield Place(str(key), "pod", str(path), pod.spec.nodeName)

    def _names(self) -> Iterator[tuple[str, str]]:
        for machine in self.cluster.machines.topology.machines:
            found = machine_target(machine)
            yield from ((str(address), found.name) for address in found.addresses)
        for pod in self.cluster.cache.all(Pod):
            if not pod.spec.hostNetwork:
                yield from ((entry.ip, str(pod.key)) for entry in pod.status.podIPs)

    async def _troubles(self) -> dict[str, str]:
        """Nodes whose agent is not ready, and why."""
        machines = self.cluster.machines
        unready = [each.name for each in machines.topology.nodes if not machines.agents.state(each.name).ready]
        places = list(map(machines.lab_dir.node, unready))
        statuses = zip(unready, await statuses_of(places), strict=True)
        return {name: why_unready(status, machines.lab_dir.node(name).log) for name, status in statuses}
