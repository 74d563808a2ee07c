"""A running lab: connects control plane, kubelet, name server and machines. Created by `controller`, on its event loop.

store ─ events ─▶ ObjectCache ─▶ ControlPlane.plan ─ writes ─▶ store
                    ├──────────▶ Kubelet ─ CNI ─▶ agents     verbs (control.sock) read the cache and write by the control plane
                    └──────────▶ NameService, the router's routes
Machines: network, agents, cuts; each node has its Node object
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from percale.controllers import cluster_dns
from percale.errors import LabError, PercaleError, StoreError
from percale.lab.control_plane import ControlPlane
from percale.lab.dns.service import NameService
from percale.lab.log import log
from percale.lab.machines.machines import Machines, wait_until
from percale.lab.machines.router_routes import pod_routes, service_routes
from percale.lab.pods.kubelet import Kubelet
from percale.lab.spec.topology import LabNode, Machine
from percale.lab.timestamps import parse_time
from percale.model.endpoints import EndpointSlice
from percale.model.kinds import KINDS
from percale.model.meta import Object, ObjectKey
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.service import Service
from percale.model.subnet_lease import SubnetLease
from percale.store.object_cache import ObjectCache
from percale.store.protocol import Snapshot

_BATCH_DELAY = 0.003
"""Seconds to collect further changes before acting: they come in bursts."""
_STORE_RETRY_DELAY = 0.2
"""Seconds before the store is watched again after an error."""
_IDLE_FACTOR = 4
"""After an action, this many times its CPU time is left to other work."""


@dataclass(slots=True)
class Cluster:
    """All components of one lab; `on_change` is called after each sync of pods."""

    control: ControlPlane
    machines: Machines
    kubelet: Kubelet = field(init=False)
    dns: NameService = field(init=False)
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
    _grace_ends: dict[tuple[ObjectKey, str | None], float] = field(default_factory=dict)
    """When a terminating pod's grace period ends, by the event loop's clock."""

    def __post_init__(self) -> None:
        hosts = self.machines.topology.hosts
        self.dns = NameService({host.name: (str(host.address.ip), str(host.address6.ip)) for host in hosts})
        self.kubelet = Kubelet(
            self.machines.lab_dir, self.machines, self.machines.responder, self.dns, self.control, log
        )
        self.control.connect(self)

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
        """Run the cluster until cancelled; its nodes and `objects` are written first."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.control.run())
            await self.control.wait_ready()
            tasks.create_task(self._watch_store())
            await self._cache_filled.wait()
            await self.control.register(self.machines.topology.nodes)
            for obj in objects:
                known = self.cache.get(type(obj), obj.key)
                if known is None:
                    await self.control.create(obj)
                elif not isinstance(obj, Node):  # the lab's machines are its nodes
                    await self.control.change(known, partial(self.control.merge, desired=obj))
            tasks.create_task(self._run_when_set(self._plan_requested, self.control.plan))
            tasks.create_task(self._run_when_set(self._sync_requested, self._sync_pods))

    async def _watch_store(self) -> None:
        """Apply the store's events to the cache until cancelled."""
        while True:
            try:
                async for event in self.control.store.watch(*KINDS.values()):
                    self.cache.handle(event)
                    if isinstance(event, Snapshot):
                        self._cache_filled.set()
                    self.request_sync()
            except StoreError as error:
                log(f"store: {error}")
                lab_dir = self.machines.lab_dir
                if not lab_dir.directory.exists():
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

    async def _sync_pods(self) -> None:
        """Give the kubelet the pods bound to nodes; update names and routes."""
        services, slices = self.cache.all(Service), self.cache.all(EndpointSlice)
        self.dns.update(services, slices)
        self.kubelet.set_name_servers(self._name_servers())
        await self._remove_expired()
        nodes = set(self.cache.keys(Node))
        self.control.set_ready_nodes({name for _, name in nodes if self.machines.agents.state(name).ready})
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
        over = []
        for pod in filter(lambda pod: pod.terminating, self.cache.all(Pod)):
            who = (pod.key, pod.metadata.uid)
            if (end := known.get(who)) is None:
                left = (parse_time(pod.metadata.deletionTimestamp) - datetime.now(UTC)).total_seconds()
                end = loop.time() + (0 if self.control.leaves_at_once(pod) else left)
                loop.call_at(end + _BATCH_DELAY, self._sync_requested.set)
            self._grace_ends[who] = end
            if end <= loop.time():
                over.append(pod)
        await asyncio.gather(*map(self._finish, over))

    async def _finish(self, pod: Pod) -> None:
        try:
            await self.control.finish(pod)
        except PercaleError as error:
            log(f"pod {pod.key} leaving: {error}")
            asyncio.get_running_loop().call_later(_STORE_RETRY_DELAY, self._sync_requested.set)

    def runs(self, pod: Pod) -> bool:
        """Whether the pod has been started on a node that is there."""
        return self.kubelet.namespace(pod.key) is not None and self.machines.node(pod.spec.nodeName or "") is not None

    async def add_node(self, node: LabNode) -> Machine:
        """Add a node; returns when its agent is ready. Raises LabError."""
        async with self._machines_lock:
            machine = await self.machines.add(node)
        await wait_until(
            lambda: self.machines.agents.state(machine.name).ready,
            f"the agent of {machine.name} is ready",
            f"look at: {self.machines.lab_dir.command('status')}",
        )
        return machine

    async def remove_node(self, name: str) -> None:
        """Remove a node: first its pods, then agent, network and lease. Raises LabError."""
        async with self._machines_lock:
            if self.machines.node(name) is None:
                return  # a concurrent request removed it
            node = self.cache.get(Node, ObjectKey(None, name))
            if node is not None:
                await self.control.delete(node)
            await self._sync_pods()
            await self.kubelet.wait_removed(name)
            await self.machines.remove(name)
            for lease in self.cache.all(SubnetLease):
                if lease.spec.node == name:  # deleted last: the running agent would have claimed it again
                    await self.control.delete(lease)
