"""Who must act before a pod's ADD is answered and after its DEL: policies and host ports. `attachments.py` calls them."""

from __future__ import annotations

from typing import Protocol

from percale.cni.records import Attachment


class PodHook(Protocol):
    """Both are called on the event loop."""

    async def before_add(self, attachment: Attachment) -> None:
        """The pod is about to get these addresses and host ports: returns once the kernel is ready. Raises PercaleError."""

    def after_del(self, attachment: Attachment) -> None:
        """The pod's devices are gone. Without a `before_add`: no effect."""
