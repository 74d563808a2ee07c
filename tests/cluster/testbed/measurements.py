"""What a testbed's network takes: from changes to their effect, for packets, and of the nodes.

The same for Percale and for others (`groups.py`: measured), one after the other on one machine. Sockets are opened here, in the
pods' network namespaces; the pods themselves only pause.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from tests.cluster.testbed import agents
from tests.cluster.testbed.api import Api, api
from tests.cluster.testbed.control_plane import kubectl
from tests.cluster.testbed.images import PAUSE
from tests.cluster.testbed.layout import Layout, Node
from tests.cluster.testbed.processes import pid_of, say
from tests.cluster.testbed.traffic import Pod, find_pod
from tests.waiting import until

_NAMESPACE = "measured"
_API = f"/api/v1/namespaces/{_NAMESPACE}"
_SLICE = f"/apis/discovery.k8s.io/v1/namespaces/{_NAMESPACE}/endpointslices"
_POLICIES = f"/apis/networking.k8s.io/v1/namespaces/{_NAMESPACE}/networkpolicies"
_ECHO, _IPERF = 7007, 5201
_AT_ONCE, _STARTS = 30, 3
_CHANGES, _CONNECTIONS = 10, 300
_REST = 1.5
"""Seconds between changes: kube-proxy writes once a second at most."""
_SECONDS = 4
"""Of each stream."""
_EVERY = 0.001
"""Seconds between datagrams of which the first answer is awaited."""
_UNANSWERED = 0.05
"""Seconds until a probe is not answered."""
_IN_A_ROW = 3
"""Unanswered probes: one may be late on a busy machine."""


@dataclass(frozen=True)
class Measurement:
    what: str
    unit: str
    value: float
    more_is_better: bool = False


def measure(layout: Layout) -> list[Measurement]:
    """In a testbed that is up, its nodes idle."""
    found: list[Measurement] = []
    with _pods(layout) as (client, server), api(layout) as requests:
        for part in (_packets, _services, _policies):
            say(part.__name__.strip("_"))
            found += part(requests, client, server)
        say("pods")
        found += _starts(layout, requests, layout.nodes[0])
    kubectl(layout, "delete", "namespace", _NAMESPACE, seconds=120)
    processes = agents.network_processes(layout)
    return [
        *found,
        Measurement("CPU time of the network's processes, all nodes", "s", sum(each.cpu_seconds for each in processes)),
        Measurement(
            "resident memory of the network's processes, all nodes",
            "MiB",
            sum(each.resident_bytes for each in processes) / (1 << 20),
        ),
    ]


@contextmanager
def _pods(layout: Layout) -> Iterator[tuple[Pod, Pod]]:
    """A client on the first node, and a server on the second, with its Service."""
    near, far = layout.nodes[:2]
    kubectl(layout, "apply", "-f", "-", stdin=_manifest(near, far))
    kubectl(layout, "wait", f"-n={_NAMESPACE}", "pods", "--all", "--for=condition=Ready", "--timeout=120s", seconds=130)
    with ExitStack() as opened:
        client, server = (
            find_pod(layout, node, _NAMESPACE, name, opened) for node, name in ((near, "client"), (far, "server"))
        )
        over = threading.Event()
        threads = [
            threading.Thread(target=target, args=(opened.enter_context(server.open(kind)), server.address, over))
            for target, kind in ((_echo_connections, socket.SOCK_STREAM), (_echo_datagrams, socket.SOCK_DGRAM))
        ]
        for thread in threads:
            thread.start()
        try:
            yield client, server
        finally:
            over.set()
            for thread in threads:
                thread.join()


def _echo_connections(listener: socket.socket, address: str, over: threading.Event) -> None:
    listener.bind((address, _ECHO))
    listener.listen(64)
    listener.settimeout(0.2)
    while not over.is_set():
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        with connection:
            connection.settimeout(1)
            try:
                connection.sendall(connection.recv(1))
            except OSError:  # the client is gone
                continue


def _echo_datagrams(datagrams: socket.socket, address: str, over: threading.Event) -> None:
    datagrams.bind((address, _ECHO))
    datagrams.settimeout(0.2)
    while not over.is_set():
        try:
            data, peer = datagrams.recvfrom(1)
        except TimeoutError:
            continue
        datagrams.sendto(data, peer)


def _packets(requests: Api, client: Pod, server: Pod) -> Iterator[Measurement]:
    """Of connections between pods of two nodes."""
    vip = _vip(requests)
    _set_endpoint(requests, server)
    until(lambda: _connects(client, vip), "the Service is reached")
    for where, address in (("pod to pod", server.address), ("pod to Service", vip)):
        seconds = [_timed(lambda address=address: _exchange(client, address)) for _ in range(_CONNECTIONS)]  # type: ignore[misc]
        yield Measurement(f"new connection to its first answer, {where}", "µs", statistics.median(seconds) * 1e6)
    command = ["iperf3", "--server", "--bind", server.address, f"--port={_IPERF}"]
    serving = server.thread.run(lambda: subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    try:
        for where, address in (("pod to pod", server.address), ("pod to Service", vip)):
            yield Measurement(f"one TCP stream, {where}", "Gbit/s", _stream(client, address), more_is_better=True)
    finally:
        serving.terminate()
        serving.wait()


def _stream(client: Pod, address: str) -> float:
    command = ["iperf3", f"--client={address}", f"--port={_IPERF}", f"--time={_SECONDS}", "--json"]

    def run() -> str:
        return client.thread.run(lambda: subprocess.run(command, capture_output=True, text=True, check=False)).stdout

    document = until(lambda: (got := json.loads(run() or "{}")) and "sum_received" in got.get("end", {}) and got)
    return float(document["end"]["sum_received"]["bits_per_second"]) / 1e9


def _services(requests: Api, client: Pod, server: Pod) -> Iterator[Measurement]:
    """From the write of a slice until a datagram to the Service is answered: not all refused connections are told at once."""
    vip, reached = _vip(requests), []
    for _ in range(_CHANGES):
        _set_endpoint(requests, None)
        until(lambda: not _is_echoed(client, vip), "the Service has no endpoint")
        time.sleep(_REST)
        begin = time.monotonic()
        _set_endpoint(requests, server)
        _await_echo(client, vip)
        reached.append(time.monotonic() - begin)
        time.sleep(_REST)
    yield Measurement("endpoint written to Service reached", "ms", statistics.median(reached) * 1000)


def _policies(requests: Api, client: Pod, server: Pod) -> Iterator[Measurement]:
    """From the write of a policy until new flows are dropped, and from its deletion until they pass."""
    denied, allowed = [], []
    for number in range(_CHANGES):
        begin = time.monotonic()
        requests.request("POST", _POLICIES, _policy(f"deny-{number}"))
        denied.append(_first_unanswered(client, server.address) - begin)
        time.sleep(_REST)
        begin = time.monotonic()
        requests.request("DELETE", f"{_POLICIES}/deny-{number}")
        _await_echo(client, server.address)
        allowed.append(time.monotonic() - begin)
        time.sleep(_REST)
    yield Measurement("policy written to new flows dropped", "ms", statistics.median(denied) * 1000)
    yield Measurement("policy deleted to new flows passed", "ms", statistics.median(allowed) * 1000)


def _starts(layout: Layout, requests: Api, node: Node) -> Iterator[Measurement]:
    """From each pod's creation to the event that it is Ready."""
    seconds: list[float] = []
    before = len(_namespaces(layout, node))
    for turn in range(_STARTS):
        names = [f"start-{turn}-{number}" for number in range(_AT_ONCE)]
        created: dict[str, float] = {}
        with api(layout) as watching, ThreadPoolExecutor(1) as pool:
            ready = pool.submit(_ready, watching, frozenset(names))
            for name in names:
                created[name] = time.monotonic()
                requests.request("POST", f"{_API}/pods", _pod(name, node))
            seconds += [at - created[name] for name, at in ready.result().items()]
        for name in names:
            requests.request("DELETE", f"{_API}/pods/{name}")
        until(lambda: len(_namespaces(layout, node)) == before, "the pods' namespaces are gone", patience=120)
    title = f"pod created to Ready, {_AT_ONCE} pods on a node at once"
    yield Measurement(f"{title}, p50", "s", statistics.median(seconds))
    yield Measurement(f"{title}, p99", "s", sorted(seconds)[ceil(len(seconds) * 0.99) - 1])


def _ready(watching: Api, names: frozenset[str]) -> dict[str, float]:
    """When each was."""
    found: dict[str, float] = {}
    for event in watching.watch(f"{_API}/pods"):
        name = event["object"]["metadata"]["name"]
        conditions = event["object"].get("status", {}).get("conditions", ())
        if name in names and any(each["type"] == "Ready" and each["status"] == "True" for each in conditions):
            found.setdefault(name, time.monotonic())
        if found.keys() == names:
            break
    return found


def _namespaces(layout: Layout, node: Node) -> list[Path]:
    return [*Path(f"/proc/{pid_of(layout, node.name)}/root/run/netns").iterdir()]


def _timed(action: Callable[[], object]) -> float:
    begin = time.monotonic()
    action()
    return time.monotonic() - begin


def _first_unanswered(client: Pod, address: str) -> float:
    """When it was sent, of several new flows without an answer."""
    since, unanswered = 0.0, 0
    while unanswered < _IN_A_ROW:
        now = time.monotonic()
        since = since if unanswered else now
        unanswered = 0 if _is_echoed(client, address) else unanswered + 1
    return since


def _await_echo(client: Pod, address: str) -> None:
    """Of datagrams every millisecond; a dropped one leaves no entry to which the next would belong."""
    with closing(client.open(socket.SOCK_DGRAM)) as probe:
        probe.settimeout(_EVERY)
        while True:
            probe.sendto(b"x", (address, _ECHO))
            with suppress(TimeoutError):
                probe.recv(1)
                return


def _exchange(client: Pod, address: str) -> None:
    with closing(client.open(socket.SOCK_STREAM)) as connection:
        connection.settimeout(1)
        connection.connect((address, _ECHO))
        connection.sendall(b"x")
        connection.recv(1)


def _connects(client: Pod, address: str) -> bool:
    try:
        _exchange(client, address)
    except OSError:
        return False
    return True


def _is_echoed(client: Pod, address: str) -> bool:
    """A datagram of a new flow."""
    with closing(client.open(socket.SOCK_DGRAM)) as probe:
        probe.settimeout(_UNANSWERED)
        try:
            probe.connect((address, _ECHO))
            probe.send(b"x")
            return probe.recv(1) == b"x"
        except OSError:
            return False


def _vip(requests: Api) -> str:
    return str(requests.request("GET", f"{_API}/services/server")["spec"]["clusterIP"])


def _set_endpoint(requests: Api, server: Pod | None) -> None:
    endpoints = [] if server is None else [{"addresses": [server.address], "conditions": {"ready": True}}]
    requests.request("PATCH", f"{_SLICE}/server", {"endpoints": endpoints})


def _pod(name: str, node: Node) -> dict[str, Any]:
    container = {"name": "pause", "image": PAUSE, "imagePullPolicy": "Never"}
    spec = {"nodeName": node.name, "terminationGracePeriodSeconds": 0, "containers": [container]}
    metadata = {"name": name, "namespace": _NAMESPACE, "labels": {"name": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _policy(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": _NAMESPACE},
        "spec": {"podSelector": {"matchLabels": {"name": "server"}}, "policyTypes": ["Ingress"]},
    }


def _manifest(near: Node, far: Node) -> str:
    metadata = {"name": "server", "namespace": _NAMESPACE}
    ports = [
        {"name": f"{protocol.lower()}{port}", "port": port, "protocol": protocol}
        for port, protocol in ((_ECHO, "TCP"), (_ECHO, "UDP"), (_IPERF, "TCP"))
    ]
    items = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE}},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports}},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**metadata, "labels": {"kubernetes.io/service-name": "server"}},
            "addressType": "IPv4",
            "endpoints": [],
            "ports": ports,
        },
        _pod("client", near),
        _pod("server", far),
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
