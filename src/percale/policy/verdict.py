"""A flow between two ends, and the verdict on it with its reason."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Literal, TypeAlias

from msgspec import Struct

from percale.policy.compiled_policy import PolicyKey, RuleRef
from percale.policy.pod_facts import PodFacts
from percale.policy.rule_terms import Direction, FlowProtocol

Why: TypeAlias = Literal["open", "rule", "isolated", "denied", "node", "self"]
"""open: no policy isolates it. rule: a rule allows it. isolated: policies isolate it and no rule allows it. denied: a rule of
a cluster policy denies it. node: a pod and its own node, and no cluster policy decides. self: a pod and itself."""


class FlowEnd(Struct, frozen=True):
    """One end of a flow: an address, with the pod or node that owns it."""

    address: bytes
    pod: PodFacts | None = None
    node: str | None = None

    def __str__(self) -> str:
        address = str(ip_address(self.address))
        if self.pod is not None:
            return f"{self.pod.key} ({address})"
        return f"node/{self.node} ({address})" if self.node else address


class Flow(Struct, frozen=True):
    """A new connection; `port` is the destination's own (after DNAT), None for ICMP."""

    source: FlowEnd
    destination: FlowEnd
    protocol: FlowProtocol
    port: int | None


class Decision(Struct, frozen=True):
    """The decision of one side: the source's egress or the destination's ingress."""

    direction: Direction
    allowed: bool
    why: Why
    rule: RuleRef | None = None
    """The rule that decided, when one did."""
    isolating: tuple[PolicyKey, ...] = ()
    """The NetworkPolicies that isolate the pod in this direction."""


class Verdict(Struct, frozen=True):
    """Allowed when both sides allow it."""

    flow: Flow
    egress: Decision
    ingress: Decision

    @property
    def allowed(self) -> bool:
        return self.egress.allowed and self.ingress.allowed

    @property
    def decisive(self) -> Decision:
        """The side that denies it; of an allowed flow the one with an allowing rule, ingress first."""
        if not self.egress.allowed:
            return self.egress
        return self.egress if self.ingress.allowed and self.ingress.rule is None else self.ingress
