"""Addresses that no Service may have, since they belong to others (CVE-2020-8554).

A Service's author may write any externalIPs, and proxies take the packets. Unless `services.externalIPs` allows more, the pod
network, the service networks, nodes' addresses, the API server's, and this agent's own servers are refused: without them no
agent would learn that the Service is gone. Addresses of load balancers are written by controllers, which
may name nodes. Called by `service_ports.py`, and by `resolver.py` for addresses of nodes and the API server.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple

from percale.service.node_context import ServiceConfig, is_in

OF_A_NODE = "is a node's address"
OF_THE_API_SERVER = "is the API server's address"


class Refused(NamedTuple):
    """`address` is packed; `why` is a predicate."""

    field: str
    address: bytes
    why: str

    def __str__(self) -> str:
        allowing = "; services.externalIPs of the agents says which may be" if self.field == "spec.externalIPs" else ""
        return f"{self.field}: {ip_address(self.address)} {self.why}, so it is not served{allowing}"


def special(address: bytes) -> str | None:
    """Why neither Service nor endpoint may have the address: it is never routed, or received by many. Called for very many."""
    first = address[0]
    if len(address) == 4:
        loopback, linked, many = (
            first == 127,
            address.startswith(b"\xa9\xfe"),
            first in range(224, 240) or address == _ALL,
        )
    else:
        loopback, linked = address == _LOOPBACK6, first == 0xFE and address[1] & 0xC0 == 0x80
        many = first == 0xFF
    if loopback:
        return "is a loopback address"
    if linked:
        return "is a link-local address"
    if many:
        return "is an address of many hosts"
    return None if any(address) else "means all addresses"


_ALL = b"\xff\xff\xff\xff"
_LOOPBACK6 = bytes(15) + b"\x01"


def cluster_ip_refusal(address: bytes, config: ServiceConfig) -> str | None:
    """Of a cluster IP, which the cluster allocates: the pod network counts only where the service networks are known."""
    if (why := special(address)) is not None:
        return why
    known = bool(config.service_cidrs) and not is_in(address, config.service_cidrs)
    return "is in the pod network" if known and is_in(address, config.pod_cidrs) else None


def balancer_refusal(address: bytes, config: ServiceConfig) -> str | None:
    """Of a load balancer's address."""
    return special(address) or _in_cluster(address, config)


def external_refusal(address: bytes, config: ServiceConfig) -> str | None:
    """Of an external IP, except for nodes' addresses."""
    if (why := special(address)) is not None or config.external_ips == "any":
        return why
    if config.external_ips == "none":
        return "is an external IP"
    if config.external_ips:
        return None if is_in(address, config.external_ips) else "is not among those that may be"
    if address in config.servers:
        return "is a server of this node's: its store's or its name server"
    return _in_cluster(address, config)


def _in_cluster(address: bytes, config: ServiceConfig) -> str | None:
    if is_in(address, config.pod_cidrs):
        return "is in the pod network"
    return "is in the service network" if is_in(address, config.service_cidrs) else None
