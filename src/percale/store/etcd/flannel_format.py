"""flannel's keys and values, byte for byte, and what Percale keeps beside them. Used by `layout.py`.

    PREFIX/config                          net-conf.json             a ConfigMap that has it alone
    PREFIX/subnets/10.5.52.0-24            flannel's lease  ┐
    PREFIX/percale/leases/10.5.52.0-24     its node, ours   ┴        a SubnetLease

flannel's nodes have no name in etcd: a lease that only flannel wrote is of a node named by its public address. A key without an
etcd lease is an operator's reservation. (flannel: pkg/subnet/etcd/registry.go, pkg/subnet/subnet.go)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from percale.errors import BadManifest
from percale.model.addresses import IPNetwork, parsed
from percale.model.configmap import ConfigMap
from percale.model.meta import ObjectKey, ObjectMeta
from percale.model.netconf import NET_CONF
from percale.model.subnet_lease import RESERVED, BackendData, NodeSubnets, SubnetLease, SubnetLeaseSpec, lease_name

NETWORK = ObjectKey("kube-flannel", "net-conf")
"""The ConfigMap that is `PREFIX/config`."""
_KEY = re.compile(r"([\d.]+)-(\d+)(?:&([\da-f:.]+)-(\d+))?")
_NO_IPV4 = "0.0.0.0"  # noqa: S104
"""What flannel writes for a node without IPv4."""
_NO_SUBNET = f"{_NO_IPV4}/0"
"""Likewise, in keys."""


class _Value(Struct, frozen=True, rename="pascal", kw_only=True):
    """flannel's LeaseAttrs; the order of the fields is that of the text."""

    public_ip: str | None = msgspec.field(name="PublicIP", default=_NO_IPV4)
    public_ipv6: str | None = msgspec.field(name="PublicIPv6", default=None)
    backend_type: str | UnsetType = UNSET
    backend_data: BackendData | UnsetType | None = UNSET
    backend_v6_data: BackendData | UnsetType | None = UNSET


class Holder(Struct, frozen=True, omit_defaults=True):
    """Whose lease it is: what flannel's value has no place for."""

    node: str
    annotations: dict[str, str] = {}


class LeaseKey(Struct, frozen=True):
    """A lease's `…/subnets/TEXT`, `10.12.13.0-24&fd00:12:13::-56`, with what it means and the name of the SubnetLease."""

    text: str
    subnets: NodeSubnets
    name: str


@lru_cache(maxsize=10_000)
def lease_key(text: str) -> LeaseKey:
    """Remembered, as `lease_key_of_name`: an agent that starts lists all leases three times. Raises BadManifest."""
    subnets = NodeSubnets()
    if (found := _KEY.fullmatch(text)) is not None:
        with suppress(ValueError):
            subnets = NodeSubnets(*_networks(*found.groups()))
    if not subnets or _key_text(subnets) != text:
        raise BadManifest("not the key of a subnet", hint="one such as 10.5.52.0-24")
    return LeaseKey(text, subnets, lease_name(subnets))


@lru_cache(maxsize=10_000)
def lease_key_of_name(name: str) -> LeaseKey:
    """That of the SubnetLease with this name. Raises BadManifest."""
    parts = [part.rpartition("-") for part in name.split("&")]
    texts = [f"{address.replace('-', ':')}-{length}" for address, _, length in parts]
    if ":" in texts[0]:
        texts.insert(0, _NO_SUBNET.replace("/", "-"))
    with suppress(BadManifest):
        key = lease_key("&".join(texts))
        if key.name == name:
            return key
    raise BadManifest(f"SubnetLease {name} is not named by its subnets", hint="a name such as 10.5.52.0-24")


def _networks(address: str, length: str, address6: str | None, length6: str | None) -> Iterator[IPNetwork]:
    if f"{address}/{length}" != _NO_SUBNET:
        yield parsed(IPv4Network, f"{address}/{length}")
    if address6 is not None:
        yield parsed(IPv6Network, f"{address6}/{length6}")


def _key_text(subnets: NodeSubnets) -> str:
    texts = (
        [str(subnets.ipv4 or _NO_SUBNET)]
        if subnets.ipv6 is None
        else [str(subnets.ipv4 or _NO_SUBNET), str(subnets.ipv6)]
    )
    return "&".join(text.replace("/", "-") for text in texts)


def lease_of(key: LeaseKey, value: bytes, holder: bytes | None, *, reserved: bool) -> SubnetLease:
    """`reserved`: its key has no etcd lease. Raises BadManifest."""
    try:
        attrs = msgspec.json.decode(value, type=_Value)
        known = msgspec.json.decode(holder, type=Holder) if holder is not None else None
        public_ip = _address(IPv4Address, attrs.public_ip)
        public_ipv6 = _address(IPv6Address, attrs.public_ipv6)
        spec = {
            "node": known.node if known is not None else str(public_ip or public_ipv6 or key.name),
            "subnet": key.subnets.ipv4,
            "ipv6Subnet": key.subnets.ipv6,
            "publicIP": public_ip,
            "publicIPv6": public_ipv6,
            "backendType": attrs.backend_type or "",
            "backendData": attrs.backend_data or None,
            "backendV6Data": attrs.backend_v6_data or None,
        }
        annotations = known.annotations if known is not None else {RESERVED: "true"} if reserved else {}
        metadata = ObjectMeta(name=key.name, annotations=annotations)
        return SubnetLease(metadata=metadata, spec=msgspec.convert(spec, SubnetLeaseSpec))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BadManifest(f"not a lease: {error}") from error


def _address(kind: Any, text: str | None) -> Any:
    return parsed(kind, text) if text and text != _NO_IPV4 else None


def lease_value(lease: SubnetLease) -> bytes:
    """As flannel writes it."""
    spec = lease.spec
    value = _Value(
        public_ip=str(spec.publicIP or _NO_IPV4),
        public_ipv6=str(spec.publicIPv6) if spec.publicIPv6 is not None else None,
        backend_type=spec.backendType or UNSET,
        backend_data=spec.backendData or UNSET,
        backend_v6_data=spec.backendV6Data or UNSET,
    )
    return msgspec.json.encode(value)


def holder_value(lease: SubnetLease) -> bytes:
    return msgspec.json.encode(Holder(lease.spec.node, lease.metadata.annotations), order="deterministic")


def network_of(value: bytes) -> ConfigMap:
    """Raises BadManifest."""
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise BadManifest("not UTF-8 text") from error
    return ConfigMap(metadata=ObjectMeta(name=NETWORK.name, namespace=NETWORK.namespace), data={NET_CONF: text})


def network_value(config_map: ConfigMap) -> bytes:
    """Raises BadManifest."""
    if set(config_map.data) != {NET_CONF}:
        raise BadManifest(f"ConfigMap {NETWORK} has {NET_CONF} alone", hint="give other data another name")
    return config_map.data[NET_CONF].encode()
