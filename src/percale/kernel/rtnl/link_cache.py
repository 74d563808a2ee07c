"""Devices by name and by index, queried on demand and cached for one batch of changes."""

from __future__ import annotations

import errno

from percale.kernel.netlink import link
from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.link import Device
from percale.kernel.plan import dependencies_of
from percale.render.objects import KernelObject, Link


class LinkCache:
    """Devices of the kernel, cached for one batch or one read."""

    def __init__(self, socket: netlink.Socket) -> None:
        self._socket = socket
        self._by_name: dict[str, Device | None] = {}
        self._by_index: dict[int, Device | None] = {}
        self._excluded: set[str] = set()

    def load(self) -> list[Device]:
        """All of them at once."""
        found = [link.decode(message.body) for message in self._socket.dump(link.RTM_GETLINK, link.query_all())]
        for device in found:
            self._remember(device)
        return found

    def _remember(self, device: Device) -> None:
        self._by_name[device.name] = device
        self._by_index[device.index] = device

    def find(self, name: str) -> Device | None:
        """The device of this name, None when there is none. Raises OSError."""
        if name not in self._by_name:
            self._by_name[name] = device = self._ask(link.query(name))
            if device is not None:
                self._remember(device)
        return self._by_name[name]

    def _ask(self, question: bytes) -> Device | None:
        try:
            answer = self._socket.ask(link.RTM_GETLINK, question)
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.EINVAL, errno.ERANGE):
                return None
            raise
        return link.decode(answer.body) if answer is not None else None

    def invalidate(self, name: str) -> None:
        """It was changed: query it again."""
        device = self._by_name.pop(name, None)
        if device is not None:
            self._by_index.pop(device.index, None)

    def exclude(self, name: str) -> None:
        """The device of this name is foreign although we want our own: nothing of ours may be added to it."""
        self._excluded.add(name)

    def check_allowed(self, obj: KernelObject) -> None:
        """Raises OSError (ENODEV) when the object would be added to an excluded device."""
        for kind, name in dependencies_of(obj) if self._excluded else ():
            if kind == "link" and name in self._excluded:
                raise OSError(errno.ENODEV, f"no device {name} of ours here")

    def index(self, name: str) -> int:
        """Raises OSError (ENODEV)."""
        device = self.find(name)
        if device is None:
            raise OSError(errno.ENODEV, f"no device {name} here")
        return device.index

    def name(self, index: int) -> str | None:
        """None when there is no device of this index here (its other end may be in another namespace)."""
        if index not in self._by_index:
            self._by_index[index] = self._ask(link.query_index(index))
        device = self._by_index[index]
        return device.name if device is not None else None

    def link(self, device: Device) -> Link:
        """The device as our object."""
        return link.as_link(device, self.name)
