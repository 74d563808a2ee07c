"""Who must know of a pod's addresses before its ADD answers: policies and host ports. `attachments.py` tells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from percale.cni.records import Attachment
from percale.ipam.address_pool import Owner
from percale.model.meta import ObjectKey
from percale.render.objects import IPAddress


class PodGuard(Protocol):
    """Both are called on the event loop."""

    async def admit(self, pod: ObjectKey, addresses: Iterable[IPAddress]) -> None:
        """The pod is about to have these addresses: returns when its rules are in place. Raises PercaleError."""

    def dismiss(self, pod: ObjectKey, addresses: Iterable[IPAddress]) -> None:
        """The pod has no wires with these addresses any more."""


class PortOpener(Protocol):
    """Both are called on the event loop."""

    async def open(self, attachment: Attachment) -> None:
        """The pod is reached at its host ports when this returns. Raises PercaleError."""

    def close(self, owner: Owner) -> None:
        """The pod is reached there no more; that it never was is no error."""
