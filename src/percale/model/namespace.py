"""A namespace, which policies select by `namespaceSelector`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from percale.model.meta import Object

NAME_LABEL = "kubernetes.io/metadata.name"


class Namespace(Object, frozen=True, kw_only=True):
    """Metadata only."""

    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Namespace"
    PLURAL: ClassVar[str] = "namespaces"
    NAMESPACED: ClassVar[bool] = False

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels that selectors see: its own, and always the one with its name."""
        return {**self.metadata.labels, NAME_LABEL: self.metadata.name}
