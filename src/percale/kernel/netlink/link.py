"""Network devices as rtnetlink messages, both ways; pure. Sent by `rtnl/driver.py`, received by `rtnl/dump.py` and `monitor.py`.

What a kind of device has of its own is in `link_kinds`.

A device that is not there is created; one whose immutable attributes differ is recreated; all else is set in place.
The kernel takes a new device's alias and bridge port settings only in a second message, which goes by an index of our choice.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from msgspec import Struct

from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.ifinfo import (
    ADDRESS,
    HEADER,
    IFF_LOWER_UP,
    IFF_NOARP,
    IFF_UP,
    MTU,
    NAME,
    IndexOf,
    NameOf,
    header,
    mac_bytes,
    mac_text,
    new_device,
)
from percale.kernel.netlink.link_kinds.registry import CODECS, codec_of
from percale.kernel.netlink.socket import Request, attribute, attributes, nested, number, string, text, u8, u32
from percale.render.link_kinds import LinkKind
from percale.render.objects import OWNER, Link

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18

_MASTER, _OPERSTATE, _INFO, ALIAS, _GROUP, _EXT_MASK = 10, 16, 18, 20, 27, 29
_OPER_UP = 6
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_PORT_HAIRPIN = 4
_SKIP_STATISTICS = 8
_LEAVING = 0x70657263
"""The group of devices to be deleted; used for nothing else."""


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
    data: bytes = b""
    """The attributes of its kind, as they came."""

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)

    @property
    def carrier(self) -> bool:
        return bool(self.flags & IFF_LOWER_UP)

    @property
    def has_fdb(self) -> bool:
        """Its forwarding entries are objects of ours."""
        codec = CODECS.get(self.kind or "")
        return codec is not None and codec.has_fdb

    @property
    def ours(self) -> bool:
        return self.alias == OWNER


def query(name: str) -> bytes:
    """The body of a query for one device."""
    return HEADER.pack(0, 0, 0, 0, 0) + text(NAME, name) + u32(_EXT_MASK, _SKIP_STATISTICS)


def query_index(index: int) -> bytes:
    """The body of a query for one device, by its index."""
    return HEADER.pack(0, 0, index, 0, 0) + u32(_EXT_MASK, _SKIP_STATISTICS)


def query_all() -> bytes:
    """The body of a query for all devices."""
    return HEADER.pack(0, 0, 0, 0, 0) + u32(_EXT_MASK, _SKIP_STATISTICS)


def decode(body: bytes) -> Device:
    """A device from a NEWLINK or DELLINK message."""
    _, _, index, flags, _ = HEADER.unpack_from(body)
    found = attributes(body, 16)
    info = attributes(found.get(_INFO, b""))
    kind = string(info[_INFO_KIND]) if _INFO_KIND in info else None
    hairpin = None
    if string(info.get(_INFO_SLAVE_KIND, b"")) == "bridge":
        hairpin = bool(attributes(info.get(_INFO_SLAVE_DATA, b"")).get(_PORT_HAIRPIN, b"\0")[0])
    return Device(
        index=index,
        name=string(found.get(NAME, b"")),
        kind=kind,
        flags=flags,
        mtu=number(found.get(MTU, b"")),
        mac=mac_text(found[ADDRESS]) if len(found.get(ADDRESS, b"")) == 6 else None,
        alias=string(found.get(ALIAS, b"")),
        master=number(found[_MASTER]) if _MASTER in found else None,
        hairpin=hairpin,
        operational=found.get(_OPERSTATE, b"\0")[0] == _OPER_UP,
        data=info.get(_INFO_DATA, b""),
    )


def as_link(device: Device, name_of: NameOf) -> Link:
    """The device as our object; a veth's peer is not known."""
    codec = CODECS.get(device.kind or "")
    return Link(
        name=device.name,
        kind=codec.decode(attributes(device.data), name_of) if codec is not None else None,
        up=device.up,
        mtu=device.mtu,
        mac=device.mac,
        master=name_of(device.master) if device.master else None,
        hairpin=device.hairpin,
        arp=not device.flags & IFF_NOARP,
        alias=device.alias,
    )


def needs_new_device(desired: Link, actual: Link) -> bool:
    """True when the actual device cannot be changed into the desired one."""
    return desired.kind is not None and _kind_change(desired.kind, actual.kind) is None


def has_kind(desired: LinkKind | None, actual: LinkKind | None) -> bool:
    """True when the attributes of a device's kind are as desired."""
    return desired is None or _kind_change(desired, actual) == []


def _kind_change(desired: LinkKind, actual: LinkKind | None) -> list[bytes] | None:
    """The attributes of its kind to be set in place; None: it takes a new device."""
    return codec_of(desired).change(desired, actual) if type(actual) is type(desired) else None


def create(desired: Link, index: int, index_of: IndexOf) -> list[Request]:
    """Create the device, then apply the settings that creation does not take. Raises OSError: no such lower device, no peer.

    `index` is unused. The second message refers to it: by name it could reach a device made by others meanwhile.
    """
    kind = desired.kind
    if kind is None:
        raise OSError(errno.ENODEV, f"no device {desired.name} here")
    body = [header(index, desired.up, desired.arp), *new_device(desired.name, desired.mac, desired.mtu)]
    if desired.master is not None:
        body.append(u32(_MASTER, index_of(desired.master)))
    body.append(_info(kind, codec_of(kind).encode(kind, index_of)))
    settled = [header(index), text(ALIAS, desired.alias), *_port(desired.hairpin)]
    return [
        Request(RTM_NEWLINK, netlink.CREATE | netlink.EXCLUSIVE, b"".join(body)),
        Request(RTM_NEWLINK, 0, b"".join(settled)),
    ]


def change(desired: Link, actual: Link, index: int, index_of: IndexOf) -> list[Request]:
    """Change in place what differs; [] when nothing does."""
    body: list[bytes] = []
    if desired.mtu is not None and desired.mtu != actual.mtu:
        body.append(u32(MTU, desired.mtu))
    if desired.mac is not None and desired.mac != actual.mac:
        body.append(attribute(ADDRESS, mac_bytes(desired.mac)))
    if desired.master is not None and desired.master != actual.master:
        body.append(u32(_MASTER, index_of(desired.master)))
    if desired.kind is not None:
        if desired.alias != actual.alias:
            body.append(text(ALIAS, desired.alias))
        if data := _kind_change(desired.kind, actual.kind):
            body.append(_info(desired.kind, data))
    requests = []
    arp = desired.arp if desired.arp != actual.arp else None
    if body or desired.up != actual.up or arp is not None:
        first = header(index, desired.up if desired.up != actual.up else None, arp)
        requests.append(Request(RTM_NEWLINK, 0, first + b"".join(body)))
    if desired.hairpin is not None and (desired.hairpin != actual.hairpin):
        requests.append(Request(RTM_NEWLINK, 0, header(index) + b"".join(_port(desired.hairpin))))
    return requests


def delete(index: int) -> Request:
    """Delete the device; that it is gone is no error."""
    return Request(RTM_DELLINK, 0, header(index), frozenset({errno.ENODEV}))


def delete_together(indices: Sequence[int]) -> list[Request]:
    """Delete several devices at the cost of one: the kernel waits once for all references to be released.

    They are put into a group of their own, which is then removed as a whole.
    """
    group = u32(_GROUP, _LEAVING)
    gone = frozenset({errno.ENODEV})
    joining = [Request(RTM_NEWLINK, 0, header(index) + group, gone) for index in indices]
    return [*joining, Request(RTM_DELLINK, 0, header(0) + group, gone)]


def _info(kind: LinkKind, data: list[bytes]) -> bytes:
    """IFLA_LINKINFO; a kind without attributes has no data."""
    name = attribute(_INFO_KIND, kind.name.encode())
    return nested(_INFO, name, nested(_INFO_DATA, *data)) if data else nested(_INFO, name)


def _port(hairpin: bool | None) -> list[bytes]:
    """Settings of a bridge's port."""
    if hairpin is None:
        return []
    mode = nested(_INFO_SLAVE_DATA, u8(_PORT_HAIRPIN, hairpin))
    return [nested(_INFO, attribute(_INFO_SLAVE_KIND, b"bridge"), mode)]
