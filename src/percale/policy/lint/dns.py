"""Policies that let pods out to somewhere, but do not let them ask for names.

Only where it is certain: a rule that names port 53 is taken to mean DNS, and so is a block that may hold a resolver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from percale.model.addresses import Network
from percale.model.namespace import NAME_LABEL
from percale.policy.lint.containment import selection_within
from percale.policy.lint.finding import LintFindings, finding
from percale.policy.lint.inventory import InventoryPod, ManifestInventory
from percale.policy.lint.parsed_policy import Block, NamedPort, Peer, Policy, Ports, Rule, Selection

_PORT = 53
_NAMESPACE = "kube-system"
_LABELS: Mapping[str, str] = {"k8s-app": "kube-dns"}
"""What kubeadm and the others give to the pods of CoreDNS."""


def policies_that_block_dns(policies: Sequence[Policy], inventory: ManifestInventory) -> LintFindings:
    """Nothing that applies to the pods of the policy allows port 53. A policy that lets nothing out is meant so."""
    asking = [policy for policy in policies if any(_allows(rule, inventory) for rule in policy.rules_of("egress"))]
    names = {policy.name for policy in asking}
    served = {pod.name for policy in asking for pod in inventory.selected(policy.subject)}
    for policy in policies:
        if "egress" not in policy.isolates or not policy.rules_of("egress") or policy.name in names:
            continue
        pods = inventory.selected(policy.subject)
        if served.issuperset(pod.name for pod in pods) if pods else _surely_served(policy, asking):
            continue
        yield finding(
            "blocks-dns",
            policy,
            ("spec", "egress"),
            "the pods that it selects cannot ask for names: nothing allows them UDP 53 to the cluster's DNS",
            f"allow UDP and TCP 53 to the namespace with the label {NAME_LABEL}: {_NAMESPACE}",
        )


def _surely_served(policy: Policy, asking: Sequence[Policy]) -> bool:
    """Another policy allows it to all pods that this one may select."""
    return any(selection_within(policy.subject, other.subject) for other in asking)


def _allows(rule: Rule, inventory: ManifestInventory) -> bool:
    if rule.action != "Accept":
        return False
    named = False
    if rule.ports is not None:
        wanted = [each.means for each in rule.ports]
        spans = [each for each in wanted if isinstance(each, Ports) and each.protocol == "UDP"]
        named = any(isinstance(each, NamedPort) and each.protocol == "UDP" for each in wanted)
        named |= any(each.first == each.last == _PORT for each in spans)
        if not named and not any(each.first <= _PORT <= each.last for each in spans):
            return False
    return named or rule.peers is None or any(_may_be_dns(peer, inventory) for peer in rule.peers)


def _may_be_dns(peer: Peer, inventory: ManifestInventory) -> bool:
    match peer.means:
        case Block(network, _):
            return not network.is_private or network.prefixlen == 0 or _may_hold_pods(network, inventory)
        case Selection(where, pods):
            if not isinstance(where, str) and not inventory.knows(where):
                return True
            if _NAMESPACE in inventory.matching_namespaces(where):
                servers = (_LABELS, *(pod.labels for pod in inventory.in_namespace(_NAMESPACE)))
                if any(map(pods.matches, servers)):
                    return True
            return any(map(_answers, inventory.selected(peer.means)))
    return True


def _may_hold_pods(network: Network, inventory: ManifestInventory) -> bool:
    if not inventory.networks:
        return True
    return any(network.version == each.version and network.overlaps(each) for each in inventory.networks)


def _answers(pod: InventoryPod) -> bool:
    return any(port.protocol == "UDP" and port.number == _PORT for port in pod.ports)
