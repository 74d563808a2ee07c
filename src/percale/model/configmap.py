"""A ConfigMap: flannel's carries `net-conf.json` and `cni-conf.json`."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from percale.model.meta import Object


class ConfigMap(Object, frozen=True, kw_only=True):
    """Text by key."""

    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "ConfigMap"
    PLURAL: ClassVar[str] = "configmaps"

    data: dict[str, str] = msgspec.field(default_factory=dict)
