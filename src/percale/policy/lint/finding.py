"""A finding of the linter: the part of a policy, what is wrong with it, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.model.field_path import FieldPath, format_field_path
from percale.model.manifest.decode import Source
from percale.model.meta import Object
from percale.policy.compiled_policy import CompiledPolicy

Severity: TypeAlias = Literal["warning", "info"]
Code: TypeAlias = Literal[
    "selects-nothing",
    "nobody-has-named-port",
    "nobody-has-port",
    "named-port-outside",
    "holds-pod-network",
    "within-pod-network",
    "no-effect",
    "empty-peers",
    "blocks-dns",
    "end-port-equals-port",
    "shadowed",
    "identical",
    "fails-closed",
]


class LintedPolicy(Struct, frozen=True):
    """A policy of a manifest: its object, where it stands, and its compiled form."""

    object: Object
    source: Source
    compiled: CompiledPolicy

    @property
    def name(self) -> str:
        """`np:ns/name` or `cnp:name`."""
        return str(self.compiled.key)


class LintFinding(Struct, frozen=True):
    """`part` precedes the text, `field` is the line to look at; both are field paths in the object at `source`."""

    code: Code
    policy: str
    source: Source
    part: FieldPath
    field: FieldPath
    what: str
    hint: str
    severity: Severity

    @property
    def ref(self) -> str:
        """`np:ns/name#egress[0].to[0]`."""
        return f"{self.policy}#{format_field_path(self.part[1:])}" if len(self.part) > 1 else self.policy

    def __str__(self) -> str:
        return f"{self.severity}: {self.ref}: {self.what} ({self.hint})"


LintFindings: TypeAlias = Iterator[LintFinding]


def finding(
    code: Code,
    policy: LintedPolicy,
    part: FieldPath,
    what: str,
    hint: str,
    *,
    field: FieldPath | None = None,
    severity: Severity = "warning",
) -> LintFinding:
    """A finding about a part of a policy; `field` defaults to that part."""
    return LintFinding(code, policy.name, policy.source, part, part if field is None else field, what, hint, severity)
