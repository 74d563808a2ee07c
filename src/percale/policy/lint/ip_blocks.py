"""Checks ipBlocks, and `networks` of Accept rules, that allow pods by accident."""

from __future__ import annotations

from collections.abc import Iterable

from percale.model.addresses import IPNetwork
from percale.model.field_path import FieldPath
from percale.policy.lint.containment import block_within
from percale.policy.lint.finding import LintedPolicy, LintFindings, finding
from percale.policy.lint.inventory import ManifestInventory
from percale.policy.rule_terms import Block


def blocks_with_pods(policies: Iterable[LintedPolicy], inventory: ManifestInventory) -> LintFindings:
    """A block that holds the pod network, or lies within it: of each, the first network counts."""
    for policy in policies:
        for rule in policy.compiled.all_rules:
            for field, peer in rule.placed_peers if rule.action == "Accept" else ():
                if isinstance(peer, Block):
                    yield from _with_pods(policy, field, peer, inventory.networks)


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
