"""Metadata and label selectors, which many kinds have. Source: apimachinery's api/validation and meta/v1/validation."""

from __future__ import annotations

from typing import Any

from percale.model.manifest.syntax_tree import Steps
from percale.model.validation.field_errors import (
    FieldErrors,
    forbidden,
    invalid,
    mapping,
    required,
    sequence,
)
from percale.model.validation.formats import dns_label, dns_subdomain, label_key, label_value


def check_metadata(value: Any) -> FieldErrors:
    """`metadata` of an object whose name is a DNS subdomain."""
    steps: Steps = ("metadata",)
    metadata = mapping(value)
    name, namespace = metadata.get("name"), metadata.get("namespace")
    if not name and not metadata.get("generateName"):
        yield required((*steps, "name"), "name or generateName is required")
    if isinstance(name, str) and name:
        yield from (invalid((*steps, "name"), name, said) for said in dns_subdomain(name))
    if isinstance(namespace, str) and namespace:
        yield from (invalid((*steps, "namespace"), namespace, said) for said in dns_label(namespace))
    yield from check_labels(metadata.get("labels"), (*steps, "labels"))
    for key in mapping(metadata.get("annotations")):
        yield from (invalid((*steps, "annotations"), key, said, (key,)) for said in label_key(key.lower()))


def check_labels(value: Any, steps: Steps) -> FieldErrors:
    """Labels, and `matchLabels`."""
    for key, text in mapping(value).items():
        yield from (invalid(steps, key, said, (key,)) for said in label_key(key))
        if isinstance(text, str):
            yield from (invalid(steps, text, said, (key,)) for said in label_value(text))


def check_selector(value: Any, steps: Steps) -> FieldErrors:
    """A LabelSelector."""
    selector = mapping(value)
    yield from check_labels(selector.get("matchLabels"), (*steps, "matchLabels"))
    for index, item in enumerate(sequence(selector.get("matchExpressions"))):
        if isinstance(item, dict):
            yield from _check_requirement(item, (*steps, "matchExpressions", index))


def _check_requirement(requirement: dict[str, Any], steps: Steps) -> FieldErrors:
    operator, values = requirement.get("operator"), requirement.get("values")
    match operator:
        case "In" | "NotIn":
            if values is None or values == []:
                yield required((*steps, "values"), "must be specified when operator is 'In' or 'NotIn'")
        case "Exists" | "DoesNotExist":
            if sequence(values):
                yield forbidden((*steps, "values"), "may not be specified when operator is 'Exists' or 'DoesNotExist'")
        case None | str():
            yield invalid((*steps, "operator"), operator or "", "not a valid selector operator")
    key = requirement.get("key")
    if key is None or isinstance(key, str):
        yield from (invalid((*steps, "key"), key or "", said) for said in label_key(key or ""))
    for index, text in enumerate(sequence(values)):
        if isinstance(text, str):
            yield from (invalid((*steps, "values", index), text, said) for said in label_value(text))
