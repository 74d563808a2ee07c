"""Shapers (tbf at a device's root) and redirects (all ingress of a device passes an ifb) as rtnetlink messages; pure.

A redirect is an ingress qdisc with one u32 filter that matches everything and a mirred action that sends it on.
"""

from __future__ import annotations

import errno
import socket
import struct

from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import (
    Request,
    attribute,
    attribute_list,
    attributes,
    nested,
    number,
    string,
    text,
    u32,
)
from percale.render.objects import Shaper

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWFILTER, RTM_GETFILTER = 44, 46

LATENCY = 0.025
"""Seconds that a packet may wait for tokens."""

_HEADER = struct.Struct("=BxxxiIII")
_KIND, _OPTIONS = 1, 2
_ROOT, _INGRESS, _INGRESS_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000
_SHAPER_HANDLE = 0x00010000

_TBF_PARAMETERS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_TBF_OPTIONS = struct.Struct("=BBHhHI12xIII")
"""rate (cell_log, linklayer, overhead, cell_align, mpu, rate), peak rate (none), limit, buffer, mtu."""
_LINKLAYER_ETHERNET = 1
_TICK = 64
"""Nanoseconds of one tick of the kernel's packet scheduler clock."""
_MOST_32 = 0xFFFFFFFF

_U32_SELECTOR, _U32_ACTIONS = 5, 7
_TERMINAL = 1
_ACTION_KIND, _ACTION_OPTIONS = 1, 2
_MIRRED_PARAMETERS = 2
_MIRRED = struct.Struct("=IIiiiiI")
_EGRESS_REDIRECT = 1
_STOLEN = 4
_ALL_PROTOCOLS = socket.htons(3)
_PRIORITY = 1 << 16

_GONE = frozenset({errno.ENOENT, errno.EINVAL, errno.ENODEV})


def put_shaper(desired: Shaper, index: int) -> list[Request]:
    """Replace the device's root qdisc by a tbf."""
    rate, burst = max(1, desired.rate // 8), max(1, desired.burst // 8)
    limit = min(_MOST_32, int(rate * LATENCY) + burst)
    # Some kernels compute the bucket from `buffer`, newer ones from the burst attribute.
    buffer = min(_MOST_32, burst * 1_000_000_000 // rate // _TICK)
    options = _TBF_OPTIONS.pack(0, _LINKLAYER_ETHERNET, 0, 0, 0, min(rate, _MOST_32), limit, buffer, 0)
    data = [attribute(_TBF_PARAMETERS, options), u32(_TBF_BURST, burst)]
    if rate > _MOST_32:
        data.append(attribute(_TBF_RATE64, struct.pack("=Q", rate)))
    body = _HEADER.pack(0, index, _SHAPER_HANDLE, _ROOT, 0) + text(_KIND, "tbf") + nested(_OPTIONS, *data)
    return [*remove_shaper(index), Request(RTM_NEWQDISC, netlink.CREATE | netlink.EXCLUSIVE, body)]


def remove_shaper(index: int) -> list[Request]:
    """Restore the kernel's default root."""
    return [Request(RTM_DELQDISC, 0, _HEADER.pack(0, index, 0, _ROOT, 0), _GONE)]


def put_redirect(index: int, to: int) -> list[Request]:
    """Redirect the device's ingress through `to`."""
    qdisc = _HEADER.pack(0, index, _INGRESS_HANDLE, _INGRESS, 0) + text(_KIND, "ingress")
    selector = struct.pack("=BBBxHHhhI", _TERMINAL, 0, 1, 0, 0, 0, 0, 0) + bytes(16)
    mirred = _MIRRED.pack(0, 0, _STOLEN, 0, 0, _EGRESS_REDIRECT, to)
    action = text(_ACTION_KIND, "mirred") + nested(_ACTION_OPTIONS, attribute(_MIRRED_PARAMETERS, mirred))
    match_all = nested(_OPTIONS, attribute(_U32_SELECTOR, selector), nested(_U32_ACTIONS, nested(1, action)))
    header = _HEADER.pack(0, index, 0, _INGRESS_HANDLE, _PRIORITY | _ALL_PROTOCOLS)
    return [
        *remove_redirect(index),
        Request(RTM_NEWQDISC, netlink.CREATE | netlink.EXCLUSIVE, qdisc),
        Request(RTM_NEWFILTER, netlink.CREATE | netlink.EXCLUSIVE, header + text(_KIND, "u32") + match_all),
    ]


def remove_redirect(index: int) -> list[Request]:
    """Delete the ingress qdisc and its filter."""
    return [Request(RTM_DELQDISC, 0, _HEADER.pack(0, index, _INGRESS_HANDLE, _INGRESS, 0), _GONE)]


def query_qdiscs() -> bytes:
    return _HEADER.pack(0, 0, 0, 0, 0)


def query_filters(index: int) -> bytes:
    """The filters of a device's ingress."""
    return _HEADER.pack(0, index, 0, _INGRESS_HANDLE, 0)


def device_of(body: bytes) -> int:
    """The index of the device that a qdisc or filter is on."""
    return int(_HEADER.unpack_from(body)[1])


def is_ingress(body: bytes) -> bool:
    """True for an ingress qdisc."""
    return bool(_HEADER.unpack_from(body)[3] == _INGRESS)


def decode_shaper(body: bytes) -> tuple[int, int] | None:
    """(rate, burst) of a tbf at the root, in bits a second and bits; None for any other qdisc."""
    _, _, _, parent, _ = _HEADER.unpack_from(body)
    found = attributes(body, 20)
    if parent != _ROOT or string(found.get(_KIND, b"")) != "tbf":
        return None
    options = attributes(found[_OPTIONS])
    *_, rate, _, buffer, _ = _TBF_OPTIONS.unpack_from(options[_TBF_PARAMETERS])
    if _TBF_RATE64 in options:
        rate = number(options[_TBF_RATE64])
    return rate * 8, buffer * _TICK * rate * 8 // 1_000_000_000


def decode_redirect(body: bytes) -> int | None:
    """The index of the device that a filter sends everything to; None for any other filter."""
    found = attributes(body, 20)
    if string(found.get(_KIND, b"")) != "u32":
        return None
    for _, action in attribute_list(attributes(found.get(_OPTIONS, b"")).get(_U32_ACTIONS, b"")):
        parts = attributes(action)
        if string(parts.get(_ACTION_KIND, b"")) == "mirred":
            mirred = attributes(parts.get(_ACTION_OPTIONS, b"")).get(_MIRRED_PARAMETERS)
            if mirred is not None:
                return int(_MIRRED.unpack_from(mirred)[6])
    return None
