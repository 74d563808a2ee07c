"""Decodes objects of the API: unknown fields are ignored, null fields are absent."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from percale.errors import BadManifest
from percale.model.manifest.decode import from_json
from percale.model.manifest.decoders import converted
from percale.model.manifest.schema import without_nulls
from percale.model.meta import Object, ObjectKey
from percale.model.validation.validators import field_errors, has_validator

T = TypeVar("T", bound=Object)


class _Metadata(Struct, frozen=True):
    name: str
    namespace: str | None = None
    resourceVersion: str = ""


class Identified(Struct, frozen=True):
    """What every object has, also one that cannot be decoded."""

    metadata: _Metadata

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.metadata.namespace, self.metadata.name)

    @property
    def version(self) -> str:
        return self.metadata.resourceVersion


_IDENTIFIED = msgspec.json.Decoder(Identified)


def identify(data: bytes | msgspec.Raw) -> Identified:
    """Raises msgspec.MsgspecError for what is no object."""
    return _IDENTIFIED.decode(data)


def decode_object(data: bytes | msgspec.Raw, kind: type[T]) -> T:
    """Raises BadManifest for an invalid object: a server may be older or newer than the API's rules that we know."""
    try:
        found = from_json(data, kind)
        plain: Any = msgspec.json.decode(data) if has_validator(kind) else None
    except msgspec.MsgspecError:
        found, plain = _with_nulls(data, kind)
    if plain is not None and (errors := field_errors(kind, plain)):
        raise BadManifest("; ".join(map(str, errors)), where=f"{kind.KIND} {found.key}")
    return found


def _with_nulls(data: bytes | msgspec.Raw, kind: type[T]) -> tuple[T, Any]:
    """`endpoints: null` is what Go writes for an empty list."""
    plain = without_nulls(kind, msgspec.json.decode(data))
    try:
        return converted(plain, kind), plain
    except msgspec.ValidationError as error:
        raise BadManifest(str(error), where=f"{kind.KIND} {identify(data).key}") from error
