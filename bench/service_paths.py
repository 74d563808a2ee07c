"""What a service address costs a client: the first packet, new connections, HTTP requests. Called by `services`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network

from msgspec.structs import replace

from bench.lab_pair import LabPair, lab_pair
from bench.rows import Row, in_turn, ratio, run
from bench.service_world import POD_CIDR, PORT, SERVICE_CIDR, cluster_ip, endpoint_slice, service_world
from bench.wires import SERVER, serving, wires
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
    """New connections beside few and beside many services; requests through a lab's service and straight to its pod."""
    with wires("few") as few, wires("many") as many:
        few.load(_image(1))
        many.load(_image(10_000))
        found: dict[str, list[tuple[float, float]]] = {"few": [], "many": []}
        for side in (few, many):
            side.connects(cluster_ip(0), PORT)
        for _ in range(CONNECTING_ROUNDS):
            for side in (few, many):
                found[side.name].append(side.connects(cluster_ip(0), PORT))
        (ours, our_rates), (theirs, their_rates) = (zip(*found[name], strict=True) for name in ("many", "few"))
        yield ratio("first packets (connect), 10,000 services against 1", "µs", ours, theirs, 1.05, most=True)
        yield ratio("new connections, 10,000 services against 1", "1/s", our_rates, their_rates, 0.95, most=False)
    with _asked() as asked:
        yield _requests(asked, "HTTP by a service, keep-alive, against by pod (wrk)", "keep-alive", 0.97)
        yield _requests(asked, "HTTP by a service, new connections, against by pod (wrk)", "close", 0.9)
        # Translated connections take none (docs/decisions/0008): what translation itself costs is seen without it.
        asked.lab.without_shortcut()
        yield _requests(asked, "the same, keep-alive, without the shortcut", "keep-alive", 0.97)


def _requests(asked: _Asked, what: str, header: str, goal: float) -> Row:
    through, straight = in_turn(
        ROUNDS, lambda: asked.requests(asked.service, header), lambda: asked.requests(asked.pod, header)
    )
    return ratio(what, "1/s", through, straight, goal, most=False)


def _image(services: int) -> Transaction:
    """The first service has one endpoint, the server."""
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
class _Asked:
    """A lab whose server can be asked by its own address and by a service's."""

    lab: LabPair
    service: str = "10.96.7.7:80"

    @property
    def pod(self) -> str:
        return f"{self.lab.address}:8080"

    def requests(self, where: str, connection: str) -> float:
        """Requests in a second."""
        wrk = ("wrk", "-t1", "-c16", f"-d{WRK_SECONDS}", "-H", f"Connection: {connection}", f"http://{where}/")
        out = run(*self.lab.inside("client"), *wrk)
        found = re.search(r"Requests/sec:\s+([\d.]+)", out)
        assert found is not None, out
        return float(found[1])


@contextlib.contextmanager
def _asked() -> Iterator[_Asked]:
    with lab_pair("bench-http", more=SERVICE) as lab:
        # Ports in TIME_WAIT would run out, and the row would tell of them.
        run(*lab.inside("server"), "sysctl", "-q", "-w", "net.ipv4.tcp_max_tw_buckets=0")
        run(*lab.inside("client"), "sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=1024 65535")
        with serving(lab.inside("server"), 8080):
            yield _Asked(lab)
