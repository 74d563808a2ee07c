"""The kubelets' own API, for `kubectl logs`, `exec`, `attach` and `port-forward`. Started by `control_plane` on each node.

kubectl ─▶ kube-apiserver ─ client certificate ─▶ NODE:10250 ─┬─ logs: what the responder has answered
                                                             ├─ exec, attach: container_streams.py
                                                             └─ port-forward: port_forward.py
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from percale.lab.kubernetes import container_streams, port_forward
from percale.lab.kubernetes.container_streams import Streams, run_streams
from percale.lab.kubernetes.credentials import KUBELET, Credentials
from percale.lab.kubernetes.manifests import KUBELET_PORT
from percale.lab.kubernetes.port_forward import forward_ports
from percale.lab.pods.kubelet import Kubelet
from percale.lab.pods.responder import Responder
from percale.lab.process.bootstrap import NETNS
from percale.lab.process.netns_visit import visit_async
from percale.lab.process.nsenter import ExecTarget
from percale.lab.spec.topology import Machine
from percale.model.meta import ObjectKey
from percale.model.pod import Pod
from percale.store.object_cache import ObjectCache

_PATIENCE = 20.0
"""Seconds without a new line, after which a follower's connection is looked at."""
_SHELL = ("/bin/sh",)
"""What a container without a command is taken to run, for `attach`."""


class KubeletServer:
    """Of all nodes; used on the controller's event loop."""

    def __init__(self, files: Credentials, cache: ObjectCache, kubelet: Kubelet, responder: Responder) -> None:
        self._cache = cache
        self._kubelet = kubelet
        self._responder = responder
        self._tls = _server_context(files)
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        for method in ("GET", "POST"):
            app.router.add_route(method, "/exec/{namespace}/{pod}/{container}", self._exec)
            app.router.add_route(method, "/attach/{namespace}/{pod}/{container}", self._attach)
            app.router.add_route(method, "/portForward/{namespace}/{pod}", self._port_forward)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        self._started = False

    async def serve(self, machine: Machine) -> None:
        """Listen on a node, whose namespace is there. Raises OSError."""
        if not self._started:
            self._started = True
            await self._runner.setup()
        addresses = (str(machine.address.ip), str(machine.address6.ip))
        sockets = await visit_async(NETNS / machine.name, lambda: [_bind(address) for address in addresses])
        for each in sockets:
            await web.SockSite(self._runner, each, ssl_context=self._tls).start()

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        pod = self._pod(request)
        log = self._responder.logs.get(str(pod.key))
        response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
        await response.prepare(request)
        if log is None:  # nothing answers for it
            return response
        lines, count = log.after(0), log.count
        tail = request.query.get("tailLines", "")
        if tail.isdecimal():
            lines = lines[max(0, len(lines) - int(tail)) :]
        with suppress(ConnectionError):  # the client has seen enough
            await response.write("".join(f"{line}\n" for line in lines).encode())
            while request.query.get("follow") == "true" and self._responder.logs.get(str(pod.key)) is log:
                await log.wait_beyond(count, _PATIENCE)
                lines, count = log.after(count), log.count
                await response.write("".join(f"{line}\n" for line in lines).encode())
        return response

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        return await self._run(request, request.query.getall("command", []))

    async def _attach(self, request: web.Request) -> web.StreamResponse:
        """A container has no process of its own: its command is started for whoever attaches."""
        name = request.match_info["container"]
        container = next((each for each in self._pod(request).spec.containers if each.name == name), None)
        command = (*container.command, *container.args) if container is not None else ()
        return await self._run(request, command or _SHELL)

    async def _run(self, request: web.Request, command: list[str] | tuple[str, ...]) -> web.StreamResponse:
        target = self._target(request)
        client = await _websocket(request, container_streams.PROTOCOL)
        await run_streams(client, target, command, Streams.of(request.query))
        await client.close()
        return client

    async def _port_forward(self, request: web.Request) -> web.StreamResponse:
        target = self._target(request)
        client = await _websocket(request, port_forward.PROTOCOL)
        await forward_ports(client, Path(target.namespace))
        await client.close()
        return client

    def _target(self, request: web.Request) -> ExecTarget:
        """Raises HTTPNotFound, HTTPForbidden."""
        target = self._kubelet.exec_target(self._pod(request).key)
        if target is None:
            raise web.HTTPNotFound(text="the pod has no network yet")
        return target

    def _pod(self, request: web.Request) -> Pod:
        """Raises HTTPNotFound; HTTPForbidden for who is not the API server."""
        _require_master(request)
        key = ObjectKey(request.match_info["namespace"], request.match_info["pod"])
        pod = self._cache.get(Pod, key)
        if pod is None:
            raise web.HTTPNotFound(text=f"there is no pod {key}")
        return pod


async def _websocket(request: web.Request, protocol: str) -> web.WebSocketResponse:
    """Raises HTTPBadRequest."""
    if protocol not in request.headers.get("Sec-WebSocket-Protocol", ""):
        text = f"a lab takes WebSockets ({protocol}) alone: use kubectl 1.31 and Kubernetes 1.36 or newer"
        raise web.HTTPBadRequest(text=text)
    client = web.WebSocketResponse(protocols=(protocol,), max_msg_size=0)
    await client.prepare(request)
    return client


def _server_context(files: Credentials) -> ssl.SSLContext:
    """Only clients of the lab's own authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate(KUBELET), files.key(KUBELET))
    context.load_verify_locations(files.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _require_master(request: web.Request) -> None:
    """Agents have certificates of the same authority."""
    transport = request.transport
    certificate = transport.get_extra_info("peercert") if transport is not None else None
    names = [pair for part in (certificate or {}).get("subject", ()) for pair in part]
    if ("organizationName", "system:masters") not in names:
        raise web.HTTPForbidden(text="only the API server may ask")


def _bind(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    endpoint = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    endpoint.bind((address, KUBELET_PORT))
    return endpoint
