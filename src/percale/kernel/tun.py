"""TUN devices: made for good, and opened by the program that carries their packets (linux/if_tun.h).

rtnetlink can change and delete such a device, but not create it. The driver and `backend/udp/tunnel.py` call.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

_PATH = "/dev/net/tun"
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOFFLOAD = 0x400454CA, 0x400454CB, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_TUN_EXCL = 0x0001, 0x1000, 0x4000, 0x8000
_F_CSUM, _F_TSO4 = 0x01, 0x02


def create(name: str) -> None:
    """A device that stays without a program. Raises OSError, FileExistsError where one has the name."""
    descriptor = _open(name, _IFF_TUN_EXCL)
    try:
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)


def attach(name: str) -> int:
    """The descriptor of an existing device, not blocking: each packet has a `VnetHeader`, TCP ones may be of 64 KiB.

    Raises OSError: ENODEV without such a device, EBUSY while another program has it.
    """
    socket.if_nametoindex(name)  # TUNSETIFF would make one
    descriptor = _open(name, 0)
    try:
        fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _F_CSUM | _F_TSO4)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _open(name: str, flags: int) -> int:
    try:
        descriptor = os.open(_PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(errno.EOPNOTSUPP, f"{_PATH}: {error.strerror}") from error
    try:
        request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR | flags)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
