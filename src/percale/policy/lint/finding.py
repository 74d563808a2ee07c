"""What a check has to say: which part of which policy, what is odd about it, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.model.manifest.decode import Source
from percale.model.manifest.syntax_tree import Steps, spelled
from percale.policy.lint.parsed_policy import Policy

Severity: TypeAlias = Literal["warning", "info"]
Code: TypeAlias = Literal[
    "selects-nothing",
    "nobody-has-named-port",
    "nobody-has-port",
    "named-port-outside",
    "holds-pod-network",
    "within-pod-network",
    "no-effect",
    "blocks-dns",
    "end-port-equals-port",
    "shadowed",
    "identical",
    "unknown-field",
    "fails-closed",
]


class Remark(Struct, frozen=True):
    """`part` is named in front of the text, `field` is the line to look at; both are ways into the object at `source`."""

    code: Code
    policy: str
    source: Source
    part: Steps
    field: Steps
    what: str
    todo: str
    severity: Severity

    @property
    def ref(self) -> str:
        """`np:ns/name#egress[0].to[0]`."""
        return f"{self.policy}#{spelled(self.part[1:])}" if len(self.part) > 1 else self.policy

    def __str__(self) -> str:
        return f"{self.severity}: {self.ref}: {self.what} ({self.todo})"


Remarks: TypeAlias = Iterator[Remark]


def remark(
    code: Code,
    policy: Policy,
    part: Steps,
    what: str,
    todo: str,
    *,
    field: Steps | None = None,
    severity: Severity = "warning",
) -> Remark:
    """About a part of a policy; the field to look at is that part unless it is given."""
    return Remark(code, policy.name, policy.source, part, part if field is None else field, what, todo, severity)
