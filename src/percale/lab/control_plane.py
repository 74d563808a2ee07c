"""What a lab needs of its control plane: the lab's own controllers over files, or Kubernetes' programs.

Cluster ─▶ ControlPlane ─┬─ own_control_plane.py         files, percale.controllers
Kubelet ─▶               └─ kubernetes/control_plane.py  kube-apiserver, kube-controller-manager, kube-scheduler
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeVar

from percale.errors import Conflict
from percale.lab.machines.machines import Machines
from percale.lab.pods.kubelet import Kubelet
from percale.lab.spec.topology import Machine
from percale.model.manifest.decode import ManifestEntry
from percale.model.meta import Object
from percale.model.pod import Pod
from percale.store.object_cache import ObjectCache
from percale.store.protocol import Store

T = TypeVar("T", bound=Object)


class Owner(Protocol):
    """What the control plane needs of the cluster."""

    cache: ObjectCache
    kubelet: Kubelet
    machines: Machines

    def request_sync(self) -> None:
        """Something changed."""

    def runs(self, pod: Pod) -> bool:
        """Whether the pod has been started on a node that is there."""


class ControlPlane(Protocol):
    """All methods are called on the controller's event loop. Writes raise PercaleError."""

    store: Store
    computes_status: bool
    """Whether nobody writes the status of workloads and nodes, so that it is computed when it is asked for."""

    @property
    def problems(self) -> Sequence[str]:
        """Services that cannot have what they request, programs that have ended."""

    def connect(self, owner: Owner) -> None:
        """Called once, before everything else."""

    async def run(self) -> None:
        """Run what belongs to it, until cancelled."""

    async def wait_ready(self) -> None:
        """Wait until the store answers."""

    async def register(self, nodes: Sequence[Machine]) -> None:
        """Create the Node objects of these machines; those that exist stay. Returns when their agents can start."""

    def set_ready_nodes(self, names: Collection[str]) -> None:
        """The nodes whose agents are ready now."""

    async def plan(self) -> None:
        """Write what the lab's own controllers decide. Called when something has changed."""

    def admit(self, found: Sequence[ManifestEntry]) -> Sequence[ManifestEntry]:
        """The objects to apply, checked; Services with their addresses where nobody else allocates them. Raises BadManifest."""

    def merge(self, known: Object, desired: Object) -> Object:
        """The applied object with what is the cluster's."""

    async def create(self, obj: Object) -> None:
        """One that exists already stays."""

    async def change(self, obj: T, edit: Callable[[T], T]) -> bool:
        """Update an object, retrying on conflicts; whether it is another one now."""

    async def delete(self, obj: Object) -> None:
        """Delete an object; a pod that runs gets its grace period."""

    async def finish(self, pod: Pod) -> None:
        """Remove a pod whose grace period is over."""

    def leaves_at_once(self, pod: Pod) -> bool:
        """Whether a terminating pod does not use its grace period."""

    async def report_running(self, pod: Pod, machine: Machine, addresses: tuple[str, ...]) -> None:
        """Called by the kubelet: the pod has these addresses and is Ready."""

    async def report_waiting(self, pod: Pod, reason: str) -> None:
        """Called by the kubelet: the pod cannot run yet."""


async def update(store: Store, cache: ObjectCache, obj: T, edit: Callable[[T], T]) -> bool:
    """Write what `edit` makes of the object, of a newer one after a conflict; whether the store's is another one now."""
    known: T | None = obj
    while known is not None and (desired := edit(known)) != known:
        version = known.metadata.resourceVersion
        try:
            written = await store.put(desired, expect=version)
        except Conflict:
            known = await store.get(type(obj), obj.key)
        else:
            cache.put(written)
            return written.metadata.resourceVersion != version
    return False
