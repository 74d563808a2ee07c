"""Kinds as resources of the API: their names in rules and their paths."""

from __future__ import annotations

from typing import Literal, TypeAlias
from urllib.parse import quote

from msgspec import Struct

from percale.model.meta import Object, ObjectKey

Verb: TypeAlias = Literal["get", "list", "watch", "create", "patch", "delete"]
"""Of RBAC."""


BUILT_IN_GROUPS = frozenset({"", "apps", "batch", "discovery.k8s.io", "networking.k8s.io"})
"""Every API server has their kinds. Others are installed as CRDs, at any time or never."""


class Operation(Struct, frozen=True):
    """What a request does, for errors: `list` of `pods`, `patch` of `nodes/status`."""

    verb: Verb
    resource: str
    group: str = ""

    @property
    def rule(self) -> str:
        """What a role must allow."""
        return f"verb {self.verb} on {self.resource}" + (f" of {self.group}" if self.group else "")


def operation(verb: Verb, kind: type[Object], subresource: str = "") -> Operation:
    """The operation on objects of a kind."""
    return Operation(verb, f"{kind.PLURAL}/{subresource}" if subresource else kind.PLURAL, kind.api_group())


def collection_path(kind: type[Object], namespace: str | None = None) -> str:
    """Of all objects of a kind, or those of a namespace."""
    root = f"/apis/{kind.API_VERSION}" if kind.api_group() else f"/api/{kind.version()}"
    return f"{root}/namespaces/{quote(namespace, safe='')}/{kind.PLURAL}" if namespace else f"{root}/{kind.PLURAL}"


def object_path(kind: type[Object], key: ObjectKey, subresource: str = "") -> str:
    """Of one object."""
    path = f"{collection_path(kind, key.namespace)}/{quote(key.name, safe='')}"
    return f"{path}/{subresource}" if subresource else path
