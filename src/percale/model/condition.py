"""A condition of a node, a pod or a workload, as their status lists them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from percale.model.meta import Part


class Condition(Part, frozen=True, kw_only=True):
    """`type` is for example `Ready`; `status` is whether it holds."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str | None = None
    message: str | None = None
    lastTransitionTime: str | None = None


def holds(conditions: Iterable[Condition], condition_type: str) -> bool:
    """Whether the condition is present and true."""
    return any(condition.type == condition_type and condition.status == "True" for condition in conditions)
