"""The control plane of a lab without Kubernetes: objects in files, written by percale.controllers and the lab's kubelet.

cache ─▶ control_loop ─ writes ─▶ store
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from msgspec.structs import replace

from percale.controllers import control_loop
from percale.controllers.admission import admit
from percale.controllers.service_networks import ServiceNetworks
from percale.controllers.workloads import Change, Create, Delete, Write
from percale.errors import Conflict, NotFound, PercaleError
from percale.lab.control_plane import Owner, update
from percale.lab.log import log
from percale.lab.spec.topology import Machine
from percale.lab.timestamps import now
from percale.model.condition import Condition
from percale.model.manifest.decode import ManifestEntry
from percale.model.meta import Object, ObjectKey, ObjectMeta, timestamp
from percale.model.namespace import Namespace
from percale.model.node import Node, NodeAddress, NodeStatus
from percale.model.pod import Pod, PodIP, PodStatus
from percale.model.service import Service
from percale.objects.changes import merged, with_identity
from percale.store.protocol import Store

T = TypeVar("T", bound=Object)

_RETRY_DELAY = 0.2
"""Seconds before a status is written again after an error."""
_LONGEST_GRACE = 100 * 365 * 86400
"""Seconds that a deleted pod may go on: a longer grace period would end in a year that cannot be written."""


@dataclass(slots=True)
class OwnControlPlane:
    """See `ControlPlane`."""

    store: Store
    networks: ServiceNetworks
    problems: Sequence[str] = ()
    computes_status: bool = True
    _owner: Owner = field(init=False)
    _names_used: set[ObjectKey] = field(default_factory=set)

    def connect(self, owner: Owner) -> None:
        self._owner = owner

    async def run(self) -> None:
        """Nothing runs by itself."""

    async def wait_ready(self) -> None:
        """Files always answer."""

    async def register(self, nodes: Sequence[Machine]) -> None:
        for machine in nodes:
            if self._owner.cache.get(Node, ObjectKey(None, machine.name)) is None:
                await self._write(Create(node_object(machine)))

    def set_ready_nodes(self, names: Collection[str]) -> None:
        """Computed when it is asked for."""

    async def plan(self) -> None:
        plan = control_loop.plan(self._owner.cache, self._names_used, self.networks)
        for problem in plan.problems:
            if problem not in self.problems:
                log(problem)
        self.problems = plan.problems
        for write in plan.writes:
            try:
                await self._write(write)
            except PercaleError as error:  # tried again when something changes
                log(f"store: {error}")

    def admit(self, found: Sequence[ManifestEntry]) -> Sequence[ManifestEntry]:
        return admit(found, self._owner.cache.all(Service), self.networks)

    def merge(self, known: Object, desired: Object) -> Object:
        return merged(known, desired)

    async def create(self, obj: Object) -> None:
        await self._write(Create(obj))

    async def change(self, obj: T, edit: Callable[[T], T]) -> bool:
        changed = await update(self.store, self._owner.cache, obj, edit)
        self._owner.request_sync()
        return changed

    async def delete(self, obj: Object) -> None:
        """A namespace's objects go with it."""
        await self._write(Delete(obj))
        if isinstance(obj, Namespace):
            for inside in self._owner.cache.all_kinds():
                if inside.metadata.namespace == obj.metadata.name:
                    await self._write(Delete(inside))

    async def finish(self, pod: Pod) -> None:
        await self._remove(pod)

    def leaves_at_once(self, pod: Pod) -> bool:
        """Only those that set a grace period terminate."""
        del pod
        return False

    async def report_running(self, pod: Pod, machine: Machine, addresses: tuple[str, ...]) -> None:
        kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
        status = PodStatus(
            phase="Running",
            conditions=tuple(Condition(type=kind, status="True") for kind in kinds),
            hostIP=str(machine.address.ip),
            podIP=addresses[0] if addresses else None,
            podIPs=tuple(PodIP(ip=address) for address in addresses),
            startTime=now(),
        )
        await self._write_status(pod.key, status)

    async def report_waiting(self, pod: Pod, reason: str) -> None:
        condition = Condition(type="Ready", status="False", reason="NetworkNotReady", message=reason)
        await self._write_status(pod.key, PodStatus(phase="Pending", conditions=(condition,)))

    async def _write_status(self, key: ObjectKey, status: PodStatus) -> None:
        while (pod := self._owner.cache.get(Pod, key)) is not None:
            try:
                await self.change(pod, lambda known: replace(known, status=status))
                break
            except PercaleError as error:  # such as a manifest that a user is editing
                log(f"status of pod {key}: {error}")
            await asyncio.sleep(_RETRY_DELAY)

    async def _write(self, write: Write) -> None:
        """Write to the store and to the cache. A conflict is not retried: the store's event triggers another plan."""
        cache = self._owner.cache
        match write:
            case Create(obj):
                with suppress(Conflict):
                    cache.put(await self.store.put(with_identity(obj), expect=""))
                if isinstance(obj, Pod):
                    self._names_used.add(obj.key)
            case Change(obj):
                with suppress(Conflict):
                    cache.put(await self.store.put(obj, expect=obj.metadata.resourceVersion))
            case Delete(Pod() as pod) if self._grace(pod):
                end = timestamp(datetime.now(UTC) + timedelta(seconds=self._grace(pod), microseconds=999_999))
                leaving = replace(pod, metadata=replace(pod.metadata, deletionTimestamp=end))
                with suppress(Conflict):
                    cache.put(await self.store.put(leaving, expect=pod.metadata.resourceVersion))
            case Delete(obj):
                await self._remove(obj)
        self._owner.request_sync()

    def _grace(self, pod: Pod) -> int:
        """Grace period in seconds: 0 unless the pod sets one and runs."""
        asked = pod.spec.terminationGracePeriodSeconds or 0
        return min(max(asked, 0), _LONGEST_GRACE) if self._owner.runs(pod) and not pod.terminating else 0

    async def _remove(self, obj: Object) -> None:
        with suppress(NotFound):
            await self.store.delete(type(obj), obj.key)
        self._owner.cache.remove(obj)


def node_object(machine: Machine) -> Node:
    """A machine's Node object."""
    labels = {"kubernetes.io/hostname": machine.name, "kubernetes.io/os": "linux", **machine.labels}
    addresses = (
        NodeAddress(type="InternalIP", address=str(machine.address.ip)),
        NodeAddress(type="InternalIP", address=str(machine.address6.ip)),
        NodeAddress(type="Hostname", address=machine.name),
    )
    return Node(metadata=ObjectMeta(name=machine.name, labels=labels), status=NodeStatus(addresses=addresses))
