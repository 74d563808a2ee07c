"""What a cloud does for Services of type LoadBalancer, as little of it as Kubernetes' specs need.

    Services ─▶ finalizer, address (status) ─▶ a route in the control plane's network, where the suite runs ─▶ nodes
                                                `externalTrafficPolicy: Local`: those whose health check says 200

The suite's packets to these addresses have a source outside the nodes' network, as a client of a cloud has.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from ipaddress import IPv4Network
from threading import Event
from typing import Any

from tests.cluster.testbed.api import Api, api, connect
from tests.cluster.testbed.layout import Layout
from tests.cluster.testbed.processes import TestbedError, in_control_plane, in_node, run

CLIENT = "198.51.100.10"
_ADDRESSES = IPv4Network("203.0.113.0/24")
_FINALIZER = "service.kubernetes.io/load-balancer-cleanup"
_EVERY = 0.5
_PATIENCE = 1.0
"""Seconds for a node's answer to a health check."""


@contextmanager
def load_balancer(layout: Layout) -> Iterator[None]:
    """Works until it ends; an error of it comes then."""
    _prepare(layout)
    ended = Event()
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(_work, layout, ended)
        try:
            yield
        finally:
            ended.set()
        working.result()


def _prepare(layout: Layout) -> None:
    spread = "echo 1 >/proc/sys/net/ipv4/fib_multipath_hash_policy"  # connection by connection
    run([*in_control_plane(layout), "sh", "-ec", f"ip address add {CLIENT}/32 dev lo; {spread}"])
    for node in layout.nodes:
        run([*in_node(layout, node.name), "ip", "route", "add", CLIENT, "via", layout.control_plane])


def _work(layout: Layout, ended: Event) -> None:
    routes: dict[str, list[str]] = {}
    with api(layout) as server:
        while not ended.wait(_EVERY):
            wanted = assign(layout, server)
            for address in wanted.keys() | routes.keys():
                if wanted.get(address, []) != routes.get(address, []):
                    _route(layout, address, wanted.get(address, []))
            routes = wanted


def assign(layout: Layout, server: Api) -> dict[str, list[str]]:
    """Gives Services what they lack, and takes from others what they have; the nodes by address."""
    services: list[dict[str, Any]] = server.request("GET", "/api/v1/services")["items"]
    taken = {address for each in services if (address := _address(each)) is not None}
    wanted: dict[str, list[str]] = {}
    for service in services:
        with suppress(TestbedError):  # it was deleted: the next time
            if _is_balanced(service):
                address = _address(service) or _publish(server, service, taken)
                taken.add(address)
                wanted[address] = _targets(layout, service["spec"])
            else:
                _release(server, service)
    return wanted


def _is_balanced(service: dict[str, Any]) -> bool:
    return service["spec"]["type"] == "LoadBalancer" and "deletionTimestamp" not in service["metadata"]


def _address(service: dict[str, Any]) -> str | None:
    ingress = service["status"]["loadBalancer"].get("ingress")
    return ingress[0]["ip"] if ingress else None


def _publish(server: Api, service: dict[str, Any], taken: set[str]) -> str:
    """The finalizer comes first, as what is to be cleaned up comes into being."""
    _set_finalizers(server, service, [*service["metadata"].get("finalizers", ()), _FINALIZER])
    address = next(text for each in _ADDRESSES.hosts() if (text := str(each)) not in taken)
    _patch(server, service, "/status", {"status": {"loadBalancer": {"ingress": [{"ip": address}]}}})
    return address


def _release(server: Api, service: dict[str, Any]) -> None:
    finalizers = service["metadata"].get("finalizers", [])
    if _FINALIZER in finalizers:
        _patch(server, service, "/status", {"status": {"loadBalancer": None}})
        _set_finalizers(server, service, [each for each in finalizers if each != _FINALIZER])


def _set_finalizers(server: Api, service: dict[str, Any], finalizers: list[str]) -> None:
    _patch(server, service, "", {"metadata": {"finalizers": list(dict.fromkeys(finalizers))}})


def _patch(server: Api, service: dict[str, Any], part: str, body: dict[str, Any]) -> None:
    meta = service["metadata"]
    server.request("PATCH", f"/api/v1/namespaces/{meta['namespace']}/services/{meta['name']}{part}", body)


def _targets(layout: Layout, spec: dict[str, Any]) -> list[str]:
    """Nodes' addresses. The affinity to an endpoint is theirs, and each node's own: the balancer keeps to one."""
    nodes = [node.addresses[0] for node in layout.nodes]
    if spec["externalTrafficPolicy"] == "Local":
        nodes = [each for each in nodes if _is_healthy(layout, each, spec["healthCheckNodePort"])]
    return nodes[:1] if spec["sessionAffinity"] == "ClientIP" else nodes


def _is_healthy(layout: Layout, node: str, port: int) -> bool:
    with closing(HTTPConnection(node, port, timeout=_PATIENCE)) as connection:
        try:
            connect(layout, connection)
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False


def _route(layout: Layout, address: str, nodes: list[str]) -> None:
    """Without nodes packets go the default way, to the switch, which drops them: nobody answers, as in a cloud."""
    hops = [word for node in nodes for word in ("nexthop", "via", node)]
    words = ["replace", address, "src", CLIENT, *hops] if nodes else ["del", address]
    run([*in_control_plane(layout), "ip", "route", *words])
