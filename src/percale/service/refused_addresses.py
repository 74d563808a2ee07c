"""Addresses that no Service has, whoever asks for them: what is sent there is another's (CVE-2020-8554).

    a Service's addresses ─▶ refusal ─▶ left out, and told        nodes' addresses ─▶ NodeAddresses ─▶ the same, later

A Service's author may write any externalIPs, and proxies take what is sent there. Unless `services.externalIPs` says otherwise
the pod network, the service networks and nodes are out of reach. Addresses of load balancers are written by controllers, which
may well name nodes. Called by `services` and `table`.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple, TypeAlias

from percale.model.meta import Object
from percale.service.node_context import ServiceConfig, is_in

AddressSource: TypeAlias = tuple[type[Object], str]
"""Kind and name of an object that tells a node's addresses."""

OF_A_NODE = "is a node's address"


class Refused(NamedTuple):
    """`address` is packed; `why` is a predicate."""

    field: str
    address: bytes
    why: str

    def __str__(self) -> str:
        allowing = "; services.externalIPs of the agents says which may be" if self.field == "spec.externalIPs" else ""
        return f"{self.field}: {ip_address(self.address)} {self.why}, so it is not served{allowing}"


def special(address: bytes) -> str | None:
    """Why nobody may have the address, where packets never travel or many hosts get them. There are very many to look at."""
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
    """Of a cluster IP, which the cluster chooses: it is a pod's only where it is known to be no Service's."""
    if (why := special(address)) is not None:
        return why
    known = bool(config.service_cidrs) and not is_in(address, config.service_cidrs)
    return "is in the pod network" if known and is_in(address, config.pod_cidrs) else None


def balancer_refusal(address: bytes, config: ServiceConfig) -> str | None:
    """Of a load balancer's address."""
    return special(address) or _in_cluster(address, config)


def external_refusal(address: bytes, config: ServiceConfig) -> str | None:
    """Of an external IP, as far as nodes do not matter."""
    if (why := special(address)) is not None or config.external_ips == "any":
        return why
    if config.external_ips == "none":
        return "is an external IP"
    if config.external_ips:
        return None if is_in(address, config.external_ips) else "is not among those that may be"
    return _in_cluster(address, config)


def _in_cluster(address: bytes, config: ServiceConfig) -> str | None:
    if is_in(address, config.pod_cidrs):
        return "is in the pod network"
    return "is in the service network" if is_in(address, config.service_cidrs) else None


class NodeAddresses:
    """Of all nodes, as Node objects and leases tell them."""

    def __init__(self) -> None:
        self._told: dict[AddressSource, tuple[bytes, ...]] = {}
        self._count: dict[bytes, int] = {}
        """How many tell of it."""

    def __contains__(self, address: bytes) -> bool:
        return address in self._count

    def __iter__(self) -> Iterator[AddressSource]:
        """Who tells."""
        return iter(self._told)

    def update(self, source: AddressSource, addresses: tuple[bytes, ...]) -> set[bytes]:
        """All that this one says from now on. The addresses that are nodes' now and were not, or the other way round."""
        before = self._told.get(source, ())
        if before == addresses:
            return set()
        touched = {*before, *addresses}
        were = {each for each in touched if each in self._count}
        for each in addresses:
            self._count[each] = self._count.get(each, 0) + 1
        for each in before:
            self._count[each] -= 1
            if not self._count[each]:
                del self._count[each]
        if addresses:
            self._told[source] = addresses
        else:
            del self._told[source]
        return {each for each in touched if (each in were) != (each in self._count)}
