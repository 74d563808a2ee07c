"""Births and deaths of pods, on all nodes of the lab: namespace, CNI, files, responder, status. Called by `controller`.

    bound pod ─▶ namespace ─▶ the node's agent is ready ─▶ CNI ADD ─▶ files, responder ─▶ status Running
                                    ▲ refused: the reason goes into the status, and again after a pause
    pod gone  ─▶ responder stops ─▶ CNI DEL ─▶ namespace deleted

What runs is known here, not by the agents: one that starts anew is not asked to add its pods again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from percale.backoff import Backoff
from percale.controllers import cluster_dns
from percale.kernel.netns import create_namespace, delete_namespace
from percale.lab.dns.records import DOMAIN
from percale.lab.dns.service import NameService
from percale.lab.pods import cni_runtime as runtime
from percale.lab.pods.cni_runtime import RuntimeRefused, Sandbox
from percale.lab.pods.responder import Identity, Port, Responder
from percale.lab.process.bootstrap import NETNS
from percale.lab.run_dir import LabPlace, is_object_name
from percale.lab.spec.topology import Machine
from percale.model.meta import ObjectKey
from percale.model.pod import Pod

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0
"""Seconds before a refused ADD or DEL is tried again; doubled each time."""


class Nodes(Protocol):
    """What the kubelet needs to know of a node."""

    def node(self, name: str) -> Machine | None:
        """Its place in the network; None: no such node."""

    async def ready(self, name: str) -> None:
        """Wait until its agent serves pods."""


class Reports(Protocol):
    """Where a pod's state is written down."""

    async def running(self, pod: ObjectKey, machine: Machine, addresses: tuple[str, ...]) -> None:
        """It has these addresses and is Ready."""

    async def waiting(self, pod: ObjectKey, reason: str) -> None:
        """It cannot run yet, because of this."""


@dataclass(slots=True)
class _Life:
    """One pod on its node, from birth to death."""

    pod: Pod
    namespace: Path
    sandbox: Sandbox | None
    """None: the pod is on its node's own network."""
    task: asyncio.Task[None] | None = None
    addresses: tuple[str, ...] = ()
    added: bool = False
    """An ADD was tried: a DEL is due."""


@dataclass(slots=True)
class Kubelet:
    """All nodes' in one; used on the controller's event loop."""

    place: LabPlace
    nodes: Nodes
    responder: Responder
    names: NameService
    reports: Reports
    log: Callable[[str], None]
    _lives: dict[ObjectKey, _Life] = field(default_factory=dict)
    _deaths: dict[ObjectKey, asyncio.Task[None]] = field(default_factory=dict)
    _name_servers: tuple[str, ...] = ()

    def sync(self, pods: Iterable[Pod]) -> None:
        """These are all pods that have a node of the cluster: they live there, and no others."""
        bound = {pod.key: pod for pod in pods if self.nodes.node(pod.spec.nodeName or "")}
        for key, life in list(self._lives.items()):
            pod = bound.get(key)
            if pod is None or _identity(pod) != _identity(life.pod):
                del self._lives[key]
                self._deaths[key] = asyncio.create_task(self._end(key, life), name=life.pod.spec.nodeName)
        for key, pod in bound.items():
            if key not in self._lives and _is_safe(key):
                life = self._lives[key] = self._conceive(pod)
                life.task = asyncio.create_task(self._live(key, life))

    def resolve_by(self, servers: tuple[str, ...]) -> None:
        """Pods ask these for names, those that run already too."""
        if servers != self._name_servers:
            self._name_servers = servers
            for life in self._lives.values():
                if life.addresses:
                    self._write_resolver(life)

    async def idle(self, node: str) -> None:
        """Wait until no pod is dying on this node."""
        await asyncio.gather(*(task for task in self._deaths.values() if task.get_name() == node))

    def namespace(self, pod: ObjectKey) -> Path | None:
        """Where the pod's network is, once it is there."""
        life = self._lives.get(pod)
        return life.namespace if life is not None and life.addresses else None

    def _conceive(self, pod: Pod) -> _Life:
        node = pod.spec.nodeName or ""
        if pod.spec.hostNetwork:
            return _Life(pod, NETNS / node, None)
        path = NETNS / namespace_name(pod.key)
        sandbox = Sandbox(pod.key, pod.metadata.uid or "", path, self.place.node(node), pod.spec.host_ports)
        return _Life(pod, path, sandbox)

    async def _live(self, key: ObjectKey, life: _Life) -> None:
        """Try until the pod runs; every step may be taken again."""
        earlier = self._deaths.get(key)
        if earlier is not None:
            await earlier
        await self._patiently(f"{key} on {life.pod.spec.nodeName}", lambda: self._begin(key, life))

    async def _begin(self, key: ObjectKey, life: _Life) -> None:
        node = life.pod.spec.nodeName or ""
        machine = self.nodes.node(node)
        assert machine is not None
        try:
            if life.sandbox is None:
                await self.nodes.ready(node)
                life.addresses = (str(machine.address.ip), str(machine.address6.ip))
            else:
                await asyncio.to_thread(_ensure_namespace, life.namespace)
                await self.nodes.ready(node)
                life.added = True
                life.addresses = await runtime.add(life.sandbox)
            self._write_files(life)
            await self._answer(life)
        except (RuntimeRefused, OSError) as error:
            await self.reports.waiting(key, str(error))
            raise
        await self.reports.running(key, machine, life.addresses)

    async def _answer(self, life: _Life) -> None:
        if life.pod.key == cluster_dns.POD:
            await self.names.serve(life.namespace)
            return
        ports = {
            Port(port.containerPort, port.protocol)
            for container in life.pod.spec.containers
            for port in container.ports
            if port.protocol in ("TCP", "UDP")
        }
        if ports:
            who = Identity("pod", str(life.pod.key), life.pod.spec.nodeName, life.addresses)
            self.responder.stop(who.name)
            await self.responder.serve(who, life.namespace, ports)

    async def _end(self, key: ObjectKey, life: _Life) -> None:
        if life.task is not None and not life.task.done():
            life.task.cancel()
            with suppress(asyncio.CancelledError):
                await life.task
        self.responder.stop(str(key))
        if key == cluster_dns.POD:
            self.names.stop()
        sandbox = life.sandbox
        if sandbox is not None:
            if life.added:
                await self._patiently(f"{key} leaving", lambda: self._delete(sandbox))
            await asyncio.to_thread(delete_namespace, life.namespace)
        if self._deaths.get(key) is asyncio.current_task():
            del self._deaths[key]

    async def _delete(self, sandbox: Sandbox) -> None:
        if self.nodes.node(sandbox.node.name) is not None:  # else nobody is there to be asked
            await runtime.delete(sandbox)

    async def _patiently(self, what: str, attempt: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                return await attempt()
            except (RuntimeRefused, OSError) as error:
                pause = backoff.next()
                self.log(f"pod {what}: {error}; trying again in {pause:.1f} s")
            await asyncio.sleep(pause)

    def _write_files(self, life: _Life) -> None:
        """What the pod finds as its own /etc/hosts and /etc/resolv.conf."""
        self._files(life).mkdir(parents=True, exist_ok=True)
        hosts = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
        pod = life.pod
        names = pod.host_name
        if pod.spec.subdomain:
            names = f"{names}.{pod.spec.subdomain}.{pod.metadata.namespace or 'default'}.svc.{DOMAIN}\t{names}"
        hosts += [f"{address}\t{names}" for address in life.addresses]
        (self._files(life) / "hosts").write_text("\n".join(hosts) + "\n")
        self._write_resolver(life)

    def _write_resolver(self, life: _Life) -> None:
        """In its place, for programs may have it mounted."""
        namespace = life.pod.metadata.namespace or "default"
        lines = [f"nameserver {server}" for server in self._name_servers[:1]]
        lines += [f"search {namespace}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}", "options ndots:5"]
        (self._files(life) / "resolv.conf").write_text("\n".join(lines) + "\n")

    def _files(self, life: _Life) -> Path:
        return self.place.pod(life.pod.metadata.namespace or "default", life.pod.metadata.name)


def namespace_name(pod: ObjectKey) -> str:
    """`NAMESPACE.POD` as `ip netns` shows it; no node's name has a dot. A very long one is shortened."""
    name = f"{pod.namespace}.{pod.name}"
    return name if len(name) <= 200 else f"{name[:190]}-{sha256(name.encode()).hexdigest()[:8]}"


def _is_safe(pod: ObjectKey) -> bool:
    """Its names may be parts of paths: anybody who writes to the store chooses them."""
    return all(is_object_name(part or "") for part in pod)


def _identity(pod: Pod) -> tuple[str | None, str | None]:
    """Another pod of the same name, or the same one on another node, is a new life."""
    return (pod.metadata.uid, pod.spec.nodeName)


def _ensure_namespace(path: Path) -> None:
    with suppress(FileExistsError):
        create_namespace(path)
