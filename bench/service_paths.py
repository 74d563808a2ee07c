"""A client's cost of a cluster IP: first packet, new connections, HTTP requests. Called by `services`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network

from msgspec.structs import replace

from bench.lab_pair import LabPair, lab_pair
from bench.routed_pair import SERVER, routed_pair, serving
from bench.rows import Row, in_turn, ratio, run
from bench.service_world import POD_CIDR, PORT, SERVICE_CIDR, cluster_ip, endpoint_slice, service_world
from percale.model.meta import Object
from percale.render.nft.objects import Transaction
from percale.render.service.renderer import ServiceRenderer
from percale.service.node_context import ServiceConfig
from percale.service.resolver import ServiceResolver

ROUNDS = 9
CONNECTING_ROUNDS = 31
WRK_SECONDS = 1
CONFIG = ServiceConfig(node="node-3", pod_cidrs=(ip_network(POD_CIDR),), service_cidrs=(ip_network(SERVICE_CIDR),))


def paths() -> Iterator[Row]:
    """New connections with few and many Services in the table; requests through a lab's Service and directly to its pod."""
    with routed_pair("few") as few, routed_pair("many") as many:
        few.load(_transaction(1))
        many.load(_transaction(10_000))
        found: dict[str, list[tuple[float, float]]] = {"few": [], "many": []}
        for side in (few, many):
            side.connects(cluster_ip(0), PORT)
        for _ in range(CONNECTING_ROUNDS):
            for side in (few, many):
                found[side.name].append(side.connects(cluster_ip(0), PORT))
        (ours, our_rates), (theirs, their_rates) = (zip(*found[name], strict=True) for name in ("many", "few"))
        yield ratio("first packets (connect), 10,000 services against 1", "µs", ours, theirs, 1.05, most=True)
        yield ratio("new connections, 10,000 services against 1", "1/s", our_rates, their_rates, 0.95, most=False)
    with _lab_service() as lab_service:
        yield _requests(lab_service, "HTTP by a service, keep-alive, against by pod (wrk)", "keep-alive", 0.97)
        yield _requests(lab_service, "HTTP by a service, new connections, against by pod (wrk)", "close", 0.9)
        # Translated connections do not use it (docs/decisions/0008): without it, only the cost of translation differs.
        lab_service.lab.without_shortcut()
        yield _requests(lab_service, "the same, keep-alive, without the shortcut", "keep-alive", 0.97)


def _requests(lab_service: _LabService, what: str, header: str, goal: float) -> Row:
    through, straight = in_turn(
        ROUNDS,
        lambda: lab_service.requests(lab_service.service, header),
        lambda: lab_service.requests(lab_service.pod, header),
    )
    return ratio(what, "1/s", through, straight, goal, most=False)


def _transaction(services: int) -> Transaction:
    """A table with this many Services; the first has one endpoint, the server."""
    own = endpoint_slice(0, [0])
    own = replace(own, endpoints=(replace(own.endpoints[0], addresses=(SERVER,)),))
    others: list[Object] = [obj for obj in service_world(services, 10) if obj.key != own.key]
    table = ServiceResolver(CONFIG, [*others, own])
    return ServiceRenderer(table).update(table.services)


SERVICE = """
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {selector: {app: server}, clusterIP: 10.96.7.7, ports: [{port: 80, targetPort: 8080}]}
"""


@dataclass(frozen=True, slots=True)
class _LabService:
    """A lab whose server is reachable by its pod address and by a cluster IP."""

    lab: LabPair
    service: str = "10.96.7.7:80"

    @property
    def pod(self) -> str:
        return f"{self.lab.address}:8080"

    def requests(self, where: str, connection: str) -> float:
        """Requests per second."""
        wrk = ("wrk", "-t1", "-c16", f"-d{WRK_SECONDS}", "-H", f"Connection: {connection}", f"http://{where}/")
        out = run(*self.lab.inside("client"), *wrk)
        found = re.search(r"Requests/sec:\s+([\d.]+)", out)
        assert found is not None, out
        return float(found[1])


@contextlib.contextmanager
def _lab_service() -> Iterator[_LabService]:
    with lab_pair("bench-http", more=SERVICE) as lab:
        # Without these the client would run out of ports in TIME_WAIT.
        run(*lab.inside("server"), "sysctl", "-q", "-w", "net.ipv4.tcp_max_tw_buckets=0")
        run(*lab.inside("client"), "sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=1024 65535")
        with serving(lab.inside("server"), 8080):
            yield _LabService(lab)
