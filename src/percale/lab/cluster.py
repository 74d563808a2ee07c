"""A running lab: connects store, controllers, kubelet, name server and machines. Created by `controller`, on its event loop.

store ─ events ─▶ ObjectCache ─▶ control_loop ─ writes ─▶ store
                    ├──────────▶ Kubelet ─ CNI ─▶ agents     verbs (control.sock) read the cache and write the store
                    └──────────▶ NameService, the router's routes
Machines: network, agents, cuts; each node has its Node object
"""

from __future__ import annotations

import asyncio
import sys
import time
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
from percale.model.meta import Object, ObjectKey, ObjectMeta, timestamp
from percale.model.node import Node, NodeAddress, NodeStatus
from percale.model.pod import Pod, PodIP, PodStatus
from percale.model.service import Service
from percale.model.subnet_lease import SubnetLease
from percale.objects.changes import with_identity
from percale.store.cache import ObjectCache
from percale.store.protocol import Snapshot, Store

T = TypeVar("T", bound=Object)

_BATCH_DELAY = 0.003
"""Seconds to collect further changes before acting: they come in bursts."""
_STORE_RETRY_DELAY = 0.2
"""Seconds before the store is watched again after an error."""
_IDLE_FACTOR = 4
"""After an action, this many times its CPU time is left to other work."""
_LONGEST_GRACE = 100 * 365 * 86400
"""Seconds that a deleted pod may go on: a longer grace period would end in a year that cannot be written."""


@dataclass(slots=True)
class Cluster:
    """All components of one lab; `on_change` is called after each sync of pods."""

    store: Store
    machines: Machines
    kubelet: Kubelet = field(init=False)
    dns: NameService = field(init=False)
    problems: Sequence[str] = ()
    """Services that cannot be allocated what they request."""
    cache: ObjectCache = field(default_factory=ObjectCache)
    on_change: Callable[[], None] = lambda: None
    revision: int = 0
    """Differs whenever anything may have changed: an object, an agent."""
    _next_revision: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with the revision's next change, and replaced."""
    _machines_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Machines are added and removed one at a time."""
    _cache_filled: asyncio.Event = field(default_factory=asyncio.Event)
    _plan_requested: asyncio.Event = field(default_factory=asyncio.Event)
    _sync_requested: asyncio.Event = field(default_factory=asyncio.Event)
    _names_used: set[ObjectKey] = field(default_factory=set)
    _grace_ends: dict[tuple[ObjectKey, str | None], float] = field(default_factory=dict)
    """When a terminating pod's grace period ends, by the event loop's clock."""

    def __post_init__(self) -> None:
        hosts = self.machines.topology.hosts
        self.dns = NameService({host.name: (str(host.address.ip), str(host.address6.ip)) for host in hosts})
        self.kubelet = Kubelet(self.machines.lab_dir, self.machines, self.machines.responder, self.dns, self, log)

    def request_sync(self) -> None:
        """Something changed: plan and sync again."""
        self.revision += 1
        self._next_revision.set()
        self._next_revision = asyncio.Event()
        self._plan_requested.set()
        self._sync_requested.set()

    async def wait_changed(self, revision: int, timeout_seconds: float) -> None:
        """Wait until the revision is another one, and for what changes with it; not longer than this."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while self.revision == revision:
                    await self._next_revision.wait()
                await asyncio.sleep(_BATCH_DELAY)

    async def run(self, objects: Iterable[Object]) -> None:
        """Run the cluster until cancelled; `objects` are written first."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_store())
            await self._cache_filled.wait()
            for obj in objects:
                await self.write(Create(obj))
            tasks.create_task(self._run_when_set(self._plan_requested, self._plan))
            tasks.create_task(self._run_when_set(self._sync_requested, self._sync_pods))

    async def _watch_store(self) -> None:
        """Apply the store's events to the cache until cancelled."""
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
        """Run `action` after `changed` is set, until cancelled."""
        while True:
            await changed.wait()
            await asyncio.sleep(_BATCH_DELAY)
            changed.clear()
            started = time.thread_time()
            await action()
            await asyncio.sleep(_IDLE_FACTOR * (time.thread_time() - started))

    async def _plan(self) -> None:
        """Write what the controllers decide."""
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
        """Give the kubelet the pods bound to nodes; update names and routes."""
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
        """For pods' /etc/resolv.conf; empty while the DNS Service does not exist."""
        service = self.cache.get(Service, cluster_dns.SERVICE)
        return service.spec.clusterIPs if service is not None else ()

    async def _remove_expired(self) -> None:
        """Remove pods whose grace period is over. The deadline is computed once, independent of later clock changes."""
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
        """Write to the store and to the cache. A conflict is not retried: the store's event triggers another plan."""
        match write:
            case Create(obj):
                with suppress(Conflict):
                    self.cache.put(await self.store.put(with_identity(obj), expect=""))
                if isinstance(obj, Pod):
                    self._names_used.add(obj.key)
            case Change(obj):
                with suppress(Conflict):
                    self.cache.put(await self.store.put(obj, expect=obj.metadata.resourceVersion))
            case Delete(Pod() as pod) if self._grace(pod):
                end = timestamp(datetime.now(UTC) + timedelta(seconds=self._grace(pod), microseconds=999_999))
                leaving = replace(pod, metadata=replace(pod.metadata, deletionTimestamp=end))
                with suppress(Conflict):
                    self.cache.put(await self.store.put(leaving, expect=pod.metadata.resourceVersion))
            case Delete(obj):
                await self._remove(obj)
        self.request_sync()

    def _grace(self, pod: Pod) -> int:
        """Grace period in seconds: 0 unless the pod sets one and runs."""
        lives = self.kubelet.namespace(pod.key) is not None and self.machines.node(pod.spec.nodeName or "") is not None
        asked = pod.spec.terminationGracePeriodSeconds or 0
        return min(max(asked, 0), _LONGEST_GRACE) if lives and not pod.terminating else 0

    async def _remove(self, obj: Object) -> None:
        with suppress(NotFound):
            await self.store.delete(type(obj), obj.key)
        self.cache.remove(obj)

    async def change(self, obj: T, edit: Callable[[T], T]) -> None:
        """Update an object, retrying on conflicts. Raises StoreError."""
        known: T | None = obj
        while known is not None and (desired := edit(known)) != known:
            try:
                self.cache.put(await self.store.put(desired, expect=known.metadata.resourceVersion))
                break
            except Conflict:
                known = await self.store.get(type(obj), obj.key)
        self.request_sync()

    async def add_node(self, node: LabNode) -> Machine:
        """Add a node; returns when its agent is ready. Raises LabError."""
        async with self._machines_lock:
            machine = await self.machines.add(node)
        await self.write(Create(node_object(machine)))
        await wait_until(
            lambda: self.machines.agents.state(machine.name).ready, f"the agent of {machine.name} is ready"
        )
        return machine

    async def remove_node(self, name: str) -> None:
        """Remove a node: first its pods, then agent, network and lease. Raises LabError."""
        async with self._machines_lock:
            if self.machines.node(name) is None:
                return  # a concurrent request removed it
            node = self.cache.get(Node, ObjectKey(None, name))
            if node is not None:
                await self.write(Delete(node))
            await self._sync_pods()
            await self.kubelet.wait_removed(name)
            await self.machines.remove(name)
            for lease in self.cache.all(SubnetLease):
                if lease.spec.node == name:  # deleted last: the running agent would have claimed it again
                    await self.write(Delete(lease))

    async def report_running(self, pod: ObjectKey, machine: Machine, addresses: tuple[str, ...]) -> None:
        """Called by the kubelet: the pod has these addresses and is Ready."""
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
        """Called by the kubelet: the pod cannot run yet."""
        condition = Condition(type="Ready", status="False", reason="NetworkNotReady", message=reason)
        await self._write_status(pod, PodStatus(phase="Pending", conditions=(condition,)))

    async def _write_status(self, key: ObjectKey, status: PodStatus) -> None:
        while (pod := self.cache.get(Pod, key)) is not None:
            try:
                await self.change(pod, lambda known: replace(known, status=status))
                break
            except PercaleError as error:  # such as a manifest that a user is editing
                log(f"status of pod {key}: {error}")
            await asyncio.sleep(_STORE_RETRY_DELAY)


def log(text: str) -> None:
    """Write to the lab's log; errors such as a full disk are ignored."""
    with suppress(OSError):
        print(f"{now()} {text}", file=sys.stderr, flush=True)


def now() -> str:
    """The time as Kubernetes writes it."""
    return timestamp(datetime.now(UTC))


def _parse_time(text: str | None) -> datetime:
    """The current time when the text is not a time: users can write it."""
    try:
        return datetime.fromisoformat(text or "").astimezone(UTC)
    except (ValueError, OverflowError):
        return datetime.now(UTC)


def node_object(machine: Machine) -> Node:
    """A machine's Node object."""
    labels = {"kubernetes.io/hostname": machine.name, "kubernetes.io/os": "linux", **machine.labels}
    addresses = (
        NodeAddress(type="InternalIP", address=str(machine.address.ip)),
        NodeAddress(type="InternalIP", address=str(machine.address6.ip)),
        NodeAddress(type="Hostname", address=machine.name),
    )
    return Node(metadata=ObjectMeta(name=machine.name, labels=labels), status=NodeStatus(addresses=addresses))
