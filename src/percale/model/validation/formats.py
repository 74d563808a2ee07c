"""Formats of names, labels, ports and networks. Each function yields the API server's error messages for a value.

Source: apimachinery's util/validation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from percale.model.addresses import is_network

Messages = Iterator[str]

_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = rf"{_LABEL}(\.{_LABEL})*"
_KEY_NAME: Final = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE: Final = f"({_KEY_NAME})?"

_is_label = re.compile(_LABEL, re.ASCII).fullmatch
_is_subdomain = re.compile(_SUBDOMAIN, re.ASCII).fullmatch
_is_key_name = re.compile(_KEY_NAME, re.ASCII).fullmatch
_is_port_text = re.compile(r"[-a-z0-9]+", re.ASCII).fullmatch
_has_letter = re.compile(r"[a-z]", re.ASCII).search

_CHARACTERS = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
)


def is_object_name(name: str) -> bool:
    """The name of an object whose kind has no rule of its own; safe as a part of a path."""
    return len(name) <= 253 and all(len(label) <= 63 and _is_label(label) for label in name.split("."))


def dns_subdomain(name: str) -> Messages:
    """The name of most objects."""
    if len(name) > 253:
        yield _longer_than(253)
    if not _is_subdomain(name):
        yield _unlike(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
            "and must start and end with an alphanumeric character",
            _SUBDOMAIN,
            "example.com",
        )


def dns_label(name: str) -> Messages:
    """A namespace's name."""
    if len(name) > 63:
        yield _longer_than(63)
    if not _is_label(name):
        if _is_subdomain(name):
            yield "must not contain dots"
        else:
            yield _unlike(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
                "and must start and end with an alphanumeric character",
                _LABEL,
                "my-name",
                "123-abc",
            )


def label_key(key: str) -> Messages:
    """`name` or `prefix/name`."""
    unlike = _unlike(_CHARACTERS, _KEY_NAME, "MyName", "my.name", "123-abc")
    prefix, slash, name = key.rpartition("/")
    if "/" in prefix:
        yield f"a qualified name {unlike} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
        return
    if slash and not prefix:
        yield "prefix part must be non-empty"
    elif slash:
        for message in dns_subdomain(prefix):
            yield f"prefix part {message}"
    if not name:
        yield "name part must be non-empty"
    elif len(name) > 63:
        yield f"name part {_longer_than(63)}"
    if not _is_key_name(name):
        yield f"name part {unlike}"


def label_value(value: str) -> Messages:
    """May be empty."""
    if len(value) > 63:
        yield _longer_than(63)
    if value and not _is_key_name(value):
        yield _unlike(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
            "and must start and end with an alphanumeric character",
            _LABEL_VALUE,
            "MyValue",
            "my_value",
            "12345",
        )


def port_number(port: int) -> Messages:
    """1 to 65535."""
    if not 1 <= port <= 65535:
        yield "must be between 1 and 65535, inclusive"


def port_name(name: str) -> Messages:
    if len(name) > 15:
        yield _longer_than(15)
    if not _is_port_text(name):
        yield "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    if not _has_letter(name):
        yield "must contain at least one letter (a-z)"
    if "--" in name:
        yield "must not contain consecutive hyphens"
    if name.startswith("-") or name.endswith("-"):
        yield "must not begin or end with a hyphen"


def cidr(text: str) -> Messages:
    """Host bits are allowed."""
    if not is_network(text):
        yield "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"


def _longer_than(most: int) -> str:
    return f"must be no more than {most} characters"


def _unlike(what: str, pattern: str, *examples: str) -> str:
    shown = " or ".join(f"'{example}', " for example in examples)
    return f"{what} (e.g. {shown}regex used for validation is '{pattern}')"
