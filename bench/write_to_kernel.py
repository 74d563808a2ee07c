"""From a write at a real kube-apiserver to the kernel of another node: an endpoint, a policy, a pod's address.

write ─▶ kube-apiserver ─┬─▶ agent ─▶ nftables: its notification of the commit
                         └─▶ a bare watch: what comes after it is the agent's own time
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import agents, api_server, api_world, service_world
from bench.cni import execute
from bench.rows import Row, at_most, run
from percale.kernel.netns import create_namespace, delete_namespace

SERVICES, ENDPOINTS = 200, 5
WRITES = 30
_MILLISECONDS, _OWN = 30.0, 5.0
_QUIET, _PATIENCE = 0.05, 20.0
_NETFILTER, _SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES = 12, 270, 1, 7
"""linux/netlink.h, linux/netfilter/nfnetlink.h: NETLINK_NETFILTER, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES."""
_SPACE = "bench"
_NETNS = Path("/run/netns/web")
_POLICIES = f"/apis/networking.k8s.io/v1/namespaces/{_SPACE}/networkpolicies"
_PODS = f"/api/v1/namespaces/{_SPACE}/pods"

Write = Callable[[int], object]
"""With the number of the sample, so that each writes something else."""


def _objects() -> Iterator[tuple[str, dict[str, Any]]]:
    yield from api_world.registry(SERVICES, ENDPOINTS)
    yield api_world.namespace(_SPACE)


def _pod(name: str, node: str) -> dict[str, Any]:
    spec = {"nodeName": node, "containers": [{"name": "main", "image": "main"}]}
    return {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def _policy(name: str, **peer: Any) -> dict[str, Any]:
    spec = {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [peer]}]}
    return {"metadata": {"name": name}, "spec": spec}


class _Times:
    """When something came, from a thread of its own."""

    def __init__(self, receive: Callable[[], object]) -> None:
        self._found: queue.SimpleQueue[float] = queue.SimpleQueue()
        threading.Thread(target=self._run, args=(receive,), daemon=True).start()

    def _run(self, receive: Callable[[], object]) -> None:
        with contextlib.suppress(OSError):
            while receive():
                self._found.put(time.perf_counter())

    def first(self) -> float:
        return self._found.get(timeout=_PATIENCE)

    def forget(self) -> None:
        """What has come from earlier writes."""
        time.sleep(_QUIET)
        while not self._found.empty():
            self._found.get()


def _samples(commits: _Times, server: api_server.ApiServer, path: str, write: Write) -> tuple[list[float], list[float]]:
    """Milliseconds from the write to the commit, and from the watch's event to it."""
    told = _Times(server.watch(path).readline)
    whole, own = [], []
    for number in range(WRITES):
        told.forget()
        commits.forget()
        start = time.perf_counter()
        write(number)
        event, commit = told.first(), commits.first()
        whole.append((commit - start) * 1000)
        own.append((commit - event) * 1000)
    return whole, own


def _writes(server: api_server.ApiServer) -> Iterator[tuple[str, str, Write]]:
    """Name, what is watched, and the write."""
    plain = service_world.endpoint_slice(0, []).metadata
    slices = f"/apis/discovery.k8s.io/v1/namespaces/{plain.namespace}/endpointslices"
    endpoints, client = (
        json.loads(server.request("GET", path)) for path in (f"{slices}/{plain.name}", f"{_PODS}/client")
    )
    for each in (endpoints, client):
        del each["metadata"]["resourceVersion"]  # written whatever was there

    def endpoint(number: int) -> None:
        endpoints["endpoints"][0]["addresses"] = [f"10.244.9.{number + 1}"]
        server.request("PUT", f"{slices}/{plain.name}", endpoints)

    def policy(number: int) -> None:
        if number % 2:
            server.request("DELETE", f"{_POLICIES}/changing")
        else:
            server.request("POST", _POLICIES, _policy("changing", ipBlock={"cidr": "192.0.2.0/24"}))

    def pod(number: int) -> None:
        address = f"10.244.8.{number + 1}"
        client["status"] |= {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        server.request("PUT", f"{_PODS}/client/status", client)

    yield "an endpoint", slices, endpoint
    yield "a policy", _POLICIES, policy
    yield "a pod", _PODS, pod


def _add_pod(directory: Path) -> None:
    conflist = json.loads(next((directory / "net.d").glob("*.conflist")).read_text())
    config = {"cniVersion": conflist["cniVersion"], "name": conflist["name"], **conflist["plugins"][0]}
    of_pod = f"K8S_POD_NAMESPACE={_SPACE};K8S_POD_NAME=web"
    execute(str(directory / "bin" / "percale-cni"), "ADD", "web", str(_NETNS), config, of_pod)


def measure() -> Iterator[Row]:
    """One agent, with one pod."""
    run("ip", "link", "set", "lo", "up")
    create_namespace(_NETNS)
    with (
        tempfile.TemporaryDirectory() as temporary,
        agents.interface(f"{api_world.ADDRESS}/12"),
        api_server.serving(Path(temporary), _objects()) as server,
        agents.running(
            Path(temporary),
            api_world.NODE,
            json.loads(api_server.NETWORK),
            store=f"kubernetes:{server.kubeconfig}",
            services={"cidrs": [service_world.SERVICE_CIDR], "healthz": None},
            cni={"binDir": f"{temporary}/bin"},
        ),
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as events,
    ):
        for name, node in (("web", api_world.NODE), ("client", "other")):
            server.request("POST", _PODS, _pod(name, node))
        server.request("POST", _POLICIES, _policy("lasting", podSelector={"matchLabels": {"app": "client"}}))
        _add_pod(Path(temporary))
        events.bind((0, 0))
        events.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES)
        commits = _Times(lambda: events.recv(1 << 16))
        for what, watched, write in _writes(server):
            whole, own = _samples(commits, server, watched, write)
            yield at_most(f"API write to another node's kernel, {what}", "ms", whole, _MILLISECONDS)
            yield at_most("the same, ours of it", "ms", own, _OWN)
    delete_namespace(_NETNS)
