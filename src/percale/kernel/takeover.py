"""Makes existing devices ours and gives them back, without a packet lost. Called by `agent/migration`."""

from __future__ import annotations

import errno
from contextlib import closing

from percale.kernel.netlink import link
from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.ifinfo import NAME, header
from percale.kernel.netlink.link import Device
from percale.kernel.netlink.socket import Request, text
from percale.kernel.rtnl.link_cache import LinkCache
from percale.render.objects import OWNER


class Devices:
    """Of the caller's namespace. Every method blocks and raises OSError."""

    def all(self) -> list[Device]:
        with closing(netlink.Socket(netlink.ROUTE)) as socket:
            return LinkCache(socket).load()

    def set_owner(self, device: Device, *, ours: bool) -> None:
        """The owner's mark: what is on a device of ours counts as ours."""
        _send(header(device.index) + text(link.ALIAS, OWNER if ours else ""))

    def rename(self, device: Device, name: str) -> None:
        """Kernels before 6.2 rename a device only while it is down: then it is, for that moment."""
        renamed = header(device.index) + text(NAME, name)
        try:
            _send(renamed)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            _send(header(device.index, up=False), renamed, header(device.index, up=True))


def _send(*bodies: bytes) -> None:
    """In one send, which the kernel completes even if we are killed meanwhile."""
    with closing(netlink.Socket(netlink.ROUTE)) as socket:
        for error in socket.request([Request(link.RTM_NEWLINK, 0, body) for body in bodies]):
            if error is not None:
                raise error
