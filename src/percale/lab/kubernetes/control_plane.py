"""Kubernetes as a lab's control plane: its programs, and what the kubelets of the lab's nodes say to it.

    controller ─┬─ etcd, kube-apiserver, kube-controller-manager, kube-scheduler
                ├─ forward.py: kubectl outside the lab
                └─ kubelets: Node objects and their condition Ready, status of pods, end of pods

Load balancers' addresses and the name server have no program of Kubernetes' own: the lab's controllers do these.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from percale.controllers import services as service_controller
from percale.controllers.admission import validate
from percale.controllers.service_networks import ServiceNetworks
from percale.controllers.workloads import Change, Create
from percale.errors import Conflict, NotFound, PercaleError
from percale.kernel.netns import CurrentNetns
from percale.lab.control_plane import Owner, update
from percale.lab.kubernetes import manifests
from percale.lab.kubernetes.api import KubernetesApi
from percale.lab.kubernetes.command_lines import API_PORT, api_address, command_lines
from percale.lab.kubernetes.config import KubernetesConfig
from percale.lab.kubernetes.credentials import Credentials
from percale.lab.kubernetes.forward import forward
from percale.lab.kubernetes.kubelet_server import KubeletServer
from percale.lab.kubernetes.programs import RunningPrograms
from percale.lab.log import log
from percale.lab.machines import fabric
from percale.lab.run_dir import LabDir
from percale.lab.spec.topology import Machine, Topology
from percale.lab.timestamps import now
from percale.model.manifest.decode import ManifestEntry
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.subnet_lease import SubnetLease
from percale.objects.changes import merged_with_others
from percale.store.kubernetes.store import open_kubernetes
from percale.store.protocol import Store

T = TypeVar("T", bound=Object)

_SERVERS = 2
"""etcd and the API server. The others come when it is ready: what it refuses before, they try again after long pauses."""
_HEARTBEAT = 10.0
"""Seconds between two reports of a node, as a kubelet's; after 50 s without one the node is not ready."""
_RETRY_DELAY = 0.2
_POLL = 0.05
_POD_CIDR_TIMEOUT = 20.0
"""Seconds; then the node's agent starts all the same, and says that it has no podCIDR."""
_USUAL_GRACE = 30
"""Seconds, which the API server fills in."""


@dataclass(slots=True)
class _NodeState:
    """What was reported of a node; `since` is when its readiness changed."""

    machine: Machine
    since: str
    ready: bool = False
    served: bool = False
    """Its kubelet listens."""


async def open_control_plane(
    lab_dir: LabDir, config: KubernetesConfig, machines: Topology, networks: ServiceNetworks
) -> KubernetesControlPlane:
    """With its credentials; its programs do not run yet. Raises LabError."""
    files = Credentials(lab_dir.kubernetes)
    address = api_address(machines, networks.cidrs)
    gateways = [gateway for each in machines.segments for gateway in (each.gateway.ip, each.gateway6.ip)]
    service_addresses = [cidr.network_address + 1 for cidr in networks.cidrs]
    loopback, port = config.listener.getsockname()
    host = f"[{address}]" if address.version == 6 else str(address)
    reached_at = [loopback, *map(str, (*gateways, *service_addresses))]
    await asyncio.to_thread(files.write, f"https://{host}:{API_PORT}", reached_at)
    files.write_kubeconfig(lab_dir.kubeconfig, "admin", f"https://{loopback}:{port}", f"percale-{lab_dir.name}")
    commands = command_lines(config.programs, files, address, config.network, networks.cidrs)
    return KubernetesControlPlane(
        files=files,
        store=open_kubernetes(str(files.kubeconfig("admin"))),
        networks=networks,
        programs=RunningPrograms(files.directory, config.lock),
        commands=commands,
        listener=config.listener,
        api=KubernetesApi(files.kubeconfig("admin")),
    )


@dataclass(slots=True)
class KubernetesControlPlane:
    """See `ControlPlane`."""

    files: Credentials
    store: Store
    networks: ServiceNetworks
    programs: RunningPrograms
    commands: Sequence[Sequence[str]]
    listener: socket.socket
    api: KubernetesApi
    computes_status: bool = False
    _owner: Owner = field(init=False)
    _kubelets: KubeletServer = field(init=False)
    _version: str = ""
    _ready: asyncio.Event = field(default_factory=asyncio.Event)
    _service_problems: Sequence[str] = ()
    _ready_nodes: frozenset[str] = frozenset()
    _nodes: dict[str, _NodeState] = field(default_factory=dict)
    """The registered ones, by name."""
    _report_requested: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def problems(self) -> Sequence[str]:
        return [*self.programs.problems, *self._service_problems]

    def connect(self, owner: Owner) -> None:
        self._owner = owner
        self._kubelets = KubeletServer(self.files, owner.cache, owner.kubelet, owner.machines.responder)

    async def run(self) -> None:
        await asyncio.to_thread(fabric.serve_programs, CurrentNetns())
        async with asyncio.TaskGroup() as tasks:
            for command in self.commands[:_SERVERS]:
                tasks.create_task(self.programs.run(command))
            tasks.create_task(forward(self.listener, "127.0.0.1", API_PORT))
            await _poll(self.api.is_ready)
            for command in self.commands[_SERVERS:]:
                tasks.create_task(self.programs.run(command))
            self._version = await self.api.version()
            role, binding = manifests.agent_rights()
            await self.api.create(manifests.ROLES, "clusterroles", role)
            await self.api.create(manifests.ROLE_BINDINGS, "clusterrolebindings", binding)
            log(f"Kubernetes {self._version} is ready")
            self._ready.set()
            tasks.create_task(self._report_nodes())

    async def wait_ready(self) -> None:
        await self._ready.wait()

    # Nodes

    async def register(self, nodes: Sequence[Machine]) -> None:
        """Each gets its pod subnet from the controller manager, without which its agent would only wait."""
        await self.wait_ready()
        await asyncio.gather(*map(self._register, nodes))

    async def _register(self, machine: Machine) -> None:
        if machine.name in self._nodes:
            return
        self._nodes[machine.name] = _NodeState(machine, since=now())
        await self.api.create_node(manifests.node(machine, self._version, now()), Node)
        with suppress(TimeoutError):
            async with asyncio.timeout(_POD_CIDR_TIMEOUT):
                await _poll(lambda: self._has_subnet(machine.name))

    async def _has_subnet(self, name: str) -> bool:
        node = await self.store.get(Node, ObjectKey(None, name))
        return node is not None and bool(node.pod_cidrs)

    def set_ready_nodes(self, names: Collection[str]) -> None:
        if self._ready_nodes != names:
            self._ready_nodes = frozenset(names)
            self._report_requested.set()

    async def _report_nodes(self) -> None:
        """The condition Ready of all nodes, at once when it changes and as a heartbeat; until cancelled."""
        while True:
            self._report_requested.clear()
            await asyncio.gather(*map(self._report_node, list(self._nodes.values())))
            with suppress(TimeoutError):
                async with asyncio.timeout(_HEARTBEAT):
                    await self._report_requested.wait()

    async def _report_node(self, state: _NodeState) -> None:
        name = state.machine.name
        ready = name in self._ready_nodes
        if state.ready != ready:
            state.ready, state.since = ready, now()
        if ready and not state.served:
            state.served = True
            try:
                await self._kubelets.serve(state.machine)
            except OSError as error:
                log(f"node {name}: its kubelet cannot listen: {error}")
        condition = manifests.node_ready(ready, state.since, now())
        try:
            await self.api.patch_status(Node(metadata=ObjectMeta(name=name)), {"conditions": [condition]})
        except NotFound:  # somebody has deleted it; `remove-node` removes the machine
            return
        except PercaleError as error:
            log(f"node {name}: {error}")

    # Objects

    async def plan(self) -> None:
        """What no program of Kubernetes does: load balancers' addresses, the name server."""
        plan = service_controller.plan_beside_kubernetes(self._owner.cache, self.networks)
        self._service_problems = plan.problems
        for write in plan.writes:
            try:
                with suppress(Conflict):
                    match write:
                        case Create(obj):
                            self._owner.cache.put(await self.store.put(obj, expect=""))
                        case Change(obj):
                            self._owner.cache.put(await self.store.put(obj, expect=obj.metadata.resourceVersion))
            except PercaleError as error:  # tried again when something changes
                log(f"{write.object.KIND} {write.object.key}: {error}")

    def admit(self, found: Sequence[ManifestEntry]) -> Sequence[ManifestEntry]:
        """The API server allocates."""
        validate(found)
        return found

    def merge(self, known: Object, desired: Object) -> Object:
        return merged_with_others(known, desired)

    async def create(self, obj: Object) -> None:
        with suppress(Conflict):
            self._put(await self.store.put(obj, expect=""))

    async def change(self, obj: T, edit: Callable[[T], T]) -> bool:
        changed = await update(self.store, self._owner.cache, obj, edit)
        self._owner.request_sync()
        return changed

    async def delete(self, obj: Object) -> None:
        """Of a node, its pods go too: there is no kubelet any more to end them."""
        if isinstance(obj, SubnetLease):
            return  # a part of its Node
        await self.api.delete(obj)
        if isinstance(obj, Node):
            self._nodes.pop(obj.metadata.name, None)
            self._owner.cache.remove(obj)
            pods = [pod for pod in self._owner.cache.all(Pod) if pod.spec.nodeName == obj.metadata.name]
            await asyncio.gather(*map(self.finish, pods))
        self._owner.request_sync()

    # Pods

    async def finish(self, pod: Pod) -> None:
        """Its containers have ended: a Job counts it by its phase."""
        if any(owner.kind == "Job" for owner in pod.metadata.ownerReferences):
            with suppress(NotFound, Conflict):
                await self.api.patch_status(pod, {"phase": "Failed"})
        await self.api.delete(pod, grace=0)
        self._owner.cache.remove(pod)
        self._owner.request_sync()

    def leaves_at_once(self, pod: Pod) -> bool:
        """With the period that the API server fills in, as most programs at a SIGTERM; others use what they ask for."""
        return not self._owner.runs(pod) or pod.spec.terminationGracePeriodSeconds in (None, _USUAL_GRACE)

    async def report_running(self, pod: Pod, machine: Machine, addresses: tuple[str, ...]) -> None:
        await self._write_status(pod, manifests.running_status(pod, machine, addresses, now()))

    async def report_waiting(self, pod: Pod, reason: str) -> None:
        await self._write_status(pod, manifests.waiting_status(pod, reason, now()))

    async def _write_status(self, pod: Pod, status: dict[str, Any]) -> None:
        while self._owner.cache.get(Pod, pod.key) is not None:
            try:
                self._put(await self.api.patch_status(pod, status))
                break
            except (NotFound, Conflict):  # it has been deleted
                break
            except PercaleError as error:
                log(f"status of pod {pod.key}: {error}")
            await asyncio.sleep(_RETRY_DELAY)

    def _put(self, obj: Object) -> None:
        self._owner.cache.put(obj)
        self._owner.request_sync()


async def _poll(condition: Callable[[], Awaitable[bool]]) -> None:
    """Until it holds: there is no event of it."""
    while not await condition():  # noqa: ASYNC110
        await asyncio.sleep(_POLL)
