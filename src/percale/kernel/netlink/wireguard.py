"""WireGuard's devices and peers as generic netlink messages (linux/wireguard.h), both ways; pure. Sent by `rtnl/wireguard.py`.

A message names a device by its index. Many peers are spread over several messages, and answers are so by the kernel: a nested
attribute holds 64 KiB at the most.
"""

from __future__ import annotations

import socket
import struct
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_network

from msgspec.structs import replace

from percale.kernel.netlink.socket import attribute, attribute_list, attributes, nested, number, text, u32
from percale.model.addresses import IPNetwork
from percale.render.objects import Endpoint, WireguardDevice, WireguardObject, WireguardPeer
from percale.secret import Secret

CONTROL = 0x10
"""The family of generic netlink that knows the others' numbers."""
_GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 3, 1, 2
_GET, _SET = 0, 1
_INDEX, _PRIVATE_KEY, _PORT, _MARK, _PEERS = 1, 3, 6, 7, 8
_PUBLIC_KEY, _PRESHARED_KEY, _FLAGS, _ENDPOINT, _KEEPALIVE, _ALLOWED = 1, 2, 3, 4, 5, 9
_REMOVE, _REPLACE_ALLOWED, _UPDATE_ONLY = 1, 2, 4
_FAMILY, _ADDRESS, _LENGTH = 1, 2, 3
_NO_KEY = bytes(32)
_HEADER = struct.Struct("=BBH")
_U16 = struct.Struct("=H")
_MOST = 32 * 1024
"""Bytes of peers in one message: half of what fits."""


def query_family(name: str) -> bytes:
    """Ask `CONTROL` for a family's number, which loads its module."""
    return _HEADER.pack(_GET_FAMILY, 1, 0) + text(_FAMILY_NAME, name)


def decode_family(body: bytes) -> int:
    return number(attributes(body, 4)[_FAMILY_ID])


def query(index: int) -> bytes:
    """A device and all its peers."""
    return _HEADER.pack(_GET, 1, 0) + u32(_INDEX, index)


def put_device(desired: WireguardDevice, index: int) -> bytes:
    """A new private key ends all sessions, an equal one changes nothing."""
    key = desired.private_key.reveal() if desired.private_key is not None else _NO_KEY
    port = attribute(_PORT, _U16.pack(desired.port))
    return _device(index, attribute(_PRIVATE_KEY, key), port, u32(_MARK, desired.mark))


def put_peer(desired: WireguardPeer) -> bytes:
    """For `put_peers`. What the peer had is replaced."""
    fields = [
        attribute(_PUBLIC_KEY, b64decode(desired.public_key)),
        attribute(_PRESHARED_KEY, desired.preshared_key.reveal() if desired.preshared_key is not None else _NO_KEY),
        u32(_FLAGS, _REPLACE_ALLOWED),
        attribute(_KEEPALIVE, _U16.pack(desired.keepalive)),
        nested(_ALLOWED, *map(_encode_allowed, desired.allowed)),
    ]
    if desired.endpoint is not None:
        fields.append(attribute(_ENDPOINT, _encode_endpoint(desired.endpoint)))
    return nested(0, *fields)


def remove_peer(public_key: str) -> bytes:
    """Likewise; that it is gone already is no error."""
    return nested(0, attribute(_PUBLIC_KEY, b64decode(public_key)), u32(_FLAGS, _REMOVE))


def begin_handshake(peer: WireguardPeer) -> bytes:
    """Likewise: the kernel sends to the peer at once when its interval of keepalives becomes more than none."""
    key, only = attribute(_PUBLIC_KEY, b64decode(peer.public_key)), u32(_FLAGS, _UPDATE_ONLY)
    intervals = (0, 1, peer.keepalive)
    return b"".join(nested(0, key, only, attribute(_KEEPALIVE, _U16.pack(each))) for each in intervals)


def put_peers(index: int, peers: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Messages for these, in order, each with the number of peers in it."""
    batch: list[bytes] = []
    size = 0
    for each in peers:
        if batch and size + len(each) > _MOST:
            yield len(batch), _device(index, nested(_PEERS, *batch))
            batch, size = [], 0
        batch.append(each)
        size += len(each)
    if batch:
        yield len(batch), _device(index, nested(_PEERS, *batch))


def _device(index: int, *fields: bytes) -> bytes:
    return _HEADER.pack(_SET, 1, 0) + u32(_INDEX, index) + b"".join(fields)


@lru_cache(maxsize=32768)
def _encode_allowed(net: IPNetwork) -> bytes:
    family = socket.AF_INET if net.version == 4 else socket.AF_INET6
    return nested(
        0,
        attribute(_FAMILY, _U16.pack(family)),
        attribute(_ADDRESS, net.network_address.packed),
        attribute(_LENGTH, bytes((net.prefixlen,))),
    )


def _encode_endpoint(endpoint: Endpoint) -> bytes:
    """A struct sockaddr_in or sockaddr_in6."""
    address, port = endpoint.address, endpoint.port.to_bytes(2, "big")
    if address.version == 4:
        return _U16.pack(socket.AF_INET) + port + address.packed + bytes(8)
    return _U16.pack(socket.AF_INET6) + port + bytes(4) + address.packed + bytes(4)


def decode(name: str, bodies: Iterable[bytes]) -> list[WireguardObject]:
    """A device of this name and its peers, from the messages that answer a query; a peer may go on in the next one."""
    device: WireguardDevice | None = None
    peers: dict[str, WireguardPeer] = {}
    for body in bodies:
        found = attributes(body, 4)
        if device is None:
            key = Secret(found[_PRIVATE_KEY]) if _PRIVATE_KEY in found else None
            device = WireguardDevice(name, key, number(found[_PORT]), number(found.get(_MARK, b"")))
        for _, data in attribute_list(found.get(_PEERS, b"")):
            peer = _decode_peer(name, attributes(data))
            before = peers.get(peer.public_key)
            peers[peer.public_key] = peer if before is None else replace(before, allowed=before.allowed | peer.allowed)
    return [device, *peers.values()] if device is not None else []


def _decode_peer(name: str, found: dict[int, bytes]) -> WireguardPeer:
    preshared = found.get(_PRESHARED_KEY, _NO_KEY)
    return WireguardPeer(
        name,
        b64encode(found[_PUBLIC_KEY]).decode(),
        _decode_endpoint(found[_ENDPOINT]) if _ENDPOINT in found else None,
        _decode_allowed(found.get(_ALLOWED, b"")),
        Secret(preshared) if preshared != _NO_KEY else None,
        number(found.get(_KEEPALIVE, b"")),
    )


@lru_cache(maxsize=32768)
def _decode_allowed(data: bytes) -> frozenset[IPNetwork]:
    """Networks are slow to make, and the same peers are read again and again."""
    found = (attributes(each) for _, each in attribute_list(data))
    return frozenset(ip_network((each[_ADDRESS], each[_LENGTH][0])) for each in found)


def _decode_endpoint(data: bytes) -> Endpoint:
    port = int.from_bytes(data[2:4], "big")
    if number(data[:2]) == socket.AF_INET:
        return Endpoint(IPv4Address(data[4:8]), port)
    return Endpoint(IPv6Address(data[8:24]), port)
