"""A ClusterNetworkPolicy: administrators' rules before and after all NetworkPolicies. Source: v1alpha2 (and v1beta1) of its API.

Absent fields are None or an empty tuple. A peer or protocol that has only fields of a newer API has no field set here: `known`
is False, and its rule must fail closed. Validation rejects one without any field.
"""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

import msgspec

from percale.model.addresses import PortNumber
from percale.model.meta import Integer, Object, Part
from percale.model.selector import LabelSelector

Action: TypeAlias = Literal["Accept", "Deny", "Pass"]


class NamespacedPod(Part, frozen=True, kw_only=True):
    """Pods by labels, in the namespaces that `namespaceSelector` selects; empty selectors select all."""

    namespaceSelector: LabelSelector = LabelSelector()
    podSelector: LabelSelector = LabelSelector()


class ClusterNetworkPolicySubject(Part, frozen=True, kw_only=True):
    """Exactly one field is set. Pods with hostNetwork are never selected."""

    namespaces: LabelSelector | None = None
    pods: NamespacedPod | None = None


class PortRange(Part, frozen=True, kw_only=True):
    """Both ends included; `start` < `end`."""

    start: PortNumber
    end: PortNumber


class Port(Part, frozen=True, kw_only=True):
    """Exactly one field is set."""

    number: PortNumber | None = None
    range: PortRange | None = None


class ProtocolPorts(Part, frozen=True, kw_only=True):
    """The value of `tcp`, `udp` and `sctp`."""

    destinationPort: Port | None = None


class ClusterNetworkPolicyProtocol(Part, frozen=True, kw_only=True):
    """Exactly one field is set. `destinationNamedPort` is the name of a container port of the destination pod."""

    tcp: ProtocolPorts | None = None
    udp: ProtocolPorts | None = None
    sctp: ProtocolPorts | None = None
    destinationNamedPort: str | None = None

    @property
    def known(self) -> bool:
        return self != _UNKNOWN_PROTOCOL


class ClusterNetworkPolicyIngressPeer(Part, frozen=True, kw_only=True):
    """Exactly one field is set. Pods with hostNetwork are never selected."""

    namespaces: LabelSelector | None = None
    pods: NamespacedPod | None = None

    @property
    def known(self) -> bool:
        return self != _UNKNOWN_SOURCE


class ClusterNetworkPolicyEgressPeer(Part, frozen=True, kw_only=True):
    """Exactly one field is set. `nodes` matches the nodes' addresses; `networks` matches pods' addresses too."""

    namespaces: LabelSelector | None = None
    pods: NamespacedPod | None = None
    nodes: LabelSelector | None = None
    networks: tuple[str, ...] = ()
    domainNames: tuple[str, ...] = ()
    """`*.example.org` matches all its subdomains, not itself. Only in Accept rules."""

    @property
    def known(self) -> bool:
        return self != _UNKNOWN_DESTINATION


_UNKNOWN_PROTOCOL = ClusterNetworkPolicyProtocol()
_UNKNOWN_SOURCE = ClusterNetworkPolicyIngressPeer()
_UNKNOWN_DESTINATION = ClusterNetworkPolicyEgressPeer()


class ClusterNetworkPolicyIngressRule(Part, frozen=True, kw_only=True):
    """Without `protocols`: all traffic, ICMP too."""

    action: Action
    from_: tuple[ClusterNetworkPolicyIngressPeer, ...] = msgspec.field(name="from")
    protocols: tuple[ClusterNetworkPolicyProtocol, ...] = ()
    name: str | None = None


class ClusterNetworkPolicyEgressRule(Part, frozen=True, kw_only=True):
    """Without `protocols`: all traffic, ICMP too."""

    action: Action
    to: tuple[ClusterNetworkPolicyEgressPeer, ...]
    protocols: tuple[ClusterNetworkPolicyProtocol, ...] = ()
    name: str | None = None


class ClusterNetworkPolicySpec(Part, frozen=True, kw_only=True):
    """A lower `priority` comes first in its tier; within a policy, rules in their order; the first match decides."""

    tier: Literal["Admin", "Baseline"]
    priority: Integer
    subject: ClusterNetworkPolicySubject
    ingress: tuple[ClusterNetworkPolicyIngressRule, ...] = ()
    egress: tuple[ClusterNetworkPolicyEgressRule, ...] = ()


class ClusterNetworkPolicy(Object, frozen=True, kw_only=True):
    """Admin before all NetworkPolicies; Baseline after them, for pods that none isolates."""

    API_VERSION: ClassVar[str] = "policy.networking.k8s.io/v1alpha2"
    """Which CRDs of both releases serve."""
    ALIASES: ClassVar[tuple[str, ...]] = ("policy.networking.k8s.io/v1beta1",)
    KIND: ClassVar[str] = "ClusterNetworkPolicy"
    PLURAL: ClassVar[str] = "clusternetworkpolicies"
    NAMESPACED: ClassVar[bool] = False

    spec: ClusterNetworkPolicySpec
