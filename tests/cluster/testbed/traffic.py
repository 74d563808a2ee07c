"""A steady traffic between pods of a testbed, in which a failed request and an arrived packet that policy denies are counted.

Each node has four pods: `server`, `guarded` (whose policy admits TCP from clients), `client` and `stranger`. Their sockets are
opened here, in the pods' network namespaces: the pods themselves only pause.
"""

from __future__ import annotations

import json
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.testbed.control_plane import kubectl
from tests.cluster.testbed.images import PAUSE
from tests.cluster.testbed.layout import Layout, Node
from tests.cluster.testbed.processes import TestbedError, pid_of
from tests.waiting import until

from percale.kernel.netns import NetnsThread

NAMESPACE = "traffic"
TCP, UDP = 7007, 7008
_EVERY = 0.1
_LIMIT = 5.0
"""Seconds until a request has failed."""
_RECOVERY = 3.0
"""Seconds after which what a disturbance has delayed must go on: a client's second attempt to connect is then."""
_PATIENCE = 120.0
_ROLES = ("server", "guarded", "client", "stranger")


@dataclass(frozen=True)
class Count:
    """Of a whole traffic."""

    disturbances: int
    requests: int
    failed: int
    slowest: float
    """Seconds."""
    denied: int
    """Packets sent that policy denies."""
    arrived: int
    """Of those."""
    notes: list[str] = field(default_factory=list)

    @property
    def has_failed(self) -> bool:
        return self.failed > 0 or self.arrived > 0 or not self.requests or not self.denied


@dataclass(frozen=True)
class Failure:
    begin: float
    end: float
    what: str
    nodes: frozenset[str]
    """Those that the request may have passed."""


@dataclass(frozen=True)
class _Excuse:
    node: str
    begin: float
    end: float
    why: str

    def holds(self, failure: Failure) -> bool:
        """Not for a request that has not gone on after the disturbance."""
        meanwhile = failure.begin <= self.end and self.begin <= failure.end <= self.end + _RECOVERY
        return meanwhile and self.node in failure.nodes


@dataclass(frozen=True)
class Pod:
    """Opens sockets in its network namespace."""

    node: str
    address: str
    thread: NetnsThread
    """In its network namespace."""

    def open(self, kind: socket.SocketKind) -> socket.socket:
        return self.thread.run(lambda: socket.socket(_family(self.address), kind))


class Traffic:
    """Runs between `traffic`'s begin and end; threads add to it."""

    def __init__(self) -> None:
        self.disturbances = 0
        self.notes: list[str] = []
        self.failures: list[Failure] = []
        self.requests = self.denied = self.arrived = 0
        self.slowest = 0.0
        self._excuses: list[_Excuse] = []
        self._lock = threading.Lock()
        self._begin = time.monotonic()
        self._over, self._served = threading.Event(), threading.Event()

    def excuse(self, node: str, begin: float, end: float, why: str) -> None:
        """Requests through this node at that time may fail."""
        self._excuses.append(_Excuse(node, begin, end, why))

    def excuse_packets(self, before: int, why: str) -> None:
        """Those that have arrived since there were so many."""
        with self._lock:
            excused, self.arrived = self.arrived - before, before
        if excused:
            self.notes.append(f"{why} {excused} denied packets arrived")

    def count(self) -> Count:
        """So far."""
        bad = [each for each in self.failures if self._excuse_of(each) is None]
        excused = Counter(why for each in self.failures if (why := self._excuse_of(each)) is not None)
        notes = [
            *self.notes,
            *(
                f"{each.what} after {each.end - each.begin:.1f} s, at {each.end - self._begin:.0f} s"
                for each in bad[:5]
            ),
            *(f"{why}: requests through the node that failed meanwhile: {count}" for why, count in excused.items()),
        ]
        slowest = round(self.slowest, 3)
        return Count(self.disturbances, self.requests, len(bad), slowest, self.denied, self.arrived, notes)

    def _excuse_of(self, failure: Failure) -> str | None:
        return next((excuse.why for excuse in self._excuses if excuse.holds(failure)), None)

    @contextmanager
    def lasting(self, clients: list[threading.Thread], servers: list[threading.Thread]) -> Iterator[None]:
        """As long as this; the servers end last, or a request would fail by that."""
        try:
            yield
        finally:
            for event, threads in ((self._over, clients), (self._served, servers)):
                event.set()
                for thread in threads:
                    thread.join()

    def serve(self, listener: socket.socket, datagrams: socket.socket) -> None:
        """Echo what comes over connections, and count datagrams."""
        with selectors.DefaultSelector() as selector:
            for each in (listener, datagrams):
                selector.register(each, selectors.EVENT_READ)
            while not self._served.is_set():
                for key, _ in selector.select(0.2):
                    if key.fileobj is listener:
                        selector.register(listener.accept()[0], selectors.EVENT_READ)
                    elif key.fileobj is datagrams:
                        datagrams.recv(64)
                        with self._lock:
                            self.arrived += 1
                    elif isinstance(key.fileobj, socket.socket) and not _echo(key.fileobj):
                        selector.unregister(key.fileobj)
                        key.fileobj.close()
            for key in selector.get_map().values():
                if isinstance(key.fileobj, socket.socket):
                    key.fileobj.close()

    def ask(self, client: Pod, address: str, what: str, nodes: Iterable[str]) -> None:
        """One request after the other, each over a connection of its own."""

        def request() -> None:
            with closing(client.open(socket.SOCK_STREAM)) as connection:
                connection.settimeout(_LIMIT)
                connection.connect((address, TCP))
                _exchange(connection)

        self._repeat(request, what, frozenset((client.node, *nodes)))

    def keep_asking(self, client: Pod, address: str, what: str, nodes: Iterable[str]) -> None:
        """All over one connection."""
        with closing(client.open(socket.SOCK_STREAM)) as connection:
            connection.settimeout(_LIMIT)
            with suppress(OSError):  # then each request fails, and is counted
                connection.connect((address, TCP))
            self._repeat(lambda: _exchange(connection), what, frozenset((client.node, *nodes)))

    def _repeat(self, request: Callable[[], None], what: str, nodes: frozenset[str]) -> None:
        while not self._over.is_set():
            begin = time.monotonic()
            failed = None
            try:
                request()
            except OSError as error:
                failed = f"{what}: {error}"
            end = time.monotonic()
            with self._lock:
                self.requests += 1
                self.slowest = max(self.slowest, end - begin)
                if failed is not None:
                    self.failures.append(Failure(begin, end, failed, nodes))
            self._over.wait(_EVERY)

    def intrude(self, stranger: Pod, addresses: list[str]) -> None:
        """Datagrams to pods and Services, at which they must not arrive."""
        with closing(stranger.open(socket.SOCK_DGRAM)) as sender:
            while not self._over.wait(_EVERY):
                for address in addresses:
                    try:
                        sender.sendto(b"x", (address, UDP))
                    except OSError:  # there is no route at the moment: it cannot arrive
                        continue
                    with self._lock:
                        self.denied += 1


@contextmanager
def traffic(layout: Layout) -> Iterator[Traffic]:
    """Begins once policies are seen to be in force, and lasts as long as this."""
    flow, clients, servers = Traffic(), list[threading.Thread](), list[threading.Thread]()

    def begin(threads: list[threading.Thread], target: Callable[..., None], *arguments: Any) -> None:
        threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        threads[-1].start()

    with ExitStack() as opened, flow.lasting(clients, servers):
        kubectl(layout, "apply", "-f", "-", stdin=_manifest(layout.nodes))
        wait = ("wait", f"-n={NAMESPACE}", "pods", "--all", "--for=condition=Ready", f"--timeout={_PATIENCE:.0f}s")
        kubectl(layout, *wait, seconds=_PATIENCE + 10)
        pods = {
            role: [find_pod(layout, node, NAMESPACE, f"{role}-{node.name}", opened) for node in layout.nodes]
            for role in _ROLES
        }
        services = {role: _service(layout, role) for role in ("server", "guarded")}
        for pod in (*pods["server"], *pods["guarded"]):
            listener, datagrams = pod.open(socket.SOCK_STREAM), pod.open(socket.SOCK_DGRAM)
            for each, port in ((listener, TCP), (datagrams, UDP)):
                opened.enter_context(each).bind((pod.address, port))
            listener.listen(64)
            begin(servers, flow.serve, listener, datagrams)
        for stranger in pods["stranger"]:
            begin(clients, flow.intrude, stranger, [*(each.address for each in pods["guarded"]), services["guarded"]])
        until(lambda: flow.arrived > len(layout.nodes) * 10, "a stranger reaches pods without a policy")
        kubectl(layout, "apply", "-f", "-", stdin=json.dumps(_POLICY))
        until(lambda: _is_silent(flow), "a stranger does not reach pods with a policy", patience=_PATIENCE)
        flow.denied = flow.arrived = 0
        everywhere = [node.name for node in layout.nodes]
        for number, client in enumerate(pods["client"]):
            for role in ("server", "guarded"):
                far = pods[role][(number + 1) % len(pods[role])]
                what = f"pod of {client.node} to {role} of {far.node}"
                begin(clients, flow.ask, client, far.address, what, [far.node])
                begin(clients, flow.keep_asking, client, far.address, f"{what}, one connection", [far.node])
                begin(clients, flow.ask, client, services[role], f"pod of {client.node} to Service {role}", everywhere)
        yield flow
    kubectl(layout, "delete", "namespace", NAMESPACE, seconds=_PATIENCE)


def _exchange(connection: socket.socket) -> None:
    connection.sendall(b"x")
    if connection.recv(1) != b"x":
        raise OSError("closed by the server")


def _echo(connection: socket.socket) -> bool:
    """Whether it is still open."""
    try:
        data = connection.recv(64)
        connection.sendall(data)
    except OSError:
        return False
    return bool(data)


def _is_silent(flow: Traffic) -> bool:
    before = flow.arrived
    time.sleep(1)
    return flow.arrived == before


def find_pod(layout: Layout, node: Node, namespace: str, name: str, opened: ExitStack) -> Pod:
    """One that runs on this node; its namespace is left when `opened` ends."""
    address = kubectl(layout, "get", "pod", f"-n={namespace}", name, "-o=jsonpath={.status.podIP}")
    for path in Path(f"/proc/{pid_of(layout, node.name)}/root/run/netns").iterdir():
        with path.open() as entered:
            thread = NetnsThread(entered.fileno())
        if thread.run(lambda: _has(address)):
            opened.callback(thread.close)
            return Pod(node.name, address, thread)
        thread.close()
    raise TestbedError(f"node {node.name} has no namespace of {name}, {address}")


def _has(address: str) -> bool:
    with closing(socket.socket(_family(address), socket.SOCK_DGRAM)) as trial:
        try:
            trial.bind((address, 0))
        except OSError:
            return False
    return True


def _service(layout: Layout, name: str) -> str:
    return kubectl(layout, "get", "service", f"-n={NAMESPACE}", name, "-o=jsonpath={.spec.clusterIP}")


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _manifest(nodes: Iterable[Node]) -> str:
    items: list[dict[str, Any]] = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}]
    for role in ("server", "guarded"):
        ports = [{"name": protocol.lower(), "port": port, "protocol": protocol} for protocol, port in _PORTS]
        items.append(_object("v1", "Service", role, {"selector": {"role": role}, "ports": ports}))
    for node in nodes:
        for role in _ROLES:
            container = {"name": "pause", "image": PAUSE, "imagePullPolicy": "Never"}
            spec = {"nodeName": node.name, "terminationGracePeriodSeconds": 0, "containers": [container]}
            items.append(_object("v1", "Pod", f"{role}-{node.name}", spec, {"role": role}))
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def _object(
    api: str, kind: str, name: str, spec: dict[str, Any], labels: dict[str, str] | None = None
) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels or {}}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec}


_PORTS = (("TCP", TCP), ("UDP", UDP))
_POLICY = _object(
    "networking.k8s.io/v1",
    "NetworkPolicy",
    "guarded",
    {
        "podSelector": {"matchLabels": {"role": "guarded"}},
        "ingress": [
            {
                "from": [{"podSelector": {"matchLabels": {"role": "client"}}}],
                "ports": [{"port": TCP, "protocol": "TCP"}],
            }
        ],
    },
)
