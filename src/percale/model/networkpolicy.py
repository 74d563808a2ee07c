"""A NetworkPolicy: the peers that the selected pods may be reached by, and may reach."""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from percale.model.addresses import IPNetwork, PortNumber, parse_network
from percale.model.meta import Object, Part
from percale.model.pod import Protocol
from percale.model.selector import LabelSelector


class IPBlock(Part, frozen=True, kw_only=True):
    """A network without its exceptions."""

    cidr: str
    except_: tuple[str, ...] = msgspec.field(default=(), name="except")

    @property
    def network(self) -> IPNetwork:
        return parse_network(self.cidr)

    @property
    def exceptions(self) -> tuple[IPNetwork, ...]:
        return tuple(map(parse_network, self.except_))


class NetworkPolicyPeer(Part, frozen=True, kw_only=True):
    """Pods (of the policy's namespace, or of the selected ones), or addresses."""

    podSelector: LabelSelector | None = None
    namespaceSelector: LabelSelector | None = None
    ipBlock: IPBlock | None = None


class NetworkPolicyPort(Part, frozen=True, kw_only=True):
    """A number, the name of a container port, or a range up to `endPort`; without `port` all of the protocol."""

    protocol: Protocol = "TCP"
    port: PortNumber | str | None = None
    endPort: PortNumber | None = None


class NetworkPolicyIngressRule(Part, frozen=True, kw_only=True):
    """Without `from`: from everywhere. Without `ports`: to all."""

    from_: tuple[NetworkPolicyPeer, ...] = msgspec.field(default=(), name="from")
    ports: tuple[NetworkPolicyPort, ...] = ()


class NetworkPolicyEgressRule(Part, frozen=True, kw_only=True):
    """Without `to`: to everywhere. Without `ports`: to all."""

    to: tuple[NetworkPolicyPeer, ...] = ()
    ports: tuple[NetworkPolicyPort, ...] = ()


class NetworkPolicySpec(Part, frozen=True, kw_only=True):
    """The selected pods are isolated in the directions of `types`, except for what the rules allow."""

    podSelector: LabelSelector = LabelSelector()
    policyTypes: tuple[Literal["Ingress", "Egress"], ...] = ()
    ingress: tuple[NetworkPolicyIngressRule, ...] = ()
    egress: tuple[NetworkPolicyEgressRule, ...] = ()

    @property
    def types(self) -> tuple[Literal["Ingress", "Egress"], ...]:
        """`policyTypes`, or Kubernetes' default: Ingress always, Egress when there are egress rules."""
        if self.policyTypes:
            return self.policyTypes
        return ("Ingress", "Egress") if self.egress else ("Ingress",)


class NetworkPolicy(Object, frozen=True, kw_only=True):
    """Policies are additive: what one allows, no other denies."""

    API_VERSION: ClassVar[str] = "networking.k8s.io/v1"
    KIND: ClassVar[str] = "NetworkPolicy"
    PLURAL: ClassVar[str] = "networkpolicies"

    spec: NetworkPolicySpec = NetworkPolicySpec()
