"""Checks ipBlocks, and `networks` of cluster policies: those that allow pods by accident, those that hold cluster IPs."""

from __future__ import annotations

from collections.abc import Iterable

from percale.model.addresses import IPNetwork, is_address, parse_network
from percale.model.field_path import FieldPath
from percale.policy.lint.containment import block_within
from percale.policy.lint.finding import LintedPolicy, LintFindings, common_labels, finding
from percale.policy.lint.inventory import ManifestInventory
from percale.policy.rule_terms import Block

_PRIVATE = tuple(map(Block, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8")))
"""A block that has one of these whole is not about cluster IPs."""
_USUAL_NETWORKS = tuple(map(parse_network, ("10.96.0.0/12", "10.43.0.0/16")))
_USUAL = tuple(
    Block(str(each))
    for network in _USUAL_NETWORKS
    for each in (network, network.network_address + 1, network.network_address + 10)
)
"""The service networks of kubeadm and k3s, and in them the cluster IPs of the API server and of the name server."""


def odd_blocks(policies: Iterable[LintedPolicy], inventory: ManifestInventory) -> LintFindings:
    """A block that holds the pod network or lies within it (of each, the first network counts), or is about cluster IPs."""
    for policy in policies:
        for rule in policy.compiled.all_rules:
            for field, peer in rule.placed_peers:
                if isinstance(peer, Block):
                    if rule.action == "Accept":
                        yield from _with_pods(policy, field, peer, inventory.networks)
                    yield from _with_cluster_ips(policy, field, peer, inventory)


def _with_cluster_ips(
    policy: LintedPolicy, field: FieldPath, block: Block, inventory: ManifestInventory
) -> LintFindings:
    """Policies see a packet after its cluster IP has become a pod's address; a source is never a cluster IP."""
    whole = Block(block.cidr)
    if any(block_within(each, whole) for each in (*_PRIVATE, *(Block(str(net)) for net in inventory.networks))):
        return
    held = [
        (service.object, address)
        for service in inventory.services
        for address in service.object.spec.clusterIPs or (service.object.spec.clusterIP or "",)
        if is_address(address) and block_within(Block(address), block)
    ]
    networks = [net for net in inventory.service_networks if block_within(whole, Block(str(net)))]
    if held:
        service, address = held[0]
        what = f"the cluster IP {address} of Service {service.key}"
        labels = service.spec.selector
        hint = (
            f"select its pods: they have {common_labels([labels])}"
            if labels
            else "write the addresses of its endpoints"
        )
    elif networks or (not inventory.service_networks and any(whole.network == each.network for each in _USUAL)):
        if any(whole.network == parse_network(str(net.network_address + 1)) for net in networks or _USUAL_NETWORKS):
            what = "the API server's cluster IP"
            hint = "write its own addresses and port, as `kubectl get endpoints kubernetes` shows them"
        else:
            what, hint = "cluster IPs", "select the pods of the Service"
    else:
        return
    said = f"{block.network} holds {what}, and policies see the addresses of pods instead"
    yield finding("holds-cluster-ips", policy, field, said, hint)


def _with_pods(policy: LintedPolicy, field: FieldPath, block: Block, networks: Iterable[IPNetwork]) -> LintFindings:
    whole = Block(block.cidr)
    for network in networks:
        pods = Block(str(network))
        if any(block_within(pods, Block(gap)) for gap in block.exceptions):
            continue
        if block_within(pods, whole):
            what = f"{block.network} holds the pod network {network}: it allows pods, whatever their labels"
            hint = (
                f"add {network} to except"
                if policy.compiled.tier == "NetworkPolicy"
                else "pass pods in a rule before it"
            )
            yield finding("holds-pod-network", policy, field, what, hint)
            return
        if block_within(whole, pods):
            what = f"{block.network} lies within the pod network {network}, whose addresses move from pod to pod"
            hint = "use podSelector and namespaceSelector"
            yield finding("within-pod-network", policy, field, what, hint)
            return
