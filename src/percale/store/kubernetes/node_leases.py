"""Subnet leases as annotations of Nodes, in flannel's format: flannel's and Percale's nodes read each other's.

Kubernetes assigns a node's subnets (`spec.podCIDRs`); the lease says that the node is reached, and how. It has no end of its own:
a `ttl` means nothing, and the lease goes with its Node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import msgspec
from msgspec.structs import replace

from percale.errors import AddressRefused, StoreUnavailable
from percale.model.addresses import IPAddress
from percale.model.ip_family import Family
from percale.model.meta import Object, ObjectKey
from percale.model.node import Node
from percale.model.subnet_lease import BackendData, LeasedFamily, NodeSubnets, SubnetLease, SubnetLeaseSpec, make_lease
from percale.store.decode import decode_object
from percale.store.kubernetes.address import PREFIX
from percale.store.kubernetes.api_client import STRATEGIC_MERGE_PATCH, ApiClient, ApiRefusal
from percale.store.kubernetes.resources import object_path, operation
from percale.store.versioning import check_version, not_found, versioned

OWN_PREFIX = "percale.io/"
"""Of a lease's own annotations, which are the Node's, too."""
SUBNETS = "percale.io/subnets"
"""Annotation: the leased subnets, where flannel's annotations do not say it (an address family without a public address)."""

_ATTEMPTS = 10
"""At a patch of a Node that others change at the same time."""
_PUBLIC_IP: Mapping[Family, tuple[type[IPAddress], str]] = {
    Family.IPV4: (IPv4Address, "public-ip"),
    Family.IPV6: (IPv6Address, "public-ipv6"),
}
_NODE_PUBLIC_IP = {Family.IPV4: "node-public-ip", Family.IPV6: "node-public-ipv6"}
_DATA = {Family.IPV4: "backend-data", Family.IPV6: "backend-v6-data"}
_DATA_DECODER = msgspec.json.Decoder(BackendData | None)


class LeaseFormat:
    """Leases ↔ annotations with a prefix."""

    def __init__(self, prefix: str = PREFIX) -> None:
        self._prefix = prefix.rstrip("/") + "/"

    def lease_of(self, node: Object) -> SubnetLease | None:
        """The node's lease; None if it has none. What cannot be parsed is absent: its peers tell what they miss."""
        assert isinstance(node, Node)
        annotations = node.metadata.annotations
        given = dict(self._given(annotations))
        subnets = _subnets(node, given)
        if annotations.get(self._prefix + "kube-subnet-manager") != "true" or not subnets:
            return None
        families = [
            LeasedFamily(
                Family(subnet.version),
                subnet,
                given.get(Family(subnet.version)),
                self._data(annotations, Family(subnet.version)),
            )
            for subnet in subnets
        ]
        backend = annotations.get(self._prefix + "backend-type", "")
        lease = make_lease(SubnetLeaseSpec.of(node.metadata.name, backend, families))
        own = {key: text for key, text in annotations.items() if key.startswith(OWN_PREFIX) and key != SUBNETS}
        return versioned(replace(lease, metadata=replace(lease.metadata, annotations=own)))

    def annotations_of(self, lease: SubnetLease, node: Node) -> dict[str, str | None]:
        """What the lease's Node shall have; None: not at all. An operator's public address takes precedence."""
        spec = lease.spec
        wanted: dict[str, str | None] = {
            "kube-subnet-manager": "true",
            "backend-type": spec.backendType,
            "backend-data": "null",
            "backend-v6-data": None,
            "public-ip": None,
            "public-ipv6": None,
        }
        for family, subnet, public_ip, data in spec.families:
            if subnet is None:
                continue
            _, name = _PUBLIC_IP[family]
            own = str(public_ip) if public_ip is not None else None
            wanted[name] = self._overwritten(node.metadata.annotations, family) or own
            if data is not None or public_ip is not None:
                wanted[_DATA[family]] = msgspec.json.encode(data).decode()
        annotations = {self._prefix + name: text for name, text in wanted.items()}
        own_keys = {
            key for key in (*node.metadata.annotations, *lease.metadata.annotations) if key.startswith(OWN_PREFIX)
        }
        annotations |= {key: lease.metadata.annotations.get(key) for key in own_keys}
        without = {key: text for key, text in annotations.items() if text is not None}
        said = NodeSubnets(*_subnets(node, dict(self._given(without)), marked=False))
        annotations[SUBNETS] = None if said == spec.subnets else ",".join(map(str, spec.subnets))
        return annotations

    def none(self, node: Node) -> dict[str, str | None]:
        """The annotations of a Node without a lease; an operator's stay."""
        names = ("kube-subnet-manager", "backend-type", *_DATA.values(), *(name for _, name in _PUBLIC_IP.values()))
        ours = [key for key in node.metadata.annotations if key.startswith(OWN_PREFIX)]
        return dict.fromkeys([*(self._prefix + name for name in names), *ours])

    def _given(self, annotations: Mapping[str, str]) -> Iterator[tuple[Family, IPAddress]]:
        for family, (kind, name) in _PUBLIC_IP.items():
            try:
                yield family, kind(annotations[self._prefix + name])
            except (KeyError, ValueError):
                continue

    def _overwritten(self, annotations: Mapping[str, str], family: Family) -> str | None:
        """The public address that an operator set, by either of flannel's annotations."""
        kind, name = _PUBLIC_IP[family]
        for key in (f"{name}-overwrite", _NODE_PUBLIC_IP[family]):
            try:
                return str(kind(annotations[self._prefix + key]))
            except (KeyError, ValueError):
                continue
        return None

    def _data(self, annotations: Mapping[str, str], family: Family) -> BackendData | None:
        try:
            found: BackendData | None = _DATA_DECODER.decode(annotations.get(self._prefix + _DATA[family], "null"))
        except msgspec.MsgspecError:
            return None
        return found


def _subnets(node: Node, given: Mapping[Family, object], *, marked: bool = True) -> NodeSubnets:
    """The node's subnets that are leased: those marked, else those of the families with a public address."""
    cidrs = node.pod_cidrs
    text = node.metadata.annotations.get(SUBNETS) if marked else None
    if text is not None:
        words = text.split(",")
        return NodeSubnets(*(each for each in cidrs if str(each) in words))
    return NodeSubnets(*(each for each in cidrs if Family(each.version) in given))


class NodeLeases:
    """The store's operations on leases. All methods raise StoreUnavailable."""

    def __init__(self, api: ApiClient, lease_format: LeaseFormat) -> None:
        self._api = api
        self._format = lease_format

    async def put(self, lease: SubnetLease, expect: str | None) -> SubnetLease:
        """Raises Conflict; AddressRefused if the node's podCIDRs are others."""
        for _ in range(_ATTEMPTS):
            node = await self._node(lease.spec.node)
            self._check_subnets(lease, node)
            current = self._format.lease_of(node)
            if current is not None and current.key != lease.key:
                current = None
            version = current.metadata.resourceVersion if current is not None else None
            check_version(SubnetLease, lease.key, version, expect)
            changed = await self._annotate(node, self._format.annotations_of(lease, node))
            if changed is not None:
                written = self._format.lease_of(changed)
                assert written is not None
                return written
        raise StoreUnavailable(f"Node {lease.spec.node} changes all the time", where=self._api.server)

    async def delete(self, lease: SubnetLease) -> None:
        """The lease as it was read. Raises NotFound, Conflict."""
        for _ in range(_ATTEMPTS):
            node = await self._node(lease.spec.node)
            current = self._format.lease_of(node)
            if current is None or current.key != lease.key:
                raise not_found(SubnetLease, lease.key)
            check_version(SubnetLease, lease.key, current.metadata.resourceVersion, lease.metadata.resourceVersion)
            if await self._annotate(node, self._format.none(node)) is not None:
                return
        raise StoreUnavailable(f"Node {lease.spec.node} changes all the time", where=self._api.server)

    async def _node(self, name: str) -> Node:
        try:
            data = await self._api.get(object_path(Node, ObjectKey(None, name)), operation("get", Node))
        except ApiRefusal as error:
            raise StoreUnavailable(
                f"there is no Node {name}",
                where=self._api.server,
                hint="start its kubelet, or set the agent's `node` to the Node's name",
            ) from error
        return decode_object(data, Node)

    def _check_subnets(self, lease: SubnetLease, node: Node) -> None:
        cidrs = node.pod_cidrs
        if not cidrs:
            raise StoreUnavailable(
                f"Node {node.metadata.name} has no podCIDR",
                where=self._api.server,
                hint="run kube-controller-manager with --allocate-node-cidrs=true and --cluster-cidr",
            )
        if foreign := [str(subnet) for subnet in lease.spec.subnets if subnet not in cidrs]:
            raise AddressRefused(
                f"the podCIDR is {' and '.join(map(str, cidrs))} now, not {foreign[0]}",
                where=f"node {node.metadata.name}",
                hint="restart the agent",
            )

    async def _annotate(self, node: Node, annotations: Mapping[str, str | None]) -> Node | None:
        """Change those that differ; None if somebody else changed or deleted the Node first."""
        known = node.metadata.annotations
        changes = {key: text for key, text in annotations.items() if known.get(key) != text}
        if not changes:
            return node
        body: dict[str, Any] = {
            "metadata": {"annotations": changes, "resourceVersion": node.metadata.resourceVersion},
        }
        path = object_path(Node, node.key, "status")
        try:
            data = await self._api.patch(path, operation("patch", Node, "status"), body, STRATEGIC_MERGE_PATCH)
        except ApiRefusal as error:
            if error.code in (404, 409):
                return None
            what = f"Node {node.metadata.name} cannot be changed: {error.message}"
            raise StoreUnavailable(what, where=self._api.server) from error
        return decode_object(data, Node)
