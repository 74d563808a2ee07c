"""A ClusterNetworkPolicy: what administrators allow or deny before and after all NetworkPolicies. Source: v1alpha2 of its API.

What is not there is None or an empty tuple. A peer (or protocol) with a field that only a newer API knows has none of its
fields here: `known` is False, and its rule must fail closed. One without any field is refused when it is decoded.
"""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

import msgspec

from percale.model.addresses import PortNumber
from percale.model.meta import Integer, Object, Part
from percale.model.selector import LabelSelector

Action: TypeAlias = Literal["Accept", "Deny", "Pass"]


class NamespacedPod(Part, frozen=True, kw_only=True):
    """Pods of the namespaces that the first selector means; an empty selector means all."""

    namespaceSelector: LabelSelector = LabelSelector()
    podSelector: LabelSelector = LabelSelector()


class ClusterNetworkPolicySubject(Part, frozen=True, kw_only=True):
    """Exactly one of its fields is there. Pods with hostNetwork are never meant."""

    namespaces: LabelSelector | None = None
    pods: NamespacedPod | None = None


class PortRange(Part, frozen=True, kw_only=True):
    """Both ends are in it, and `start` < `end`."""

    start: PortNumber
    end: PortNumber


class Port(Part, frozen=True, kw_only=True):
    """Exactly one of its fields is there."""

    number: PortNumber | None = None
    range: PortRange | None = None


class ProtocolPorts(Part, frozen=True, kw_only=True):
    """What `tcp`, `udp` and `sctp` hold."""

    destinationPort: Port | None = None


class ClusterNetworkPolicyProtocol(Part, frozen=True, kw_only=True):
    """Exactly one of its fields is there. A name is looked up in the destination pod's containers."""

    tcp: ProtocolPorts | None = None
    udp: ProtocolPorts | None = None
    sctp: ProtocolPorts | None = None
    destinationNamedPort: str | None = None

    @property
    def known(self) -> bool:
        return self != _UNKNOWN_PROTOCOL


class ClusterNetworkPolicyIngressPeer(Part, frozen=True, kw_only=True):
    """Exactly one of its fields is there. Pods with hostNetwork are never meant."""

    namespaces: LabelSelector | None = None
    pods: NamespacedPod | None = None

    @property
    def known(self) -> bool:
        return self != _UNKNOWN_SOURCE


class ClusterNetworkPolicyEgressPeer(Part, frozen=True, kw_only=True):
    """Exactly one of its fields is there. `nodes` are the nodes' addresses; `networks` match pods' addresses too."""

    namespaces: LabelSelector | None = None
    pods: NamespacedPod | None = None
    nodes: LabelSelector | None = None
    networks: tuple[str, ...] = ()
    domainNames: tuple[str, ...] = ()
    """`*.example.org`: all names below it, and not itself. Only in Accept rules."""

    @property
    def known(self) -> bool:
        return self != _UNKNOWN_DESTINATION


_UNKNOWN_PROTOCOL = ClusterNetworkPolicyProtocol()
_UNKNOWN_SOURCE = ClusterNetworkPolicyIngressPeer()
_UNKNOWN_DESTINATION = ClusterNetworkPolicyEgressPeer()


class ClusterNetworkPolicyIngressRule(Part, frozen=True, kw_only=True):
    """No protocols: all traffic, ICMP too."""

    action: Action
    from_: tuple[ClusterNetworkPolicyIngressPeer, ...] = msgspec.field(name="from")
    protocols: tuple[ClusterNetworkPolicyProtocol, ...] = ()
    name: str | None = None


class ClusterNetworkPolicyEgressRule(Part, frozen=True, kw_only=True):
    """No protocols: all traffic, ICMP too."""

    action: Action
    to: tuple[ClusterNetworkPolicyEgressPeer, ...]
    protocols: tuple[ClusterNetworkPolicyProtocol, ...] = ()
    name: str | None = None


class ClusterNetworkPolicySpec(Part, frozen=True, kw_only=True):
    """A lower `priority` comes first in its tier; within a policy, rules in their order; the first that matches decides."""

    tier: Literal["Admin", "Baseline"]
    priority: Integer
    subject: ClusterNetworkPolicySubject
    ingress: tuple[ClusterNetworkPolicyIngressRule, ...] = ()
    egress: tuple[ClusterNetworkPolicyEgressRule, ...] = ()


class ClusterNetworkPolicy(Object, frozen=True, kw_only=True):
    """Admin before all NetworkPolicies; Baseline after them, for pods that none isolates."""

    API_VERSION: ClassVar[str] = "policy.networking.k8s.io/v1alpha2"
    KIND: ClassVar[str] = "ClusterNetworkPolicy"
    NAMESPACED: ClassVar[bool] = False

    spec: ClusterNetworkPolicySpec
