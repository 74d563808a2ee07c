"""Starts and stops pods on all nodes of the lab: namespace, CNI, files, responder, status. Called by `cluster`.

    bound pod ─▶ namespace ─▶ the node's agent is ready ─▶ CNI ADD ─▶ files, responder ─▶ status Running
                                    ▲ failed: the reason goes into the status, retried with backoff
    pod gone  ─▶ responder stops ─▶ CNI DEL ─▶ namespace deleted

Running pods are recorded here: a restarted agent gets no second ADD.
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
from percale.lab.pods import cni_runtime
from percale.lab.pods.cni_runtime import CniFailed, Sandbox
from percale.lab.pods.image_ports import served_ports
from percale.lab.pods.responder import Identity, Responder
from percale.lab.process.bootstrap import NETNS
from percale.lab.process.nsenter import ExecTarget
from percale.lab.run_dir import LabDir
from percale.lab.spec.topology import Machine
from percale.model.meta import ObjectKey
from percale.model.pod import Pod
from percale.model.validation.formats import is_object_name

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0
"""Seconds before a failed ADD or DEL is retried; doubled each time."""


class Nodes(Protocol):
    """What the kubelet needs to know of a node."""

    def node(self, name: str) -> Machine | None:
        """The node's machine; None: no such node."""

    async def wait_ready(self, name: str) -> None:
        """Wait until its agent serves pods."""


class StatusWriter(Protocol):
    """Writes a pod's status."""

    async def report_running(self, pod: Pod, machine: Machine, addresses: tuple[str, ...]) -> None:
        """The pod has these addresses and is Ready."""

    async def report_waiting(self, pod: Pod, reason: str) -> None:
        """The pod cannot run yet, for this reason."""


@dataclass(slots=True)
class _PodState:
    """One pod on its node."""

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
    """Of all nodes; used on the controller's event loop."""

    lab_dir: LabDir
    nodes: Nodes
    responder: Responder
    names: NameService
    status_writer: StatusWriter
    log: Callable[[str], None]
    _pods: dict[ObjectKey, _PodState] = field(default_factory=dict)
    _removals: dict[ObjectKey, asyncio.Task[None]] = field(default_factory=dict)
    _name_servers: tuple[str, ...] = ()

    def sync(self, pods: Iterable[Pod]) -> None:
        """Run exactly these pods, which are all that are bound to nodes of the cluster."""
        bound = {pod.key: pod for pod in pods if self.nodes.node(pod.spec.nodeName or "")}
        for key, state in list(self._pods.items()):
            pod = bound.get(key)
            if pod is None or _identity(pod) != _identity(state.pod):
                del self._pods[key]
                self._removals[key] = asyncio.create_task(self._stop(key, state), name=state.pod.spec.nodeName)
        for key, pod in bound.items():
            if key not in self._pods and _is_safe(key):
                state = self._pods[key] = self._prepare(pod)
                state.task = asyncio.create_task(self._run(key, state))

    def set_name_servers(self, servers: tuple[str, ...]) -> None:
        """Set the name servers of all pods, running ones included."""
        if servers != self._name_servers:
            self._name_servers = servers
            for state in self._pods.values():
                if state.addresses:
                    self._write_resolver(state)

    async def wait_removed(self, node: str) -> None:
        """Wait until no pod is being removed from this node."""
        await asyncio.gather(*(task for task in self._removals.values() if task.get_name() == node))

    def namespace(self, pod: ObjectKey) -> Path | None:
        """The pod's network namespace; None until it has its addresses."""
        state = self._pods.get(pod)
        return state.namespace if state is not None and state.addresses else None

    def exec_target(self, pod: ObjectKey) -> ExecTarget | None:
        """Where the pod's programs run; None until it has its addresses."""
        state = self._pods.get(pod)
        if state is None or not state.addresses:
            return None
        names = ("hosts",) if state.pod.spec.hostNetwork else ("hosts", "resolv.conf")
        binds = {f"/etc/{name}": str(self._files(state) / name) for name in names}
        return ExecTarget(str(state.namespace), state.pod.host_name, binds)

    def _prepare(self, pod: Pod) -> _PodState:
        node = pod.spec.nodeName or ""
        if pod.spec.hostNetwork:
            return _PodState(pod, NETNS / node, None)
        path = NETNS / namespace_name(pod.key)
        sandbox = Sandbox(pod.key, pod.metadata.uid or "", path, self.lab_dir.node(node), pod.spec.host_ports)
        return _PodState(pod, path, sandbox)

    async def _run(self, key: ObjectKey, state: _PodState) -> None:
        """Retry until the pod runs; every step can be repeated."""
        earlier = self._removals.get(key)
        if earlier is not None:
            await earlier
        await self._retry(f"{key} on {state.pod.spec.nodeName}", lambda: self._start(key, state))

    async def _start(self, key: ObjectKey, state: _PodState) -> None:
        node = state.pod.spec.nodeName or ""
        machine = self.nodes.node(node)
        assert machine is not None
        try:
            if state.sandbox is None:
                await self.nodes.wait_ready(node)
                state.addresses = (str(machine.address.ip), str(machine.address6.ip))
            else:
                await asyncio.to_thread(_ensure_namespace, state.namespace)
                await self.nodes.wait_ready(node)
                state.added = True
                state.addresses = await cni_runtime.add(state.sandbox)
            self._write_files(state)
            await self._open_ports(state)
        except (CniFailed, OSError) as error:
            await self.status_writer.report_waiting(state.pod, str(error))
            raise
        await self.status_writer.report_running(state.pod, machine, state.addresses)

    async def _open_ports(self, state: _PodState) -> None:
        if state.pod.key == cluster_dns.POD:
            await self.names.serve(state.namespace)
            return
        ports = served_ports(state.pod)
        if ports:
            identity = Identity("pod", str(state.pod.key), state.pod.spec.nodeName, state.addresses)
            self.responder.stop(identity.name)
            await self.responder.serve(identity, state.namespace, ports)

    async def _stop(self, key: ObjectKey, state: _PodState) -> None:
        if state.task is not None and not state.task.done():
            state.task.cancel()
            with suppress(asyncio.CancelledError):
                await state.task
        self.responder.stop(str(key))
        if key == cluster_dns.POD:
            self.names.stop()
        sandbox = state.sandbox
        if sandbox is not None:
            if state.added:
                await self._retry(f"{key} leaving", lambda: self._delete(sandbox))
            await asyncio.to_thread(delete_namespace, state.namespace)
        if self._removals.get(key) is asyncio.current_task():
            del self._removals[key]

    async def _delete(self, sandbox: Sandbox) -> None:
        if self.nodes.node(sandbox.node.name) is not None:  # else the node's agent is gone
            await cni_runtime.delete(sandbox)

    async def _retry(self, what: str, attempt: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                return await attempt()
            except (CniFailed, OSError) as error:
                pause = backoff.next()
                self.log(f"pod {what}: {error}; trying again in {pause:.1f} s")
            await asyncio.sleep(pause)

    def _write_files(self, state: _PodState) -> None:
        """Write the pod's /etc/hosts and /etc/resolv.conf."""
        self._files(state).mkdir(parents=True, exist_ok=True)
        hosts = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
        pod = state.pod
        names = pod.host_name
        if pod.spec.subdomain:
            names = f"{names}.{pod.spec.subdomain}.{pod.metadata.namespace or 'default'}.svc.{DOMAIN}\t{names}"
        hosts += [f"{address}\t{names}" for address in state.addresses]
        (self._files(state) / "hosts").write_text("\n".join(hosts) + "\n")
        self._write_resolver(state)

    def _write_resolver(self, state: _PodState) -> None:
        """Rewritten in place: programs may have it mounted."""
        namespace = state.pod.metadata.namespace or "default"
        lines = [f"nameserver {server}" for server in self._name_servers[:1]]
        lines += [f"search {namespace}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}", "options ndots:5"]
        (self._files(state) / "resolv.conf").write_text("\n".join(lines) + "\n")

    def _files(self, state: _PodState) -> Path:
        return self.lab_dir.pod(state.pod.metadata.namespace or "default", state.pod.metadata.name)


def namespace_name(pod: ObjectKey) -> str:
    """`NAMESPACE.POD` as `ip netns` shows it; no node's name has a dot. A very long one is shortened."""
    name = f"{pod.namespace}.{pod.name}"
    return name if len(name) <= 200 else f"{name[:190]}-{sha256(name.encode()).hexdigest()[:8]}"


def _is_safe(pod: ObjectKey) -> bool:
    """Whether its names may be parts of paths: anyone who writes to the store chooses them."""
    return all(is_object_name(part or "") for part in pod)


def _identity(pod: Pod) -> tuple[str | None, str | None]:
    """Differs for another pod of the same name, and for one on another node."""
    return (pod.metadata.uid, pod.spec.nodeName)


def _ensure_namespace(path: Path) -> None:
    with suppress(FileExistsError):
        create_namespace(path)
