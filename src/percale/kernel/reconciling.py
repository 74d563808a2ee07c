"""desired − actual = change, for one network namespace, kept so while others interfere.

    want(source, objects) ─▶ desired ─┐
                                      ├─ dirty keys ─▶ ordered changes ─▶ Driver.apply (worker thread)
    Driver.read / .follow  ─▶ actual ─┘                                       │ result per object
                                                                              ▼
                                                             actual, problems, settled()

Callers: the agent (backends, masquerade), cni (pods). SKELETON: the signatures below are the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from percale.errors import KernelError
from percale.kernel.protocol import Driver, Underlay
from percale.render.objects import KernelObject, Key


class Reconciler:
    """All methods are called on the event loop; none of them blocks it."""

    def __init__(self, driver: Driver, *, on_problem: Callable[[str, KernelError], None] | None = None) -> None:
        raise NotImplementedError

    async def start(self) -> None:
        """Read what is there; nothing is removed before `in_sync()`."""

    def want(self, source: str, objects: Iterable[KernelObject]) -> None:
        """These are now all the objects that `source` wishes; () ends its wishes. Applied soon, in one batch."""

    def in_sync(self) -> None:
        """All sources have spoken once: from now on, what is ours and nobody wishes is removed (leftovers)."""

    async def settled(self, source: str) -> None:
        """Wait until the kernel holds what `source` wishes. Raises KernelError if it refused one of its objects."""

    async def idle(self) -> None:
        """Wait until nothing is left to apply (problems aside)."""

    @property
    def underlay(self) -> Underlay:
        """Interfaces and foreign routes, as of the last event."""
        raise NotImplementedError

    def on_underlay(self, callback: Callable[[Underlay], None]) -> None:
        """Call back when the underlay has changed."""

    @property
    def problems(self) -> Mapping[Key, KernelError]:
        """Objects that the kernel refuses now; each is tried again with growing pauses."""
        raise NotImplementedError

    async def stop(self) -> None:
        """End the worker; the kernel's state stays as it is."""
