"""Metadata and keys, which all objects have."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, NamedTuple, TypeAlias

import msgspec

Integer: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""Kubernetes' int64."""


class ObjectKey(NamedTuple):
    """An object's identity within its kind; `namespace` is None for cluster-scoped kinds."""

    namespace: str | None
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Part(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """A part of an object. Not tracked by Python's cycle collector: objects are trees, and there are very many."""


class OwnerReference(Part, frozen=True):
    """The owner of this object, such as the ReplicaSet of a pod."""

    kind: str
    name: str
    uid: str = ""
    apiVersion: str = ""
    controller: bool = False


class ObjectMeta(Part, frozen=True):
    """`metadata` of every object. `resourceVersion` is the store's, opaque."""

    name: str = ""
    namespace: str | None = None
    generateName: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    ownerReferences: tuple[OwnerReference, ...] = ()
    resourceVersion: str | None = None
    uid: str | None = None
    creationTimestamp: str | None = None
    deletionTimestamp: str | None = None
    generation: Integer | None = None


class Object(Part, frozen=True, kw_only=True):
    """A Kubernetes object. Subclasses set the class attributes and add `spec` and `status`."""

    API_VERSION: ClassVar[str]
    KIND: ClassVar[str]
    ALIASES: ClassVar[tuple[str, ...]] = ()
    """Versions of the same schema under which manifests have it too."""
    PLURAL: ClassVar[str]
    """The resource's name in API paths."""
    NAMESPACED: ClassVar[bool] = True

    metadata: ObjectMeta

    @classmethod
    def api_group(cls) -> str:
        """`apps` of `apps/v1`; "" for the core group."""
        return cls.API_VERSION.rpartition("/")[0]

    @classmethod
    def version(cls) -> str:
        """`v1` of `apps/v1`."""
        return cls.API_VERSION.rpartition("/")[2]

    @classmethod
    def is_version(cls, api_version: str) -> bool:
        """Whether this is how objects of this `apiVersion` look."""
        return api_version == cls.API_VERSION or api_version in cls.ALIASES

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.metadata.namespace, self.metadata.name)


def timestamp(moment: datetime) -> str:
    """A time of UTC as Kubernetes writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
