"""What is particular to one kind of policy: how it is compiled, named, checked and written. `registry.py` lists the kinds."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Generic, TypeVar

from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.model.meta import Object, ObjectKey
from percale.policy.compiled_policy import CompiledPolicy, PolicyKey
from percale.policy.lint.finding import LintedPolicy, LintFindings
from percale.policy.rule_terms import Direction, FlowProtocol

P = TypeVar("P", bound=Object)


class PolicyKind(ABC, Generic[P]):
    """One kind. Its validation is in `model/validation`, as that of other kinds."""

    prefix: ClassVar[str]
    """Of `PolicyKey`, unique among the kinds."""
    object_type: type[P]
    ports_field: ClassVar[str]
    """The field of a rule that lists its ports."""

    @abstractmethod
    def compile(self, policy: P) -> CompiledPolicy:
        """The policy in the form that all kinds share."""

    def key(self, key: ObjectKey) -> PolicyKey:
        """The policy's key, from its object's."""
        namespace = (key.namespace or DEFAULT_NAMESPACE) if self.object_type.NAMESPACED else None
        return PolicyKey(self.prefix, namespace, key.name)

    def lint(self, policy: LintedPolicy) -> LintFindings:
        """Findings about fields that only this kind has."""
        return iter(())

    # YAML for a rule's lists, in flow style, as hints show it

    @abstractmethod
    def pod_peer(self, labels: Mapping[str, str], namespace: str, policy: PolicyKey) -> str:
        """A peer that matches the pods with these labels in a namespace."""

    @abstractmethod
    def network_peer(self, cidr: str, direction: Direction) -> str | None:
        """A peer that matches a network; None if the kind has none in this direction."""

    @abstractmethod
    def port(self, protocol: FlowProtocol, number: int) -> str:
        """An item of `ports_field`."""


def inline_selector(labels: Mapping[str, str]) -> str:
    """A selector of these labels in YAML's flow style."""
    if not labels:
        return "{}"
    return f"{{matchLabels: {{{', '.join(f'{key}: {json.dumps(value)}' for key, value in labels.items())}}}}}"
