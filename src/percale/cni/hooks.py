"""What `attachments.py` calls: policies and host ports before an ADD and after a DEL, and the tables of the pods' guards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from percale.cni.records import Attachment
from percale.render.network.elements import Element


class PodHook(Protocol):
    """Both are called on the event loop."""

    async def before_add(self, attachment: Attachment) -> None:
        """The pod is about to get these addresses and host ports: returns once the kernel is ready. Raises PercaleError."""

    def after_del(self, attachment: Attachment) -> None:
        """The pod's devices are gone. Without a `before_add`: no effect."""


class GuardTables(Protocol):
    """Where a pod's guard elements are declared. Both are called on the event loop."""

    def declare(self, source: str, elements: Iterable[Element]) -> None:
        """Replace all elements of this source; () withdraws them."""

    async def wait_applied(self, source: str) -> None:
        """Returns once the kernel holds them. Raises KernelError."""
