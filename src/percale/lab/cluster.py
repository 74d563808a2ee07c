"""A lab at work: the one place where its parts meet. Made by `controller`, in whose event loop it runs.

store ─ events ─▶ World ─▶ planner ─ writes ─▶ store
                    ├────▶ Kubelet ─ CNI ─▶ agents        verbs (control.sock) read World and write the store
                    └────▶ NameService, the router's ways
Machines: cables, agents, cuts; each node has its Node object
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from msgspec.structs import replace

from percale.controllers import cluster_dns, control_loop
from percale.controllers.workloads import Change, Create, Delete, Write
from percale.errors import Conflict, LabError, NotFound, PercaleError, StoreError
from percale.lab.dns.service import NameService
from percale.lab.machines.machines import Machines, wait_until
from percale.lab.machines.router_routes import pod_routes, service_routes
from percale.lab.pods.kubelet import Kubelet
from percale.lab.spec.topology import LabNode, Machine
from percale.model.condition import Condition
from percale.model.endpoints import EndpointSlice
from percale.model.kinds import KINDS
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.node import Node, NodeAddress, NodeStatus
from percale.model.pod import Pod, PodIP, PodStatus
from percale.model.service import Service
from percale.model.subnet_lease import SubnetLease
from percale.store.cache import ObjectCache
from percale.store.protocol import Snapshot, Store

T = TypeVar("T", bound=Object)

_BATCH_DELAY = 0.003
"""Seconds to wait for more changes before looking at them: they come in flocks."""
_STORE_RETRY_DELAY = 0.2
"""Seconds before the store is asked again after an error."""
_IDLE_FACTOR = 4
_LONGEST_GRACE = 100 * 365 * 86400
"""Seconds that a deleted pod may go on: what is far longer ends in no year that can be written."""
"""After a look, as many times its duration are left to other work."""


@dataclass(slots=True)
class Cluster:
    """Everything of one lab that is alive; `on_change` is called after each look at all of it."""

    store: Store
    machines: Machines
    kubelet: Kubelet = field(init=False)
    dns: NameService = field(init=False)
    problems: Sequence[str] = ()
    """Services that cannot have what they ask for."""
    cache: ObjectCache = field(default_factory=ObjectCache)
    on_change: Callable[[], None] = lambda: None
    _machines_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Machines come and go one after the other."""
    _cache_filled: asyncio.Event = field(default_factory=asyncio.Event)
    _plan_requested: asyncio.Event = field(default_factory=asyncio.Event)
    _sync_requested: asyncio.Event = field(default_factory=asyncio.Event)
    _names_used: set[ObjectKey] = field(default_factory=set)
    _grace_ends: dict[tuple[ObjectKey, str | None], float] = field(default_factory=dict)
    """When the grace period of a pod that terminates is over, by the event loop's clock."""

    def __post_init__(self) -> None:
        hosts = self.machines.topology.hosts
        self.dns = NameService({host.name: (str(host.address.ip), str(host.address6.ip)) for host in hosts})
        self.kubelet = Kubelet(self.machines.lab_dir, self.machines, self.machines.responder, self.dns, self, log)

    def request_sync(self) -> None:
        """Something changed: look at everything again."""
        self._plan_requested.set()
        self._sync_requested.set()

    async def run(self, objects: Iterable[Object]) -> None:
        """Keep the cluster as its objects say, for ever; these are the first."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_store())
            await self._cache_filled.wait()
            for obj in objects:
                await self.write(Create(obj))
            tasks.create_task(self._run_when_set(self._plan_requested, self._plan))
            tasks.create_task(self._run_when_set(self._sync_requested, self._sync_pods))

    async def _watch_store(self) -> None:
        """The store's events."""
        while True:
            try:
                async for event in self.store.watch(*KINDS.values()):
                    self.cache.handle(event)
                    if isinstance(event, Snapshot):
                        self._cache_filled.set()
                    self.request_sync()
            except StoreError as error:
                log(f"store: {error}")
                lab_dir = self.machines.lab_dir
                if not lab_dir.store.exists():
                    raise LabError("the lab ends: its directory is gone", where=str(lab_dir.directory)) from error
            await asyncio.sleep(_STORE_RETRY_DELAY)

    async def _run_when_set(self, changed: asyncio.Event, action: Callable[[], Awaitable[None]]) -> None:
        """Look when something changed, and again when it changed meanwhile; for ever."""
        while True:
            await changed.wait()
            await asyncio.sleep(_BATCH_DELAY)
            changed.clear()
            started = time.thread_time()
            await action()
            await asyncio.sleep(_IDLE_FACTOR * (time.thread_time() - started))

    async def _plan(self) -> None:
        """Write what the workloads and the scheduler want."""
        plan = control_loop.plan(self.cache, self._names_used, self.machines.settings.services)
        for problem in plan.problems:
            if problem not in self.problems:
                log(problem)
        self.problems = plan.problems
        for write in plan.writes:
            try:
                await self.write(write)
            except PercaleError as error:  # tried again when something changes
                log(f"store: {error}")

    async def _sync_pods(self) -> None:
        """The kubelet lets live what is bound to a node of the cluster; the first need not wait for the last."""
        services, slices = self.cache.all(Service), self.cache.all(EndpointSlice)
        self.dns.update(services, slices)
        self.kubelet.set_name_servers(self._name_servers())
        await self._remove_expired()
        nodes = set(self.cache.keys(Node))
        self.kubelet.sync(pod for pod in self.cache.all(Pod) if ObjectKey(None, pod.spec.nodeName or "") in nodes)
        self.on_change()
        segments = self.machines.topology.segments
        machine_networks = [net for segment in segments for net in (segment.cidr, segment.cidr6)]
        routes = {
            *pod_routes(self.cache.all(SubnetLease)),
            *service_routes(services, slices, self.cache.all(Node), machine_networks),
        }
        try:
            await self.machines.set_routes(frozenset(routes))
        except LabError as error:
            log(f"router: {error}")

    def _name_servers(self) -> tuple[str, ...]:
        """For pods' /etc/resolv.conf; none while nobody would answer."""
        service = self.cache.get(Service, cluster_dns.SERVICE)
        return service.spec.clusterIPs if service is not None else ()

    async def _remove_expired(self) -> None:
        """Pods whose grace period is over go. How long it lasts is read once: setting the machine's clock changes nothing."""
        loop = asyncio.get_running_loop()
        known, self._grace_ends = self._grace_ends, {}
        for pod in filter(lambda pod: pod.terminating, self.cache.all(Pod)):
            who = (pod.key, pod.metadata.uid)
            if (end := known.get(who)) is None:
                left = (_parse_time(pod.metadata.deletionTimestamp) - datetime.now(UTC)).total_seconds()
                end = loop.time() + left
                loop.call_at(end + _BATCH_DELAY, self._sync_requested.set)
            if end <= loop.time():
                await self._remove(pod)
            else:
                self._grace_ends[who] = end

    async def write(self, write: Write) -> None:
        """Into the store, and into the world at once. A lost race is not repeated: the store's event plans anew."""
        match write:
            case Create(obj):
                with suppress(Conflict):
                    self.cache.put(await self.store.put(_with_identity(obj), expect=""))
                if isinstance(obj, Pod):
                    self._names_used.add(obj.key)
            case Change(obj):
                with suppress(Conflict):
                    self.cache.put(await self.store.put(obj, expect=obj.metadata.resourceVersion))
            case Delete(Pod() as pod) if self._grace(pod):
                end = _format_time(datetime.now(UTC) + timedelta(seconds=self._grace(pod), microseconds=999_999))
                leaving = replace(pod, metadata=replace(pod.metadata, deletionTimestamp=end))
                with suppress(Conflict):
                    self.cache.put(await self.store.put(leaving, expect=pod.metadata.resourceVersion))
            case Delete(obj):
                await self._remove(obj)
        self.request_sync()

    def _grace(self, pod: Pod) -> int:
        """Seconds that it goes on answering when it is deleted: none unless it says so, and only if it lives."""
        lives = self.kubelet.namespace(pod.key) is not None and self.machines.node(pod.spec.nodeName or "") is not None
        asked = pod.spec.terminationGracePeriodSeconds or 0
        return min(max(asked, 0), _LONGEST_GRACE) if lives and not pod.terminating else 0

    async def _remove(self, obj: Object) -> None:
        with suppress(NotFound):
            await self.store.delete(type(obj), obj.key)
        self.cache.remove(obj)

    async def change(self, obj: T, edit: Callable[[T], T]) -> None:
        """Write an object anew, against whatever else is written to it meanwhile. Raises StoreError."""
        known: T | None = obj
        while known is not None and (desired := edit(known)) != known:
            try:
                self.cache.put(await self.store.put(desired, expect=known.metadata.resourceVersion))
                break
            except Conflict:
                known = await self.store.get(type(obj), obj.key)
        self.request_sync()

    async def add_node(self, node: LabNode) -> Machine:
        """One node more; returns when its agent is ready. Raises LabError."""
        async with self._machines_lock:
            machine = await self.machines.add(node)
        await self.write(Create(node_object(machine)))
        await wait_until(
            lambda: self.machines.agents.state(machine.name).ready, f"the agent of {machine.name} is ready"
        )
        return machine

    async def remove_node(self, name: str) -> None:
        """The node leaves: first its pods, then its agent, its lease, its cable. Raises LabError."""
        async with self._machines_lock:
            if self.machines.node(name) is None:
                return  # somebody else asked for it, too
            node = self.cache.get(Node, ObjectKey(None, name))
            if node is not None:
                await self.write(Delete(node))
            await self._sync_pods()
            await self.kubelet.wait_removed(name)
            await self.machines.remove(name)
            for lease in self.cache.all(SubnetLease):
                if lease.spec.node == name:  # the agent, as long as it lived, would have claimed it again
                    await self.write(Delete(lease))

    async def report_running(self, pod: ObjectKey, machine: Machine, addresses: tuple[str, ...]) -> None:
        """The kubelet: it has these addresses and is Ready."""
        kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        status = PodStatus(
            phase="Running",
            conditions=tuple(Condition(type=kind, status="True") for kind in kinds),
            hostIP=str(machine.address.ip),
            podIP=addresses[0] if addresses else None,
            podIPs=tuple(PodIP(ip=address) for address in addresses),
            startTime=now(),
        )
        await self._write_status(pod, status)

    async def report_waiting(self, pod: ObjectKey, reason: str) -> None:
        """The kubelet: it cannot run yet, because of this."""
        condition = Condition(type="Ready", status="False", reason="NetworkNotReady", message=reason)
        await self._write_status(pod, PodStatus(phase="Pending", conditions=(condition,)))

    async def _write_status(self, key: ObjectKey, status: PodStatus) -> None:
        while (pod := self.cache.get(Pod, key)) is not None:
            try:
                await self.change(pod, lambda known: replace(known, status=status))
                break
            except PercaleError as error:  # such as a file of somebody's that is being edited
                log(f"status of pod {key}: {error}")
            await asyncio.sleep(_STORE_RETRY_DELAY)


def log(text: str) -> None:
    """Into the lab's log; a full disk ends nothing but the log."""
    with suppress(OSError):
        print(f"{now()} {text}", file=sys.stderr, flush=True)


def now() -> str:
    """As Kubernetes writes times."""
    return _format_time(datetime.now(UTC))


def _format_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _parse_time(text: str | None) -> datetime:
    """Now when it cannot be read: somebody wrote it."""
    try:
        return datetime.fromisoformat(text or "").astimezone(UTC)
    except (ValueError, OverflowError):
        return datetime.now(UTC)


def node_object(machine: Machine) -> Node:
    """A machine as the cluster knows it."""
    labels = {"kubernetes.io/hostname": machine.name, "kubernetes.io/os": "linux", **machine.labels}
    addresses = (
        NodeAddress(type="InternalIP", address=str(machine.address.ip)),
        NodeAddress(type="InternalIP", address=str(machine.address6.ip)),
        NodeAddress(type="Hostname", address=machine.name),
    )
    return Node(metadata=ObjectMeta(name=machine.name, labels=labels), status=NodeStatus(addresses=addresses))


def _with_identity(obj: T) -> T:
    return replace(obj, metadata=replace(obj.metadata, uid=str(uuid.uuid4()), creationTimestamp=now()))
