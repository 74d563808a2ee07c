"""EndpointSlices → compact facts of their endpoints. Called by `resolver.py`, once for each changed slice.

A cluster may have very many endpoints: the addresses of a slice are one bytes object, their states another.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv6Address
from itertools import product, repeat
from socket import AF_INET, inet_pton
from typing import NamedTuple

from msgspec import Struct

from percale.model.endpoints import SERVICE_LABEL, Endpoint, EndpointSlice
from percale.model.ip_family import Family
from percale.model.meta import ObjectKey
from percale.model.service import HEADLESS_LABEL, PROXY_NAME_LABEL
from percale.service.refused_addresses import special

READY = 1
DRAINING = 2
"""Serving while terminating: used when no endpoint is ready."""
LOCAL = 4


class SlicePort(NamedTuple):
    """`name` is "" when it has none; `number` is packed, in network order."""

    name: str
    protocol: str
    number: bytes


class Hints(NamedTuple):
    """Topology hints of an endpoint; empty: none."""

    nodes: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()


class SliceFacts(Struct, frozen=True, gc=False):
    """A slice's endpoints. `states[i]`, `nodes[i]` and `hints[i]` are of the i-th address."""

    service: ObjectKey
    name: str
    family: Family
    ports: tuple[SlicePort, ...]
    addresses: bytes
    states: bytes
    nodes: tuple[str | None, ...]
    hints: tuple[Hints, ...] = ()
    """Empty: no endpoint has any."""
    problems: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of an address."""
        return self.family.size

    @property
    def split_addresses(self) -> list[bytes]:
        return [self.addresses[start : start + self.size] for start in range(0, len(self.addresses), self.size)]


def _state(ready: bool | None, serving: bool | None, terminating: bool | None) -> int:
    state = 0 if ready is False else READY
    return state | DRAINING if terminating and serving is not False else state


_STATES = {conditions: _state(*conditions) for conditions in product((None, False, True), repeat=3)}
"""By `ready`, `serving` and `terminating`; None means unset."""


def facts_of_slice(entry: EndpointSlice, node: str) -> SliceFacts | None:
    """None: the slice has no Service, is for another proxy, or has names instead of addresses."""
    meta = entry.metadata
    labels = meta.labels
    service = labels.get(SERVICE_LABEL)
    if not service or PROXY_NAME_LABEL in labels or HEADLESS_LABEL in labels or entry.addressType == "FQDN":
        return None
    family = Family.IPV6 if entry.addressType == "IPv6" else Family.IPV4
    usable, addresses, problems = _usable(entry.endpoints, family)
    problems += [
        f"ports[{index}].port: {port.port} is not a port, 1 to 65535"
        for index, port in enumerate(entry.ports)
        if port.port is not None and not 0 < port.port <= 0xFFFF
    ]
    nodes = [each.nodeName and sys.intern(each.nodeName) for each in usable]
    conditions = [each.conditions for each in usable]
    states = [_STATES[each.ready, each.serving, each.terminating] for each in conditions]
    if node in nodes:
        states = [state | LOCAL if name == node else state for state, name in zip(states, nodes, strict=True)]
    hinted = any(each.hints for each in usable)
    return SliceFacts(
        service=ObjectKey(meta.namespace and sys.intern(meta.namespace), service),
        name=meta.name,
        family=family,
        ports=tuple(
            [
                SlicePort(sys.intern(port.name or ""), port.protocol, port.port.to_bytes(2))
                for port in entry.ports
                if port.port is not None and 0 < port.port <= 0xFFFF
            ]
        ),
        addresses=addresses,
        states=bytes(states),
        nodes=tuple(nodes),
        hints=tuple(map(_hints, usable)) if hinted else (),
        problems=tuple([f"EndpointSlice {entry.key}: {each}" for each in problems]) if problems else (),
    )


_MAYBE_SPECIAL = frozenset({0, 127, 169, *range(224, 256)})
"""First bytes of IPv4 addresses that `special` is asked about."""


def _usable(endpoints: Sequence[Endpoint], family: Family) -> tuple[Sequence[Endpoint], bytes, list[str]]:
    """Endpoints whose first address is one of the family that a pod can have, these packed, and problems of the others."""
    if family is Family.IPV4:
        texts = [each.addresses[0] for each in endpoints if each.addresses]
        addresses = _packed4(texts)
        if addresses is not None and len(texts) == len(endpoints) and _MAYBE_SPECIAL.isdisjoint(addresses[::4]):
            return endpoints, addresses, []
    usable, found, problems = [], [], []
    for index, each in enumerate(endpoints):
        if not each.addresses:
            continue
        text = each.addresses[0]
        address = _packed4([text]) if family is Family.IPV4 else _packed6(text)
        if address is None:
            problems.append(f'endpoints[{index}].addresses[0]: "{text}" is not an IPv{family} address')
        elif (why := special(address)) is not None:
            problems.append(f"endpoints[{index}].addresses[0]: {text} {why}")
        else:
            usable.append(each)
            found.append(address)
    return usable, b"".join(found), problems


def _packed4(texts: Sequence[str]) -> bytes | None:
    """All at once, which is fast; None: at least one is no IPv4 address."""
    try:
        return b"".join(map(inet_pton, repeat(AF_INET), texts))
    except (OSError, ValueError):
        return None


def _packed6(text: str) -> bytes | None:
    try:
        return IPv6Address(text).packed
    except AddressValueError:
        return None


_NO_HINTS = Hints()


def _hints(endpoint: Endpoint) -> Hints:
    hints = endpoint.hints
    if hints is None:
        return _NO_HINTS
    return Hints(tuple(each.name for each in hints.forNodes), tuple(each.name for each in hints.forZones))
