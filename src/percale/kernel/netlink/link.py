"""Network devices as rtnetlink messages, both ways; pure. Sent by `rtnl/driver.py`, received by `rtnl/dump.py` and `monitor.py`.

A device that is not there is created; one whose unchangeable attributes differ is made anew; all else is set in place.
The kernel takes a new device's alias and bridge port settings only in a second message, which goes by an index of our choice.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal, TypeAlias, cast

from msgspec import Struct
from msgspec.structs import replace

from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import (
    Request,
    attribute,
    attributes,
    nested,
    number,
    string,
    text,
    u8,
    u16_network,
    u32,
)
from percale.render.objects import OWNER, Bridge, IPAddress, Link, Peer, Vxlan

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18

IFF_UP = 0x1
IFF_NOARP = 0x80
IFF_LOWER_UP = 0x10000

_HEADER = struct.Struct("=BxHiII")
_ADDRESS, _NAME, _MTU, _LINK, _MASTER, _OPERSTATE, _INFO = 1, 3, 4, 5, 10, 16, 18
_OPER_UP = 6
_ALIAS, _GROUP, _NAMESPACE_DESCRIPTOR, _EXT_MASK = 20, 27, 28, 29
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VXLAN_ID, _VXLAN_LINK, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PORT, _VXLAN_LOCAL6, _VXLAN_GBP = 1, 3, 4, 7, 15, 17, 23
_BRIDGE_SNOOPING, _BRIDGE_OPTIONS = 23, 46
_NO_RESERVED_LEARNING = 0x1
"""Of a bridge's options, two words: values, and their mask."""
_VETH_PEER = 1
_PORT_HAIRPIN = 4
_SKIP_STATISTICS = 8
_LEAVING = 0x70657263
"""The group of devices to be deleted; used by nobody else."""
_KINDS = ("vxlan", "bridge", "veth", "ifb")

Kind: TypeAlias = Literal["vxlan", "bridge", "veth", "ifb"]
NameOf: TypeAlias = Callable[[int], str | None]
"""The name of the device with this index, None when it is not known here."""
IndexOf: TypeAlias = Callable[[str], int]
"""The index of the device of this name. Raises OSError (ENODEV)."""


class Device(Struct, frozen=True):
    """A device as the kernel reports it; `kind` is any of the kernel's, ours or not."""

    index: int
    name: str
    kind: str | None
    flags: int
    mtu: int
    mac: str | None
    alias: str
    master: int | None = None
    hairpin: bool | None = None
    operational: bool = False
    """It carries packets (operstate UP), which the kernel's link watch sets some time after carrier."""
    data: dict[int, bytes] = {}
    """The attributes of a device of its kind."""

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)

    @property
    def carrier(self) -> bool:
        return bool(self.flags & IFF_LOWER_UP)

    @property
    def ours(self) -> bool:
        return self.alias == OWNER


def mac_bytes(mac: str) -> bytes:
    """`02:…` as six bytes."""
    return bytes.fromhex(mac.replace(":", ""))


def mac_text(payload: bytes) -> str:
    """Six bytes as `02:…`."""
    return payload.hex(":")


def query(name: str) -> bytes:
    """The body of a query for one device."""
    return _HEADER.pack(0, 0, 0, 0, 0) + text(_NAME, name) + u32(_EXT_MASK, _SKIP_STATISTICS)


def query_index(index: int) -> bytes:
    """The body of a query for one device, by its index."""
    return _HEADER.pack(0, 0, index, 0, 0) + u32(_EXT_MASK, _SKIP_STATISTICS)


def query_all() -> bytes:
    """The body of a query for all devices."""
    return _HEADER.pack(0, 0, 0, 0, 0) + u32(_EXT_MASK, _SKIP_STATISTICS)


def decode(body: bytes) -> Device:
    """A device from a NEWLINK or DELLINK message."""
    _, _, index, flags, _ = _HEADER.unpack_from(body)
    found = attributes(body, 16)
    info = attributes(found.get(_INFO, b""))
    kind = string(info[_INFO_KIND]) if _INFO_KIND in info else None
    hairpin = None
    if string(info.get(_INFO_SLAVE_KIND, b"")) == "bridge":
        hairpin = bool(attributes(info.get(_INFO_SLAVE_DATA, b"")).get(_PORT_HAIRPIN, b"\0")[0])
    return Device(
        index=index,
        name=string(found.get(_NAME, b"")),
        kind=kind,
        flags=flags,
        mtu=number(found.get(_MTU, b"")),
        mac=mac_text(found[_ADDRESS]) if len(found.get(_ADDRESS, b"")) == 6 else None,
        alias=string(found.get(_ALIAS, b"")),
        master=number(found[_MASTER]) if _MASTER in found else None,
        hairpin=hairpin,
        operational=found.get(_OPERSTATE, b"\0")[0] == _OPER_UP,
        data=attributes(info.get(_INFO_DATA, b"")) if kind in ("vxlan", "bridge") else {},
    )


def as_link(device: Device, name_of: NameOf) -> Link:
    """The device as our object; a veth's peer is not known."""
    return Link(
        name=device.name,
        kind=cast("Kind", device.kind) if device.kind in _KINDS else None,
        up=device.up,
        mtu=device.mtu,
        mac=device.mac,
        master=name_of(device.master) if device.master else None,
        hairpin=device.hairpin,
        arp=not device.flags & IFF_NOARP,
        vxlan=_decode_vxlan(device.data, name_of) if device.kind == "vxlan" else None,
        bridge=_decode_bridge(device.data) if device.kind == "bridge" else None,
        alias=device.alias,
    )


def _decode_vxlan(data: dict[int, bytes], name_of: NameOf) -> Vxlan:
    local: IPAddress = IPv4Address(0)
    if _VXLAN_LOCAL in data:
        local = IPv4Address(data[_VXLAN_LOCAL])
    elif _VXLAN_LOCAL6 in data:
        local = IPv6Address(data[_VXLAN_LOCAL6])
    return Vxlan(
        vni=number(data.get(_VXLAN_ID, b"")),
        local=local,
        dev=name_of(number(data.get(_VXLAN_LINK, b""))) or "",
        port=int.from_bytes(data.get(_VXLAN_PORT, b""), "big"),
        learning=bool(number(data.get(_VXLAN_LEARNING, b"\0"))),
        gbp=_VXLAN_GBP in data,
    )


def _decode_bridge(data: dict[int, bytes]) -> Bridge:
    options = number(data.get(_BRIDGE_OPTIONS, b"")[:4])
    return Bridge(bool(data.get(_BRIDGE_SNOOPING, b"\0")[0]), not options & _NO_RESERVED_LEARNING)


def needs_new_device(desired: Link, actual: Link) -> bool:
    """True when the actual device cannot be changed into the desired one."""
    if desired.kind is None:
        return False
    if desired.kind != actual.kind:
        return True
    if desired.vxlan is None or actual.vxlan is None:
        return desired.vxlan != actual.vxlan
    return replace(desired.vxlan, learning=actual.vxlan.learning) != actual.vxlan


def create(desired: Link, index: int, index_of: IndexOf) -> list[Request]:
    """Create the device, then apply the settings that creation does not take. Raises OSError: no such lower device, no peer.

    `index` is unused. The second message refers to it: by name it could reach a device made by others meanwhile.
    """
    body = [_header(index, desired.up, desired.arp), text(_NAME, desired.name)]
    if desired.mtu is not None:
        body.append(u32(_MTU, desired.mtu))
    if desired.mac is not None:
        body.append(attribute(_ADDRESS, mac_bytes(desired.mac)))
    if desired.master is not None:
        body.append(u32(_MASTER, index_of(desired.master)))
    info = [attribute(_INFO_KIND, (desired.kind or "").encode())]
    if desired.vxlan is not None:
        info.append(nested(_INFO_DATA, *_encode_vxlan(desired.vxlan, index_of)))
    if desired.bridge is not None:
        info.append(nested(_INFO_DATA, *_encode_bridge(desired.bridge)))
    if desired.kind == "veth":
        if desired.peer is None:
            raise OSError(
                errno.ENODEV, f"the pair {desired.name} is gone and can only be made again together with its other end"
            )
        info.append(nested(_INFO_DATA, nested(_VETH_PEER, _encode_peer(desired.peer))))
    body.append(nested(_INFO, *info))
    settled = [_header(index, None), text(_ALIAS, desired.alias), *_port(desired.hairpin)]
    return [
        Request(RTM_NEWLINK, netlink.CREATE | netlink.EXCLUSIVE, b"".join(body)),
        Request(RTM_NEWLINK, 0, b"".join(settled)),
    ]


def change(desired: Link, actual: Link, index: int, index_of: IndexOf) -> list[Request]:
    """Change in place what differs; [] when nothing does."""
    body: list[bytes] = []
    if desired.mtu is not None and desired.mtu != actual.mtu:
        body.append(u32(_MTU, desired.mtu))
    if desired.mac is not None and desired.mac != actual.mac:
        body.append(attribute(_ADDRESS, mac_bytes(desired.mac)))
    if desired.master is not None and desired.master != actual.master:
        body.append(u32(_MASTER, index_of(desired.master)))
    if desired.kind is not None and desired.alias != actual.alias:
        body.append(text(_ALIAS, desired.alias))
    if desired.vxlan is not None and actual.vxlan is not None and desired.vxlan.learning != actual.vxlan.learning:
        learning = u8(_VXLAN_LEARNING, desired.vxlan.learning)
        body.append(nested(_INFO, attribute(_INFO_KIND, b"vxlan"), nested(_INFO_DATA, learning)))
    if desired.bridge is not None and desired.bridge != actual.bridge:
        body.append(
            nested(_INFO, attribute(_INFO_KIND, b"bridge"), nested(_INFO_DATA, *_encode_bridge(desired.bridge)))
        )
    requests = []
    arp = desired.arp if desired.arp != actual.arp else None
    if body or desired.up != actual.up or arp is not None:
        header = _header(index, desired.up if desired.up != actual.up else None, arp)
        requests.append(Request(RTM_NEWLINK, 0, header + b"".join(body)))
    if desired.hairpin is not None and (desired.hairpin != actual.hairpin):
        requests.append(Request(RTM_NEWLINK, 0, _header(index, None) + b"".join(_port(desired.hairpin))))
    return requests


def delete(index: int) -> Request:
    """Delete the device; that it is gone is no error."""
    return Request(RTM_DELLINK, 0, _header(index, None), frozenset({errno.ENODEV}))


def delete_together(indices: Sequence[int]) -> list[Request]:
    """Delete several devices at the cost of one: the kernel waits once for all references to be released.

    They are put into a group of their own, which is then removed as a whole.
    """
    group = u32(_GROUP, _LEAVING)
    gone = frozenset({errno.ENODEV})
    joining = [Request(RTM_NEWLINK, 0, _header(index, None) + group, gone) for index in indices]
    return [*joining, Request(RTM_DELLINK, 0, _header(0, None) + group, gone)]


def _header(index: int, up: bool | None, arp: bool | None = None) -> bytes:
    """Settings that are None are left as they are."""
    flags = (IFF_UP if up else 0) | (IFF_NOARP if arp is False else 0)
    mask = (IFF_UP if up is not None else 0) | (IFF_NOARP if arp is not None else 0)
    return _HEADER.pack(socket.AF_UNSPEC, 0, index, flags, mask)


def _encode_vxlan(vxlan: Vxlan, index_of: IndexOf) -> list[bytes]:
    local = ip_address(vxlan.local)
    data = [
        u32(_VXLAN_ID, vxlan.vni),
        u32(_VXLAN_LINK, index_of(vxlan.dev)),
        attribute(_VXLAN_LOCAL if local.version == 4 else _VXLAN_LOCAL6, local.packed),
        u8(_VXLAN_LEARNING, vxlan.learning),
        u16_network(_VXLAN_PORT, vxlan.port),
    ]
    if vxlan.gbp:
        data.append(attribute(_VXLAN_GBP, b""))
    return data


def _encode_bridge(bridge: Bridge) -> list[bytes]:
    options = struct.pack("=II", 0 if bridge.reserved else _NO_RESERVED_LEARNING, _NO_RESERVED_LEARNING)
    return [u8(_BRIDGE_SNOOPING, bridge.snooping), attribute(_BRIDGE_OPTIONS, options)]


def _encode_peer(peer: Peer) -> bytes:
    body = [_header(0, None), text(_NAME, peer.name)]
    if peer.namespace is not None:
        body.append(u32(_NAMESPACE_DESCRIPTOR, peer.namespace))
    if peer.mac is not None:
        body.append(attribute(_ADDRESS, mac_bytes(peer.mac)))
    if peer.mtu is not None:
        body.append(u32(_MTU, peer.mtu))
    return b"".join(body)


def _port(hairpin: bool | None) -> list[bytes]:
    """Settings of a bridge's port."""
    if hairpin is None:
        return []
    mode = nested(_INFO_SLAVE_DATA, u8(_PORT_HAIRPIN, hairpin))
    return [nested(_INFO, attribute(_INFO_SLAVE_KIND, b"bridge"), mode)]
