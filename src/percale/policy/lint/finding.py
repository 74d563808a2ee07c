"""A finding of the linter: the part of an object, what is wrong with it, and how to mend it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.model.field_path import FieldPath, format_field_path
from percale.model.manifest.decode import Source
from percale.model.meta import Object
from percale.model.service import Service
from percale.policy.compiled_policy import CompiledPolicy

Severity: TypeAlias = Literal["warning", "info"]
Code: TypeAlias = Literal[
    "selects-nothing",
    "undefined-namespace",
    "service-port",
    "nobody-has-named-port",
    "nobody-has-port",
    "named-port-outside",
    "holds-pod-network",
    "within-pod-network",
    "holds-cluster-ips",
    "no-effect",
    "empty-peers",
    "blocks-dns",
    "end-port-equals-port",
    "shadowed",
    "identical",
    "fails-closed",
]


_SHOWN = 4
"""How many labels, ports or names a finding lists."""


class LintedObject(Struct, frozen=True):
    """An object of a manifest, and where it stands."""

    object: Object
    source: Source

    @property
    def name(self) -> str:
        """`Service ns/name`."""
        return f"{self.object.KIND} {self.object.key}"


class LintedService(LintedObject, frozen=True):
    object: Service


class LintedPolicy(LintedObject, frozen=True):
    """A policy of a manifest, with its compiled form."""

    compiled: CompiledPolicy

    @property
    def name(self) -> str:
        """`np:ns/name` or `cnp:name`."""
        return str(self.compiled.key)


class LintFinding(Struct, frozen=True):
    """`part` precedes the text, `field` is the line to look at; both are field paths in the object at `source`."""

    code: Code
    subject: str
    source: Source
    part: FieldPath
    field: FieldPath
    what: str
    hint: str
    severity: Severity

    @property
    def ref(self) -> str:
        """`np:ns/name#egress[0].to[0]`."""
        return f"{self.subject}#{format_field_path(self.part[1:])}" if len(self.part) > 1 else self.subject

    def __str__(self) -> str:
        return f"{self.severity}: {self.ref}: {self.what} ({self.hint})"


LintFindings: TypeAlias = Iterator[LintFinding]


def finding(
    code: Code,
    subject: LintedObject,
    part: FieldPath,
    what: str,
    hint: str,
    *,
    field: FieldPath | None = None,
    severity: Severity = "warning",
) -> LintFinding:
    """A finding about a part of an object; `field` defaults to that part."""
    return LintFinding(code, subject.name, subject.source, part, part if field is None else field, what, hint, severity)


# Words of several checks


def listed(words: Sequence[str]) -> str:
    """`a, b`."""
    return ", ".join(words)


def most(counted: Counter[str]) -> list[str]:
    """The most common ones."""
    return [word for word, _ in counted.most_common(_SHOWN)]


def common_labels(labels: Iterable[Mapping[str, str]]) -> str:
    """The labels that most of them have."""
    return (
        listed(most(Counter(f"{key}: {value}" for each in labels for key, value in sorted(each.items()))))
        or "no labels"
    )


def places(namespaces: Sequence[str]) -> str:
    """`namespace a`, `the namespaces a, b`."""
    shown = listed(namespaces[:_SHOWN])
    return f"namespace {shown}" if len(namespaces) == 1 else f"the namespaces {shown}"
