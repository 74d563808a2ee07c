"""Taking away everything of ours, and nothing else: `percale agent --cleanup` applies what this returns."""

from __future__ import annotations

from percale.kernel import planning
from percale.kernel.protocol import Change, Driver


def owned_removals(driver: Driver) -> list[Change]:
    """The removals of all that carries our mark, in an order in which none is in another's way. Blocks; raises OSError."""
    return planning.order((obj for obj in driver.read().values() if planning.removable(obj)), {})
