"""Validates metadata and label selectors. Source: apimachinery's api/validation and meta/v1/validation."""

from __future__ import annotations

from typing import Any

from percale.model.field_path import FieldPath
from percale.model.validation.field_errors import (
    FieldError,
    FieldErrors,
    forbidden,
    invalid,
    mapping,
    required,
    sequence,
)
from percale.model.validation.formats import dns_label, dns_subdomain, label_key, label_value

_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def check_metadata(value: Any) -> FieldErrors:
    """`metadata` of an object whose name is a DNS subdomain."""
    path: FieldPath = ("metadata",)
    metadata = mapping(value)
    name, namespace = metadata.get("name"), metadata.get("namespace")
    if not name and not metadata.get("generateName"):
        yield required((*path, "name"), "name or generateName is required")
    if isinstance(name, str) and name:
        yield from (invalid((*path, "name"), name, message) for message in dns_subdomain(name))
    if isinstance(namespace, str) and namespace:
        yield from (invalid((*path, "namespace"), namespace, message) for message in dns_label(namespace))
    yield from check_labels(metadata.get("labels"), (*path, "labels"))
    for key in mapping(metadata.get("annotations")):
        yield from (invalid((*path, "annotations"), key, message, (key,)) for message in label_key(key.lower()))


def check_labels(value: Any, path: FieldPath) -> FieldErrors:
    """Labels, and `matchLabels`."""
    for key, text in mapping(value).items():
        yield from (invalid(path, key, message, (key,)) for message in label_key(key))
        if isinstance(text, str):
            yield from (invalid(path, text, message, (key,)) for message in label_value(text))


def check_selector(value: Any, path: FieldPath) -> FieldErrors:
    selector = mapping(value)
    yield from check_labels(selector.get("matchLabels"), (*path, "matchLabels"))
    for index, item in enumerate(sequence(selector.get("matchExpressions"))):
        if isinstance(item, dict):
            yield from _check_requirement(item, (*path, "matchExpressions", index))


def _check_requirement(requirement: dict[str, Any], path: FieldPath) -> FieldErrors:
    operator, values = requirement.get("operator"), requirement.get("values")
    match operator:
        case "In" | "NotIn":
            if values is None or values == []:
                yield required((*path, "values"), "must be specified when operator is 'In' or 'NotIn'")
        case "Exists" | "DoesNotExist":
            if sequence(values):
                yield forbidden((*path, "values"), "may not be specified when operator is 'Exists' or 'DoesNotExist'")
        case None | str():
            detail = "not a valid selector operator"
            yield FieldError((*path, "operator"), "Invalid value", operator or "", detail, supported=_OPERATORS)
    key = requirement.get("key")
    if key is None or isinstance(key, str):
        yield from (invalid((*path, "key"), key or "", message) for message in label_key(key or ""))
    for index, text in enumerate(sequence(values)):
        if isinstance(text, str):
            yield from (invalid((*path, "values", index), text, message) for message in label_value(text))
