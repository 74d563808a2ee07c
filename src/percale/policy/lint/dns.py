"""Checks for policies that allow some egress, but no DNS.

Only what is certain is reported: a rule with port 53 counts as one for DNS, and so does a block that may contain a resolver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from percale.model.addresses import IPNetwork
from percale.model.namespace import NAME_LABEL
from percale.policy.compiled_policy import CompiledRule
from percale.policy.lint.containment import term_within
from percale.policy.lint.finding import LintedPolicy, LintFindings, finding
from percale.policy.lint.inventory import InventoryPod, ManifestInventory
from percale.policy.rule_terms import Block, Peer, PodSelectorTerm, PortName, PortSpan

_PORT = 53
_NAMESPACE = "kube-system"
_LABELS: Mapping[str, str] = {"k8s-app": "kube-dns"}
"""The labels of CoreDNS pods, as kubeadm and others set them."""


def policies_that_block_dns(policies: Sequence[LintedPolicy], inventory: ManifestInventory) -> LintFindings:
    """No policy allows the selected pods port 53. A policy that allows no egress at all is taken as intended."""
    asking = [policy for policy in policies if any(_allows(rule, inventory) for rule in policy.compiled.egress)]
    names = {policy.name for policy in asking}
    served = {pod.name for policy in asking for pod in inventory.selected(policy.compiled.subject)}
    for policy in policies:
        if "egress" not in policy.compiled.isolates or not policy.compiled.egress or policy.name in names:
            continue
        pods = inventory.selected(policy.compiled.subject)
        if served.issuperset(pod.name for pod in pods) if pods else _surely_served(policy, asking):
            continue
        yield finding(
            "blocks-dns",
            policy,
            ("spec", "egress"),
            "the pods that it selects cannot ask for names: nothing allows them UDP 53 to the cluster's DNS",
            f"allow UDP and TCP 53 to the namespace with the label {NAME_LABEL}: {_NAMESPACE}",
        )


def _surely_served(policy: LintedPolicy, asking: Sequence[LintedPolicy]) -> bool:
    """Another policy allows DNS to all pods that this one may select."""
    return any(term_within(policy.compiled.subject, other.compiled.subject) for other in asking)


def _allows(rule: CompiledRule, inventory: ManifestInventory) -> bool:
    if rule.action != "Accept":
        return False
    named = False
    if rule.ports is not None:
        spans = [each for each in rule.ports if isinstance(each, PortSpan) and each.protocol == "UDP"]
        named = any(isinstance(each, PortName) and each.protocol == "UDP" for each in rule.ports)
        named |= any(each.first == each.last == _PORT for each in spans)
        if not named and not any(each.first <= _PORT <= each.last for each in spans):
            return False
    if named or rule.peers is None or rule.unknown_fields:
        return True
    return any(_may_be_dns(peer, inventory) for peer in rule.peers)


def _may_be_dns(peer: Peer, inventory: ManifestInventory) -> bool:
    match peer:
        case Block(network=network):
            return not network.is_private or network.prefixlen == 0 or _may_hold_pods(network, inventory)
        case PodSelectorTerm(where, pods):
            if not isinstance(where, str) and not inventory.knows(where):
                return True
            if _NAMESPACE in inventory.matching_namespaces(where):
                servers = (_LABELS, *(pod.labels for pod in inventory.in_namespace(_NAMESPACE)))
                if any(map(pods.matches, servers)):
                    return True
            return any(map(_answers, inventory.selected(peer)))
    return True


def _may_hold_pods(network: IPNetwork, inventory: ManifestInventory) -> bool:
    if not inventory.networks:
        return True
    return any(network.version == each.version and network.overlaps(each) for each in inventory.networks)


def _answers(pod: InventoryPod) -> bool:
    return any(port.protocol == "UDP" and port.containerPort == _PORT for port in pod.ports)
