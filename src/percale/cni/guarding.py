"""Who must know of a pod's addresses before its ADD answers: whoever enforces policies. `attaching.py` tells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from percale.model.meta import ObjectKey
from percale.render.objects import IPAddress


class PodGuard(Protocol):
    """Both are called on the event loop."""

    async def admit(self, pod: ObjectKey, addresses: Iterable[IPAddress]) -> None:
        """The pod is about to have these addresses: returns when its rules are in place. Raises PercaleError."""

    def dismiss(self, pod: ObjectKey) -> None:
        """The pod has no wires any more."""
