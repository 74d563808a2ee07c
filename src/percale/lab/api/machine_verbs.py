"""Verbs of the lab's API for machines and packets: `probe`, `exec_target`, `cut`, `heal`, `add_node`, … Served by `server`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, to_builtins
from msgspec.structs import asdict

from percale.errors import LabError, NotFound
from percale.explain.end_names import NamedNumber, find_port
from percale.lab.api.agent_statuses import peers_of, statuses_of, why_unready
from percale.lab.api.migration import migrate
from percale.lab.api.probe import Outcome, probe
from percale.lab.api.probe_targets import ProbeTargets, choose_address, machine_target
from percale.lab.api.server import Answer, Verb
from percale.lab.api.status import LabStatus, MachineStatus, Summary
from percale.lab.cluster import Cluster
from percale.lab.process.bootstrap import NETNS
from percale.lab.process.nsenter import ExecTarget
from percale.lab.spec.topology import LabNode, Machine
from percale.model.pod import Pod
from percale.model.subnet_lease import SubnetLease
from percale.objects.columns import missing_pods

if TYPE_CHECKING:
    from percale.agent.status import Status


class MachineVerbs(Struct, frozen=True):
    """Each method is a verb; its arguments are the request's fields."""

    cluster: Cluster

    @property
    def _targets(self) -> ProbeTargets:
        return ProbeTargets(self.cluster)

    def all(self) -> Mapping[str, Verb]:
        """By the names that requests use."""
        return {
            "about": self.about,
            "status": self.status,
            "bgp": self.bgp,
            "missing": self.missing,
            "hosts": self.hosts,
            "exec_target": self.exec_target,
            "names": self.names,
            "name": self.name,
            "probe": self.probe,
            "cut": self.cut,
            "heal": self.heal,
            "add_node": self.add_node,
            "remove_node": self.remove_node,
            "restart_agent": self.restart_agent,
            "migrate": self.migrate,
        }

    async def about(self) -> Answer:
        """The line of `lab list`."""
        return asdict(self._summary())

    def _summary(self) -> Summary:
        machines, pods = self.cluster.machines, self.cluster.cache.all(Pod)
        network = {key.lower(): value for key, value in machines.settings.network.items()}
        backend = {key.lower(): value for key, value in (network.get("backend") or {}).items()}
        return Summary(
            nodes=len(machines.topology.nodes),
            pods=len(pods),
            ready=sum(pod.ready for pod in pods),
            network=", ".join(network[key] for key in ("network", "ipv6network") if network.get(key)),
            backend=backend.get("type", "vxlan"),
        )

    async def status(self) -> Answer:
        """Machines, agents, peers, problems."""
        machines = self.cluster.machines
        statuses = await self._agent_statuses([node.name for node in machines.topology.nodes])
        leases = {lease.spec.node: lease for lease in self.cluster.cache.all(SubnetLease)}
        status = LabStatus(
            **asdict(self._summary()),
            machines=tuple(
                MachineStatus(
                    name=machine.name,
                    segment=machine.segment.name,
                    address=str(machine.address.ip),
                    subnets=tuple(map(str, leases[machine.name].spec.subnets)) if machine.name in leases else (),
                    agent=machines.agents.state(machine.name) if machine.kind == "node" else None,
                    peers=peers_of(found) if (found := statuses.get(machine.name)) is not None else None,
                )
                for machine in machines.topology.machines
            ),
            cuts=machines.cut_pairs(),
            problems=tuple(self._problems(statuses)),
        )
        answer: Answer = to_builtins(status)
        return answer

    async def bgp(self, node: str | None) -> Answer:
        """The BGP status of this node, or of all. Raises NotFound."""
        names = [each.name for each in self.cluster.machines.topology.nodes]
        if node is not None and node not in names:
            raise NotFound(f"no node {node}", hint=f"nodes are {', '.join(names)}")
        found = await self._agent_statuses([node] if node is not None else names)
        return {"nodes": {name: to_builtins(each) if each else None for name, each in found.items()}}

    async def _agent_statuses(self, names: Sequence[str]) -> dict[str, Status | None]:
        """By node; None: its agent does not answer."""
        lab_dir = self.cluster.machines.lab_dir
        return dict(zip(names, await statuses_of([lab_dir.node(name) for name in names]), strict=True))

    def _problems(self, statuses: Mapping[str, Status | None]) -> Iterator[str]:
        machines = self.cluster.machines
        for name, status in statuses.items():
            state = machines.agents.state(name)
            if not state.ready:
                yield f"the agent of {name}: {why_unready(status, machines.lab_dir.node(name).log)}"
            elif state.problem is not None:
                yield f"{name}: {state.problem}"
        yield from missing_pods(self.cluster.cache.all(Pod), self.cluster.machines.nodes)
        yield from self.cluster.control.problems
        yield from (f"store: {error}" for error in self.cluster.cache.read_problems.values())

    async def hosts(self) -> Answer:
        """The addresses of the hosts outside, by name."""
        hosts = self.cluster.machines.topology.hosts
        return {"hosts": {host.name: [str(host.address.ip), str(host.address6.ip)] for host in hosts}}

    async def missing(self) -> Answer:
        """Nodes and pods that are not ready, and why."""
        machines = self.cluster.machines
        unready = [each.name for each in machines.topology.nodes if not machines.agents.state(each.name).ready]
        lines = [
            f"node {name}: its agent is not ready: {why_unready(status, machines.lab_dir.node(name).log)}"
            for name, status in (await self._agent_statuses(unready)).items()
        ]
        return {"missing": lines + missing_pods(self.cluster.cache.all(Pod), machines.nodes)}

    async def exec_target(self, target: str, namespace: str | None) -> Answer:
        """The namespace, mounts and environment of this pod, node or host."""
        found = self._targets.find(target, namespace)
        if found.namespace is None:
            raise LabError(f"{target} is an address outside the lab", hint="name a pod, node/NAME or external/NAME")
        inside = self.cluster.kubelet.exec_target(found.pod) if found.pod is not None else None
        if inside is not None:
            return _as_answer(inside)
        environment = {}
        if found.node is not None:  # `percale status` and `percale agent` find this node's agent without an option
            environment = {"PERCALE_CONFIG": str(self.cluster.machines.lab_dir.node(found.node).config)}
        return _as_answer(ExecTarget(str(found.namespace), found.hostname, environment=environment))

    async def names(self) -> Answer:
        """Each node's network namespace, and by address a name and a pod's node ("" for machines)."""
        names: dict[str, tuple[str, str]] = {}
        for machine in self.cluster.machines.topology.machines:
            found = machine_target(machine)
            names |= {str(address): (found.name, "") for address in found.addresses}
        for pod in self.cluster.cache.all(Pod):
            if not pod.spec.hostNetwork:
                names |= {entry.ip: (str(pod.key), pod.spec.nodeName or "") for entry in pod.status.podIPs}
        nodes = {node.name: str(NETNS / node.name) for node in self.cluster.machines.topology.nodes}
        return {"nodes": nodes, "names": names}

    async def name(self, target: str, namespace: str | None) -> Answer:
        """What this pod, node, host or address is called by `names`. Raises NotFound."""
        return {"name": self._targets.find(target, namespace).name}

    async def probe(
        self,
        *,
        source: str,
        target: str,
        port: str,
        namespace: str | None,
        version: Literal[6] | None,
        timeout_seconds: float,
    ) -> Answer:
        """Try one connection or datagram."""
        client = self._targets.find(source, namespace)
        if client.namespace is None:
            raise LabError(f"{source} is not in this lab", hint="FROM is a pod, node/NAME or external/NAME")
        try:
            server = await self._targets.resolve(target, namespace, client, timeout_seconds)
        except TimeoutError:
            number, protocol = _probed_port(port, target, ())
            return {
                "from": client.name,
                "to": target,
                "port": number,
                "protocol": protocol,
                **_outcome_fields(
                    Outcome("timeout", timeout_seconds, f"the name server of {client.name} does not answer")
                ),
                "endpoint": target,
                "address": None,
                "nobody": False,
                "sender": None,
                "routes": None,
                "cuts": self.cluster.machines.cut_pairs(),
                "question": None,
            }
        address = choose_address(server, client, version)
        owner = server if server.namespace or server.service else self._targets.at_address(address)
        number, protocol = _probed_port(port, server.name, self._targets.ports(owner))
        outcome = await probe(client.namespace, address, number, protocol, timeout_seconds)
        formatted = f"[{address}]" if address.version == 6 else str(address)
        sender = None if outcome.sender is None else self._targets.sender(outcome.sender)
        no_route = outcome.result == "unreachable" and not outcome.is_filtered
        by_others = outcome.result == "refused" and outcome.sender not in (None, address)
        asked = outcome.result == "timeout" or outcome.is_filtered or by_others
        return {
            "from": client.name,
            "to": server.name,
            "port": number,
            "protocol": protocol,
            **_outcome_fields(outcome),
            "endpoint": f"{formatted}:{number}/{protocol.lower()}",
            "address": str(address),
            "nobody": not owner.is_of_lab,
            "sender": None if sender is None else sender.name,
            "routes": self._targets.routes_command(client, address, sender) if no_route and owner.is_of_lab else None,
            "cuts": self.cluster.machines.cut_pairs(),
            "question": self._targets.question(client, owner, address, number, protocol) if asked else None,
        }

    async def cut(self, a: str, b: str) -> Answer:
        """Drop all packets between two machines."""
        if a == b:
            raise LabError(f"{a} and {b} are one machine", hint="name two")
        pair = frozenset({self._targets.machine(a).name, self._targets.machine(b).name})
        await self.cluster.machines.cut({*self.cluster.machines.cuts, pair})
        undo = self.cluster.machines.lab_dir.command(f"heal {a} {b}")
        return {"lines": [f"{a} and {b} cannot reach each other; undo it: {undo}"]}

    async def heal(self, names: Sequence[str]) -> Answer:
        """Undo one cut, or all."""
        cuts = self.cluster.machines.cuts
        healed = {frozenset(self._targets.machine(name).name for name in names)} & cuts if names else set(cuts)
        await self.cluster.machines.cut(cuts - healed)
        lines = [f"{' and '.join(sorted(pair))} can reach each other again" for pair in healed]
        return {"lines": lines or ["nothing was cut" + (f" between {names[0]} and {names[1]}" if names else "")]}

    async def add_node(self, name: str, segment: str | None, labels: Mapping[str, str]) -> Answer:
        machine = await self.cluster.add_node(LabNode(name=name, segment=segment, labels=dict(labels)))
        return {"lines": [f"node/{name} added: {machine.address.ip} on segment {machine.segment.name}, agent ready"]}

    async def remove_node(self, name: str) -> Answer:
        self._node(name)
        await self.cluster.remove_node(name)
        return {"lines": [f"node/{name} removed"]}

    async def restart_agent(self, node: str, kill: bool) -> Answer:
        """Restart or kill a node's agent; ends when the new one is ready."""
        self._node(node)
        seconds = await self.cluster.machines.agents.restart(node, kill=kill)
        how = "killed and started again" if kill else "restarted"
        return {"lines": [f"the agent of {node} was {how}; ready after {seconds * 1000:.0f} ms"]}

    async def migrate(self, backend: Mapping[str, Any]) -> Answer:
        """Another backend for all nodes."""
        return {"lines": [await migrate(self.cluster.machines, backend)]}

    def _node(self, name: str) -> Machine:
        found = self.cluster.machines.node(name)
        if found is None:
            known = ", ".join(node.name for node in self.cluster.machines.topology.nodes)
            raise NotFound(f"there is no node {name}", hint=f"there are {known}" if known else None)
        return found


def _as_answer(target: ExecTarget) -> Answer:
    answer: Answer = to_builtins(target)
    return answer


def _probed_port(text: str, owner: str, ports: Iterable[NamedNumber]) -> tuple[int, Literal["TCP", "UDP"]]:
    """Raises BadInput, LabError."""
    protocol, number = find_port(text, owner, ports)
    if number is None or protocol not in ("TCP", "UDP"):
        raise LabError(f"a probe goes by TCP or UDP, and {text} is neither", hint="percale why has a verdict on it")
    return number, protocol


def _outcome_fields(outcome: Outcome) -> Answer:
    return {
        "result": outcome.result,
        "milliseconds": round(outcome.seconds * 1000, 2),
        "reason": outcome.reason,
        "answered": None if outcome.answered is None else asdict(outcome.answered),
    }
