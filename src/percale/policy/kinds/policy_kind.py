"""What is particular to one kind of policy: how it is compiled, named and checked. `registry.py` lists the kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.model.meta import Object, ObjectKey
from percale.policy.compiled_policy import CompiledPolicy, PolicyKey
from percale.policy.lint.finding import LintedPolicy, LintFindings

P = TypeVar("P", bound=Object)


class PolicyKind(ABC, Generic[P]):
    """One kind. Its validation is in `model/validation`, as that of other kinds."""

    prefix: ClassVar[str]
    """Of `PolicyKey`, unique among the kinds."""
    object_type: type[P]

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
