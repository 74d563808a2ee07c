"""The lab's controller, a child of init: builds the components, runs them, and reports progress to `percale lab up`.

LabConfig ─▶ Machines (network, agents)         ┐
          └▶ store: nodes, namespaces, objects  ├─▶ Cluster ─▶ progress ─▶ `percale lab up`
             control.sock: verbs                ┘
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from msgspec import Struct

from percale.controllers import cluster_dns
from percale.errors import LabError, PercaleError
from percale.lab.api.live_status import desired_pods, pods_by_owner
from percale.lab.api.machine_verbs import MachineVerbs
from percale.lab.api.object_verbs import ObjectVerbs
from percale.lab.api.read_verbs import ReadVerbs, subnets
from percale.lab.api.server import Verb, serve
from percale.lab.api.trace_verbs import TraceVerbs
from percale.lab.cluster import Cluster
from percale.lab.control_plane import ControlPlane
from percale.lab.kubernetes.config import KubernetesConfig
from percale.lab.log import log
from percale.lab.machines.agents import Agents
from percale.lab.machines.machines import AgentSettings, Machines
from percale.lab.own_control_plane import OwnControlPlane
from percale.lab.pods.responder import Responder
from percale.lab.process.bootstrap import Report
from percale.lab.process.init import Channel
from percale.lab.run_dir import LabDir
from percale.lab.spec.topology import Topology
from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.model.meta import Object, ObjectKey
from percale.model.namespace import Namespace
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.subnet_lease import SubnetLease
from percale.model.workloads import CronJob, PodMaker
from percale.objects.changes import missing_namespaces, new_namespace
from percale.objects.columns import missing_pods
from percale.store.files.store import FilesStore

E = TypeVar("E", bound=Exception)

_WORKERS = 32
"""Threads for blocking calls: most of them wait for an agent's ADD, and the store must not wait behind them."""


class LabConfig(Struct, frozen=True):
    """What a lab is started with, validated by the command."""

    topology: Topology
    settings: AgentSettings
    objects: tuple[Object, ...]
    kubernetes: KubernetesConfig | None = None
    """None: the lab's own controllers, over files."""


def run_controller(lab_dir: LabDir, config: LabConfig, report: Report, channel: Channel) -> None:
    """Run the controller's process."""
    failed = False
    try:
        asyncio.run(_run_controller(lab_dir, config, report, channel))
    except* PercaleError as group:
        failed = True
        for error in _flatten(group):
            report({"error": str(error), "type": type(error).__name__})
            log(str(error))
    except* OSError as failures:
        failed = True
        traceback.print_exc()
        for failure in _flatten(failures):
            where = failure.filename or lab_dir.directory
            report({"error": f"{where}: {failure.strerror or failure}", "type": LabError.__name__})
    if failed:
        raise SystemExit(1)


def _flatten(group: BaseExceptionGroup[E]) -> Iterator[E]:
    """Nested groups' exceptions: task groups nest."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _flatten(error)
        else:
            yield error


async def _run_controller(lab_dir: LabDir, config: LabConfig, report: Report, channel: Channel) -> None:
    workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="lab")
    asyncio.get_running_loop().set_default_executor(workers)
    agents = Agents(channel)
    machines = Machines(lab_dir, config.topology, config.settings, agents, Responder())
    cluster = Cluster(await _open_control_plane(lab_dir, config), machines)
    machines.register = cluster.control.register
    agents.on_change = cluster.request_sync
    cluster.on_change = ProgressReporter(cluster, report).check

    log(f"lab {lab_dir.name} begins")
    async with (
        serve(lab_dir, _verbs(cluster)),
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(machines.build())
        tasks.create_task(cluster.run(_first_objects(config)))


def _verbs(cluster: Cluster) -> dict[str, Verb]:
    return {
        **ReadVerbs(cluster).all(),
        **ObjectVerbs(cluster).all(),
        **MachineVerbs(cluster).all(),
        **TraceVerbs(cluster).all(),
    }


async def _open_control_plane(lab_dir: LabDir, config: LabConfig) -> ControlPlane:
    networks = config.settings.services
    if config.kubernetes is None:
        lab_dir.store.mkdir(exist_ok=True)
        return OwnControlPlane(FilesStore(lab_dir.store), networks)
    from percale.lab.kubernetes.control_plane import open_control_plane  # noqa: PLC0415 -- most labs need no HTTP client

    return await open_control_plane(lab_dir, config.kubernetes, config.topology, networks)


def _first_objects(config: LabConfig) -> list[Object]:
    """Namespaces before what is in them."""
    usual = [new_namespace(name) for name in (DEFAULT_NAMESPACE, "kube-system")]
    written = [obj for obj in config.objects if isinstance(obj, Namespace)]
    names = {namespace.metadata.name for namespace in written}
    namespaces = [*(namespace for namespace in usual if namespace.metadata.name not in names), *written]
    others = [obj for obj in config.objects if not isinstance(obj, Namespace)]
    return [*namespaces, *missing_namespaces(others, namespaces), *others]


@dataclass(slots=True)
class ProgressReporter:
    """Reports each event once: a node is ready, a pod is Ready, all is ready."""

    cluster: Cluster
    report: Report
    _reported: set[str | ObjectKey] = field(default_factory=set)
    _expected: set[ObjectKey] = field(default_factory=set)
    _done: bool = False

    def check(self) -> None:
        """Called after each sync of pods."""
        if self._done:
            return
        all_pods = self.cluster.cache.all(Pod)
        pods = [pod for pod in all_pods if pod.key != cluster_dns.POD]  # not in the user's manifests
        if {pod.key for pod in pods} - self._expected:
            self._expected |= {pod.key for pod in pods}
            self.report({"event": "expected", "pods": sorted(map(str, self._expected))})
        nodes_ready = self._check_nodes()
        for pod in pods:
            if pod.ready and pod.key not in self._reported:
                self._reported.add(pod.key)
                addresses = [entry.ip for entry in pod.status.podIPs]
                self._send("pod", name=str(pod.key), on=pod.spec.nodeName, addresses=addresses)
        if nodes_ready and self._has_all_pods() and all(map(self._is_settled, all_pods)):
            self._done = True
            self._send("ready", missing=missing_pods(pods, self.cluster.machines.nodes), pairs=_pairs(pods))

    def _has_all_pods(self) -> bool:
        """Whether the controllers have created the pods of all workloads."""
        cache, waits = self.cluster.cache, not self.cluster.control.computes_status
        owned, nodes = pods_by_owner(cache.all(Pod)), cache.all(Node)
        return all(
            len(owned.get((owner.KIND, owner.key), ())) >= desired_pods(owner, nodes)
            for owner in cache.all_kinds()
            if isinstance(owner, PodMaker) and not (waits and isinstance(owner, CronJob))  # it has a schedule
        )

    def _is_settled(self, pod: Pod) -> bool:
        """It is ready, or no node can take it; Kubernetes' scheduler tries again, and is waited for."""
        if pod.spec.nodeName and pod.spec.nodeName not in self.cluster.machines.nodes:
            return True
        unscheduled = any(each.type == "PodScheduled" and each.status == "False" for each in pod.status.conditions)
        return pod.ready or (unscheduled and self.cluster.control.computes_status)

    def _check_nodes(self) -> bool:
        """Whether all are ready."""
        nets = subnets(self.cluster.cache.all(SubnetLease))
        all_ready = True
        for machine in self.cluster.machines.topology.nodes:
            if machine.name in self._reported:
                continue
            if not self.cluster.machines.agents.state(machine.name).ready or machine.name not in nets:
                all_ready = False
                continue
            self._reported.add(machine.name)
            self._send("node", name=machine.name, subnet=nets[machine.name])
        return all_ready

    def _send(self, event: str, **fields: Any) -> None:
        self.report({"event": event, **fields})


def _pairs(pods: Sequence[Pod]) -> list[dict[str, str]]:
    """A server pod and a client pod on another node: for the commands to try."""
    for server in pods:
        port = next((each for container in server.spec.containers for each in container.ports), None)
        client = next((pod for pod in pods if pod.ready and pod.spec.nodeName != server.spec.nodeName), None)
        if server.ready and client is not None and port is not None and port.protocol in ("TCP", "UDP"):
            suffix = "" if port.protocol == "TCP" else "/udp"
            return [{"from": str(client.key), "to": str(server.key), "port": f"{port.containerPort}{suffix}"}]
    return []
