"""`probe`, `room`, `cut`, `heal`, `add-node`, …: what the lab's API does with machines and packets. Served by `control`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from percale.errors import BadManifest, LabError, NotFound
from percale.lab.births import NETNS
from percale.lab.cluster import Cluster
from percale.lab.control import Answer, Verb
from percale.lab.document import LabNode, Machine, parse_port
from percale.lab.object_verbs import subnets
from percale.lab.place import last_words
from percale.lab.probing import probe
from percale.lab.tables import missing_pods, pod_state, reason
from percale.model.decoding import DEFAULT_NAMESPACE
from percale.model.lease import SubnetLease
from percale.model.meta import ObjectKey
from percale.model.pod import Pod
from percale.render.objects import IPAddress

_WORKLOADS = {
    "deploy": "Deployment",
    "deployment": "Deployment",
    "rs": "ReplicaSet",
    "replicaset": "ReplicaSet",
    "sts": "StatefulSet",
    "statefulset": "StatefulSet",
    "ds": "DaemonSet",
    "daemonset": "DaemonSet",
    "job": "Job",
}


@dataclass(frozen=True, slots=True)
class End:
    """One end of a probe, or where a program runs."""

    name: str
    addresses: tuple[IPAddress, ...]
    namespace: Path | None
    """None: an address that is nobody's here."""
    hostname: str
    pod: ObjectKey | None = None
    node: str | None = None
    """Set for a node itself."""


@dataclass(frozen=True, slots=True)
class MachineVerbs:
    """Each method is a verb; its arguments are the request's fields."""

    cluster: Cluster

    def all(self) -> Mapping[str, Verb]:
        """By the names that requests use."""
        return {
            "about": self.about,
            "status": self.status,
            "missing": self.missing,
            "hosts": self.hosts,
            "room": self.room,
            "names": self.names,
            "probe": self.probe,
            "cut": self.cut,
            "heal": self.heal,
            "add_node": self.add_node,
            "remove_node": self.remove_node,
            "restart_agent": self.restart_agent,
        }

    async def about(self) -> Answer:
        """The line of `lab list`."""
        machines, pods = self.cluster.machines, self.cluster.world.all(Pod)
        network = {key.lower(): value for key, value in machines.settings.network.items()}
        backend = {key.lower(): value for key, value in (network.get("backend") or {}).items()}
        return {
            "nodes": len(machines.topology.nodes),
            "pods": len(pods),
            "ready": sum(pod.ready for pod in pods),
            "network": ", ".join(network[key] for key in ("network", "ipv6network") if network.get(key)),
            "backend": backend.get("type", "vxlan"),
        }

    async def status(self) -> Answer:
        """Machines, agents, what is wrong."""
        machines = self.cluster.machines
        nets = subnets(self.cluster.world.all(SubnetLease))
        troubles = []
        rows = [["MACHINE", "SEGMENT", "ADDRESS", "POD-SUBNET", "AGENT", "RESTARTS"]]
        for machine in machines.topology.machines:
            row = [machine.name, machine.wire.name, str(machine.address.ip)]
            if machine.kind == "host":
                rows.append([*row, "-", "-", "-"])
                continue
            state = machines.agents.state(machine.name)
            word = f"ready, pid {state.pid}" if state.ready else "not ready" if state.pid else "dead"
            rows.append([*row, nets.get(machine.name, "none yet"), word, str(state.restarts)])
            if not state.ready:
                troubles.append(f"the agent of {machine.name}: {last_words(machines.place.node(machine.name).log)}")
        troubles += [f"cut: {' and '.join(sorted(pair))} do not hear each other" for pair in machines.cuts]
        troubles += missing_pods(self.cluster.world.all(Pod))
        troubles += [f"store: {error}" for error in self.cluster.world.troubles.values()]
        return {**await self.about(), "machines": rows, "troubles": troubles}

    async def hosts(self) -> Answer:
        """The addresses of the hosts outside, by name."""
        hosts = self.cluster.machines.topology.hosts
        return {"hosts": {host.name: [str(host.address.ip), str(host.address6.ip)] for host in hosts}}

    async def missing(self) -> Answer:
        """Nodes and pods that are not ready, and why."""
        agents, nodes = self.cluster.machines.agents, self.cluster.machines.topology.nodes
        lines = [
            f"node {node.name}: its agent is not ready: {last_words(self.cluster.machines.place.node(node.name).log)}"
            for node in nodes
            if not agents.state(node.name).ready
        ]
        return {"missing": lines + missing_pods(self.cluster.world.all(Pod))}

    async def room(self, target: str, namespace: str | None) -> Answer:
        """Where a program for this pod, node or host runs."""
        end = self._find(target, namespace)
        if end.namespace is None:
            raise LabError(f"{target} is an address outside the lab", hint="name a pod, node/NAME or external/NAME")
        place = self.cluster.machines.place
        binds = {}
        if end.pod is not None:
            files = place.pod(end.pod.namespace or DEFAULT_NAMESPACE, end.pod.name)
            binds = {"/etc/resolv.conf": str(files / "resolv.conf"), "/etc/hosts": str(files / "hosts")}
        environment = {}
        if end.node is not None:  # `percale status` and `percale agent` find this node's agent without a flag
            environment = {"PERCALE_CONFIG": str(place.node(end.node).config)}
        return {
            "namespace": str(end.namespace),
            "hostname": end.hostname,
            "binds": binds,
            "environment": environment,
        }

    async def names(self) -> Answer:
        """Nodes by their namespaces, and whose each address is: a name, and a pod's node ("" for machines)."""
        names: dict[str, tuple[str, str]] = {}
        for machine in self.cluster.machines.topology.machines:
            end = _machine_end(machine)
            names |= {str(address): (end.name, "") for address in end.addresses}
        for pod in self.cluster.world.all(Pod):
            if not pod.spec.hostNetwork:
                names |= {entry.ip: (str(pod.key), pod.spec.nodeName or "") for entry in pod.status.podIPs}
        nodes = {node.name: str(NETNS / node.name) for node in self.cluster.machines.topology.nodes}
        return {"nodes": nodes, "names": names}

    async def probe(
        self,
        *,
        source: str,
        target: str,
        port: str,
        namespace: str | None,
        version: Literal[6] | None,
        patience: float,
    ) -> Answer:
        """One connection or datagram."""
        asker, asked = self._find(source, namespace), self._find(target, namespace)
        number, protocol = self._port(port)
        if asker.namespace is None:
            raise LabError(f"{source} is nobody of this lab", hint="FROM is a pod, node/NAME or external/NAME")
        address = _choose(asked, asker, version)
        outcome = await probe(asker.namespace, address, number, "UDP" if protocol == "UDP" else "TCP", patience)
        spelled = f"[{address}]" if address.version == 6 else str(address)
        return {
            "result": outcome.word,
            "from": asker.name,
            "to": asked.name,
            "endpoint": f"{spelled}:{number}/{protocol.lower()}",
            "address": str(address),
            "port": number,
            "protocol": protocol,
            "milliseconds": round(outcome.seconds * 1000, 2),
            "reason": outcome.reason,
        }

    async def cut(self, a: str, b: str) -> Answer:
        """Two machines no longer hear each other."""
        if a == b:
            raise LabError(f"{a} and {b} are one machine", hint="name two")
        pair = frozenset({self._machine(a).name, self._machine(b).name})
        await self.cluster.machines.cut({*self.cluster.machines.cuts, pair})
        return {"lines": [f"{a} and {b} do not hear each other; undo it: percale lab heal {a} {b}"]}

    async def heal(self, names: Sequence[str]) -> Answer:
        """Undo one cut, or all."""
        cuts = self.cluster.machines.cuts
        healed = {frozenset(self._machine(name).name for name in names)} & cuts if names else set(cuts)
        await self.cluster.machines.cut(cuts - healed)
        lines = [f"{' and '.join(sorted(pair))} hear each other again" for pair in healed]
        return {"lines": lines or ["nothing was cut" + (f" between {names[0]} and {names[1]}" if names else "")]}

    async def add_node(self, name: str, segment: str | None, labels: Mapping[str, str]) -> Answer:
        """One node more."""
        machine = await self.cluster.add_node(LabNode(name=name, segment=segment, labels=dict(labels)))
        return {"lines": [f"node/{name} added: {machine.address.ip} on segment {machine.wire.name}, agent ready"]}

    async def remove_node(self, name: str) -> Answer:
        """One node less."""
        self._node(name)
        await self.cluster.remove_node(name)
        return {"lines": [f"node/{name} removed"]}

    async def restart_agent(self, node: str, kill: bool) -> Answer:
        """The same node, a new agent."""
        self._node(node)
        seconds = await self.cluster.machines.agents.restart(node, kill=kill)
        how = "killed and started anew" if kill else "restarted"
        return {"lines": [f"the agent of {node} was {how}; ready after {seconds * 1000:.0f} ms"]}

    def _node(self, name: str) -> Machine:
        found = self.cluster.machines.node(name)
        if found is None:
            known = ", ".join(node.name for node in self.cluster.machines.topology.nodes)
            raise NotFound(f"there is no node {name}", hint=f"there are {known}" if known else None)
        return found

    def _machine(self, name: str) -> Machine:
        name = name.removeprefix("node/").removeprefix("external/")
        found = self.cluster.machines.topology.find(name)
        if found is None:
            known = ", ".join(machine.name for machine in self.cluster.machines.topology.machines)
            raise NotFound(f"there is no node or host {name}", hint=f"there are {known}")
        return found

    def _port(self, text: str) -> tuple[int, str]:
        try:
            return parse_port(text, "PORT")
        except BadManifest as error:
            raise LabError(str(error)) from error

    def _find(self, text: str, namespace: str | None) -> End:
        """`pod`, `ns/pod`, `deploy/NAME`, `node/NAME`, `external/NAME`, or an address. Raises NotFound, LabError."""
        try:
            return self._at(ip_address(text.strip("[]")))
        except ValueError:
            pass
        group, _, name = text.rpartition("/")
        if group in ("node", "external", "host"):
            return _machine_end(self._machine(name))
        if group in _WORKLOADS:
            return self._pod_end(self._first_of(_WORKLOADS[group], name, namespace or DEFAULT_NAMESPACE))
        key = ObjectKey(namespace or DEFAULT_NAMESPACE if group in ("", "pod", "po") else group, name)
        pod = self.cluster.world.get(Pod, key)
        if pod is not None:
            return self._pod_end(pod)
        same = sorted(str(other) for other in self.cluster.world.keys(Pod) if other.name == name)
        hint = f"did you mean {same[0]}?" if same else self._hint(name)
        raise NotFound(f"there is no pod {key}", hint=hint)

    def _hint(self, name: str) -> str:
        machine = self.cluster.machines.topology.find(name)
        if machine is not None:
            return f"did you mean {'node' if machine.kind == 'node' else 'external'}/{name}?"
        return "percale lab get pods -A"

    def _first_of(self, kind: str, name: str, namespace: str) -> Pod:
        for pod in self.cluster.world.all(Pod):
            for owner in pod.metadata.ownerReferences:
                mine = owner.name.rpartition("-")[0] if kind == "Deployment" else owner.name
                right = owner.kind == ("ReplicaSet" if kind == "Deployment" else kind) and mine == name
                if right and pod.metadata.namespace == namespace:
                    return pod
        raise NotFound(f"no pod of {kind.lower()} {namespace}/{name}", hint="percale lab get pods -A")

    def _pod_end(self, pod: Pod) -> End:
        path = self.cluster.kubelet.namespace(pod.key)
        if path is None:
            raise LabError(f"pod {pod.key} is not running yet: {reason(pod) or pod_state(pod)}")
        ips = tuple(ip_address(entry.ip) for entry in pod.status.podIPs)
        return End(str(pod.key), ips, path, pod.metadata.name, pod=pod.key)

    def _at(self, address: IPAddress) -> End:
        """Whoever has this address; nobody of the lab is an end too."""
        for machine in self.cluster.machines.topology.machines:
            end = _machine_end(machine)
            if address in end.addresses:
                return End(end.name, (address,), end.namespace, end.hostname, node=end.node)
        for pod in self.cluster.world.all(Pod):
            if not pod.spec.hostNetwork and str(address) in {entry.ip for entry in pod.status.podIPs}:
                end = self._pod_end(pod)
                return End(end.name, (address,), end.namespace, end.hostname, pod=end.pod)
        return End(str(address), (address,), None, str(address))


def _machine_end(machine: Machine) -> End:
    prefix = "node" if machine.kind == "node" else "external"
    return End(
        f"{prefix}/{machine.name}",
        (machine.address.ip, machine.address6.ip),
        NETNS / machine.name,
        machine.name,
        node=machine.name if machine.kind == "node" else None,
    )


def _choose(asked: End, asker: End, version: int | None) -> IPAddress:
    """The first address of the family that is wished, or that both have."""
    usable = [address for address in asked.addresses if version in (None, address.version)]
    if not usable:
        raise LabError(f"{asked.name} has no IPv{version or 4} address")
    common = {address.version for address in asker.addresses}
    return next((address for address in usable if address.version in common), usable[0])
