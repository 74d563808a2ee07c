"""A label selector as a value. Used by workloads, services and policies.

An empty selector matches everything; an absent one is None where a field allows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from percale.model.meta import Part


class LabelSelectorRequirement(Part, frozen=True, kw_only=True):
    """One of `matchExpressions`."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """`NotIn` matches a missing key."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value in self.values
            case "NotIn":
                return value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None


class LabelSelector(Part, frozen=True, kw_only=True):
    """All labels and expressions must match. Hashable, as a key of shared sets."""

    matchLabels: dict[str, str] = msgspec.field(default_factory=dict)
    matchExpressions: tuple[LabelSelectorRequirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether it selects an object with these labels."""
        if not self.matchLabels.items() <= labels.items():
            return False
        return not self.matchExpressions or all(each.matches(labels) for each in self.matchExpressions)

    def __hash__(self) -> int:
        return hash((frozenset(self.matchLabels.items()), self.matchExpressions))
