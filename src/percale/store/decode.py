"""Decodes objects of servers: unknown fields are ignored, null fields are absent.

An object may be invalid here that its server takes: an older or newer one has other rules. What it is about is known all the
same, so nobody waits for it but those whom it concerns.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from percale.errors import BadManifest
from percale.model.endpoints import Endpoints, EndpointSlice
from percale.model.manifest.decoders import converted, decoder_of
from percale.model.manifest.json_text import decode_json
from percale.model.manifest.schema import without_nulls
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.networkpolicy import NetworkPolicy, NetworkPolicySpec
from percale.model.selector import LabelSelector
from percale.model.service import Service
from percale.model.subnet_lease import SubnetLease
from percale.model.validation.field_errors import mapping
from percale.model.validation.shared import check_selector
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
_ANYTHING: msgspec.json.Decoder[Any] = msgspec.json.Decoder()


def identify(data: bytes | msgspec.Raw) -> Identified:
    """Raises msgspec.MsgspecError for what is no object."""
    return decode_json(_IDENTIFIED, data)


def decode_object(data: bytes | msgspec.Raw, kind: type[T]) -> T:
    """Raises BadManifest for an invalid object."""
    try:
        found: T = decode_json(decoder_of(kind), data)
        plain: Any = decode_json(_ANYTHING, data) if has_validator(kind) else None
    except msgspec.DecodeError:
        found, plain = _with_nulls(data, kind)
    if plain is not None and (errors := field_errors(kind, plain)):
        raise BadManifest("; ".join(map(str, errors)), where=f"{kind.KIND} {found.key}")
    return found


MAY_BE_MISSED: Collection[type[Object]] = (NetworkPolicy, Service, EndpointSlice, Endpoints, SubnetLease)
"""Kinds of which an invalid object harms only whom it is about: a policy is replaced by its isolation, the others serve."""


def isolation_of(kind: type[Object], key: ObjectKey, data: bytes | msgspec.Raw) -> NetworkPolicy | None:
    """What counts of an invalid NetworkPolicy: it isolates the pods that it selects, all of its namespace if that is unknown."""
    if kind is not NetworkPolicy:
        return None
    selector = LabelSelector()
    with suppress(msgspec.DecodeError):
        given = mapping(mapping(decode_json(_ANYTHING, data)).get("spec")).get("podSelector")
        if not any(check_selector(given, ())):
            selector = converted(without_nulls(LabelSelector, given), LabelSelector)
    isolating = NetworkPolicySpec(podSelector=selector, policyTypes=("Ingress", "Egress"))
    return NetworkPolicy(metadata=ObjectMeta(name=key.name, namespace=key.namespace), spec=isolating)


def _with_nulls(data: bytes | msgspec.Raw, kind: type[T]) -> tuple[T, Any]:
    """`endpoints: null` is what Go writes for an empty list."""
    try:
        plain = without_nulls(kind, decode_json(_ANYTHING, data))
        return converted(plain, kind), plain
    except msgspec.DecodeError as error:
        raise BadManifest(str(error), where=f"{kind.KIND} {identify(data).key}") from error
