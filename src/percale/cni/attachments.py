"""Attaches pods to the network and detaches them. Called by `operations.py`, and by `server.py` at the start.

    attach   address ─▶ hooks ─▶ pair, host side, guard elements ─▶ pod's side (its namespace) ─▶ record  undone if a step fails
    detach   host side, and the pair with it ─▶ hooks ─▶ record ─▶ address                               repeated until done

If killed in between, an attach leaves an address without a record, and perhaps a pair that is not declared. The next start, a
second ADD, a DEL or a GC removes both. A pair deleted by others is recreated while the pod's namespace exists.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

from msgspec import Struct

from percale.cni.hooks import GuardTables, PodHook
from percale.cni.pod_netns import PodNamespaces, is_foreign_namespace, namespace_id
from percale.cni.records import Attachment, Records
from percale.cni.requests import KubernetesPod
from percale.errors import AddressRefused, PercaleError, StateError
from percale.ipam.address_pool import AddressPool, Owner, PodOf
from percale.kernel.reconciler.reconciler import Reconciler
from percale.model.addresses import IPAddress
from percale.render.link_kinds import Veth
from percale.render.network.elements import Element
from percale.render.network.pod_veth import (
    Limit,
    PodDefaults,
    PodWires,
    Wiring,
    bridge_mac,
    bridge_objects,
    from_loopback,
    guard_elements,
    host_device,
    host_objects,
    pod_interface,
    pod_mac,
    pod_objects,
)
from percale.render.objects import KernelObject, Link
from percale.render.service.host_ports import HostPort

_SOURCE = "pod/"


class Log(Protocol):
    """The agent's log."""

    def info(self, event: str, **fields: object) -> None:
        """An event."""

    def warn(self, event: str, **fields: object) -> None:
        """A problem that may be transient, or needs attention."""


class AttachRequest(Struct, frozen=True):
    """What an ADD requests; None where `PodDefaults` decide."""

    owner: Owner
    network: str
    netns: str
    pod: KubernetesPod | None = None
    addresses: tuple[IPAddress, ...] = ()
    annotations: Mapping[str, str] = {}
    """The pod's, which may name IP pools."""
    mac: str | None = None
    mtu: int | None = None
    wiring: Wiring | None = None
    ingress: Limit | None = None
    egress: Limit | None = None
    ports: tuple[HostPort, ...] = ()


Allocate = Callable[[AttachRequest, PodOf], Awaitable[tuple[IPAddress, ...]]]
"""The addresses for a request. Raises AddressError, StateError, StoreError."""


class Attachments:
    """All methods are called on the event loop."""

    def __init__(
        self,
        defaults: PodDefaults,
        reconciler: Reconciler,
        guards: GuardTables,
        pool: AddressPool,
        records: Records,
        *,
        log: Log,
        allocate: Allocate | None = None,
        pod_of: PodOf = lambda _: None,
        hooks: Sequence[PodHook] = (),
        log_command: Callable[[str], None] | None = None,
    ) -> None:
        """`allocate` allocates from the pool; None: an address of each of its subnets."""
        self.defaults = defaults
        """Of pods attached from now on."""
        self._reconciler = reconciler
        self._guards = guards
        self._pool = pool
        self._records = records
        self._log = log
        self._pod_of = pod_of
        self._allocate = allocate or self._from_subnets
        self._hooks = hooks
        self._pod_namespaces = PodNamespaces(log_command)
        self._locks: WeakValueDictionary[Owner, asyncio.Lock] = WeakValueDictionary()
        self._declared: set[Owner] = set()
        self._withdrawn: set[Owner] = set()
        """Withdrawn and perhaps not deleted yet: a new pair of the same name must wait for that."""
        self._bridged: dict[Owner, str] = {}
        """The MACs of the bridge's pods: each must have its own, or the bridge sends one's frames to another."""
        self._healing: dict[Owner, asyncio.Task[None]] = {}

    def find(self, owner: Owner) -> Attachment | None:
        """The attachment, if its ADD succeeded."""
        return self._records.attachments.get(owner)

    @asynccontextmanager
    async def exclusively(self, owner: Owner) -> AsyncIterator[None]:
        """One operation at a time per attachment: a runtime whose ADD timed out sends a DEL right after it."""
        lock = self._locks.setdefault(owner, asyncio.Lock())
        async with lock:
            yield

    # The start

    async def restore(self) -> None:
        """Declare all recorded attachments; clean up after interrupted ADDs."""
        if self.defaults.wiring == "bridge" or any(each.wires.bridge for each in self._records.attachments.values()):
            self._declare_bridge()
        for attachment in self._records.attachments.values():
            if attachment.wires.bridge is not None:
                self._bridged[attachment.owner] = attachment.wires.mac
            if not attachment.chained:
                self._resume(attachment)
        for owner, error in self._records.damaged.items():
            self._log.warn("a pod's record is damaged", error=str(error))
            self._declare_damaged(owner)
        known = self._records.attachments.keys() | self._records.damaged.keys()
        for owner in [owner for owner in self._pool.allocations if owner not in known]:
            self._log.info(
                "cleaning up after an ADD that was cut short", container=owner.container, ifname=owner.ifname
            )
            try:
                await self.detach(owner)
            except StateError as error:  # a full disk, say: its DEL will retry
                self._log.warn("cannot clean up", container=owner.container, error=str(error))

    def _resume(self, attachment: Attachment) -> None:
        if device_exists(attachment.wires.device):
            self._declare_attachment(attachment)
        elif Path(attachment.netns).exists():
            self.heal(_source(attachment.owner))
        else:
            self._log.warn("a pod's namespace is gone; its address is kept until its DEL", pod=str(attachment))

    def _declare_damaged(self, owner: Owner) -> None:
        """Declare the host side of a pod whose record is damaged, as far as the address journal knows it."""
        allocation = self._pool.allocations.get(owner)
        if allocation is None:
            return
        wires = self._wires(AttachRequest(owner, "", ""), allocation.addresses)
        if device_exists(wires.device):
            self._declare(owner, host_objects(wires), guard_elements(wires))

    # ADD

    async def attach(self, request: AttachRequest, namespace: int) -> Attachment:
        """Attach the pod whose namespace is open at the descriptor. Raises AddressError, KernelError, StateError, StoreError."""
        self._withdraw(request.owner)
        if request.owner in self._withdrawn:
            await self._wait_applied(request.owner)
        bridged = (request.wiring or self.defaults.wiring) == "bridge"  # whose network is the node's subnet
        allocate = self._from_subnets if bridged else self._allocate
        addresses = await allocate(request, self._pod_of_other_than(request.pod))
        wires = self._wires(request, addresses)
        attachment = Attachment(
            request.owner,
            request.network,
            request.netns,
            wires,
            request.pod,
            ports=request.ports,
            namespace=namespace_id(namespace),
        )
        try:
            self._claim_mac(wires)
            await self._before_add(attachment)
            await self._wire(attachment, namespace)
            self._records.put(attachment)
        except PercaleError:
            self._after_del(attachment)
            with suppress(PercaleError):  # report the first error; the DEL cleans up the rest
                await self.detach(request.owner)
            raise
        return attachment

    async def _from_subnets(self, request: AttachRequest, pod_of: PodOf) -> tuple[IPAddress, ...]:
        pod = str(request.pod) if request.pod else None
        return self._pool.allocate(request.owner, pod=pod, wanted=request.addresses, pod_of=pod_of)

    def _pod_of_other_than(self, pod: KubernetesPod | None) -> PodOf:
        """A pod whose sandbox is new may have an address of its last one."""
        own = pod.key if pod is not None else None

        def another(address: IPAddress) -> object | None:
            found = self._pod_of(address)
            return found if found != own else None

        return another

    def _claim_mac(self, wires: PodWires) -> None:
        """Raises AddressRefused: a tenant may choose its pod's MAC (capability `mac`), but not a neighbour's."""
        if wires.bridge is None:
            return
        if wires.mac == bridge_mac(self.defaults) or wires.mac in self._bridged.values():
            raise AddressRefused(f"MAC {wires.mac} is in use on bridge {wires.bridge}", hint="choose another, or none")
        self._bridged[Owner(wires.container, wires.ifname)] = wires.mac

    async def register(self, attachment: Attachment) -> None:
        """Another plugin of the chain wired the pod. Raises StateError, StoreError, KernelError."""
        try:
            await self._before_add(attachment)
            self._records.put(attachment)
        except PercaleError:
            self._after_del(attachment)
            raise

    async def _before_add(self, attachment: Attachment) -> None:
        for hook in self._hooks:
            await hook.before_add(attachment)

    def _after_del(self, attachment: Attachment) -> None:
        for hook in self._hooks:
            hook.after_del(attachment)

    def _wires(self, request: AttachRequest, addresses: Iterable[IPAddress]) -> PodWires:
        wiring = request.wiring or self.defaults.wiring
        return PodWires(
            container=request.owner.container,
            ifname=request.owner.ifname,
            mac=request.mac or pod_mac(*request.owner),
            mtu=request.mtu or self.defaults.mtu,
            addresses=tuple(pod_interface(self.defaults, address, wiring) for address in addresses),
            bridge=self.defaults.bridge if wiring == "bridge" else None,
            ingress=request.ingress,
            egress=request.egress,
        )

    async def _wire(self, attachment: Attachment, namespace: int) -> None:
        owner, wires = attachment.owner, attachment.wires
        if wires.bridge is not None:
            self._declare_bridge()
        self._declare_attachment(attachment, namespace)
        try:
            await self._wait_applied(owner)
        finally:
            # From here on declare it without the descriptor, whose number may soon be another file's.
            self._declare_attachment(attachment)
        objects = pod_objects(wires)
        await self._pod_namespaces.apply(namespace, attachment.netns, objects, wires.device, wires.bridge)

    async def _wait_applied(self, owner: Owner) -> None:
        """Wait until its objects are applied, and so all earlier withdrawals. Raises KernelError."""
        leaving = tuple(self._withdrawn)
        await self._guards.wait_applied(_source(owner))
        await self._reconciler.wait_applied(_source(owner))
        self._withdrawn.difference_update(leaving)

    def _declare_attachment(self, attachment: Attachment, namespace: int | None = None) -> None:
        self._declare(attachment.owner, _host_objects(attachment, namespace), guard_elements(attachment.wires))

    def _declare(self, owner: Owner, objects: tuple[KernelObject, ...], guards: tuple[Element, ...] = ()) -> None:
        self._reconciler.declare(_source(owner), objects)
        self._guards.declare(_source(owner), guards)
        self._declared.add(owner)

    def _declare_bridge(self) -> None:
        self._reconciler.declare(f"bridge/{self.defaults.bridge}", bridge_objects(self.defaults))

    # DEL

    async def detach(self, owner: Owner) -> None:
        """Remove everything of it; that there is nothing is no error. Raises StateError.

        The pair is deleted in the reconciler's next batch: the kernel takes 20 ms for it (an RCU grace period), and the
        runtime, which removes the namespace next, need not wait for that.
        """
        self._withdraw(owner)
        if (attachment := self.find(owner)) is not None:
            self._after_del(attachment)
        if owner in self._records.attachments or owner in self._records.damaged:
            self._records.remove(owner)
        self._pool.release(owner)

    def _withdraw(self, owner: Owner) -> None:
        """Withdraw the pair and all that depends on it."""
        self._bridged.pop(owner, None)
        if owner not in self._declared:
            device = host_device(owner.container, owner.ifname)
            if not device_exists(device):
                return
            # A stale device is not declared: it has to be declared before it can be withdrawn.
            self._declare(owner, (Link(device, Veth()),))
        self._reconciler.declare(_source(owner), ())
        self._guards.declare(_source(owner), ())
        self._declared.discard(owner)
        self._withdrawn.add(owner)

    async def keep_only(self, network: str, valid: Container[Owner]) -> list[PercaleError]:
        """Detach everything else of this network; returns the problems."""
        records = self._records
        mine = [owner for owner, attachment in records.attachments.items() if attachment.network == network]
        unrecorded = [
            owner for owner in (*records.damaged, *self._pool.allocations) if owner not in records.attachments
        ]
        problems: list[PercaleError] = []
        for owner in dict.fromkeys((*mine, *unrecorded)):
            if owner in valid or owner in self._locks:
                continue  # one that is being added or deleted right now is not stale
            async with self.exclusively(owner):
                try:
                    await self.detach(owner)
                except PercaleError as error:
                    problems.append(error)
        return problems

    # CHECK and repair

    async def check(self, attachment: Attachment, namespace: int) -> list[str]:
        """What is missing, as the commands that would create it. Raises KernelError."""
        if attachment.chained:
            return []
        await self._reconciler.wait_applied(_source(attachment.owner))
        return await self._pod_namespaces.missing(namespace, attachment.netns, pod_objects(attachment.wires))

    def heal(self, source: str) -> None:
        """Recreate a pod's pair if it is gone: the reconciler cannot, for it has no descriptor of the pod's namespace."""
        owner = _owner(source)
        if owner is None or owner in self._healing or owner not in self._records.attachments:
            return
        task = asyncio.create_task(self._heal(owner), name=f"heal {source}")
        self._healing[owner] = task
        task.add_done_callback(lambda _: self._healing.pop(owner, None))

    async def _heal(self, owner: Owner) -> None:
        async with self.exclusively(owner):
            attachment = self.find(owner)
            if attachment is None or attachment.chained or device_exists(attachment.wires.device):
                return
            try:
                namespace = os.open(attachment.netns, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if not _is_namespace_of(attachment, namespace):
                        raise StateError("is another namespace than at the pod's ADD", where=attachment.netns)
                    await self._wire(attachment, namespace)
                finally:
                    os.close(namespace)
            except (OSError, PercaleError) as error:
                self._log.warn("cannot restore a pod's devices", pod=str(attachment), error=str(error))
            else:
                self._log.info("restored a pod's devices", pod=str(attachment), device=attachment.wires.device)

    async def close(self) -> None:
        """Finish what is in progress."""
        await asyncio.gather(*self._healing.values())
        self._pod_namespaces.close()


def _is_namespace_of(attachment: Attachment, descriptor: int) -> bool:
    """Its path may lead elsewhere by now: /proc/PID/ns/net to another process's, a file's to a new pod's. Raises OSError."""
    known = attachment.namespace
    return is_foreign_namespace(descriptor) and known in (None, namespace_id(descriptor))


def _host_objects(attachment: Attachment, namespace: int | None = None) -> tuple[KernelObject, ...]:
    """The host side, and what its host ports need."""
    wires = attachment.wires
    objects = host_objects(wires, namespace)
    if any(port.is_at_loopback for port in attachment.ports) and any(each.version == 4 for each in wires.addresses):
        return (*objects, from_loopback(wires))
    return objects


def _source(owner: Owner) -> str:
    return f"{_SOURCE}{owner.container}/{owner.ifname}"


def _owner(source: str) -> Owner | None:
    if not source.startswith(_SOURCE):
        return None
    container, _, ifname = source.removeprefix(_SOURCE).rpartition("/")
    return Owner(container, ifname)


def device_exists(device: str) -> bool:
    """Whether the node has a device of this name."""
    try:
        socket.if_nametoindex(device)
    except OSError:
        return False
    return True
