"""ipBlocks (and `networks` of Accept rules) that let pods in which nobody had in mind."""

from __future__ import annotations

from collections.abc import Iterable

from percale.model.addresses import Network
from percale.policy.lint.containment import block_within
from percale.policy.lint.finding import LintFindings, finding
from percale.policy.lint.inventory import ManifestInventory
from percale.policy.lint.parsed_policy import Block, Peer, Policy


def blocks_with_pods(policies: Iterable[Policy], inventory: ManifestInventory) -> LintFindings:
    """A block that holds the pod network, or lies within it: of each, the first network counts."""
    for policy in policies:
        for rule in policy.rules:
            for peer in (rule.peers or ()) if rule.action == "Accept" else ():
                if isinstance(peer.means, Block):
                    yield from _with_pods(policy, peer, peer.means, inventory.networks)


def _with_pods(policy: Policy, peer: Peer, block: Block, networks: Iterable[Network]) -> LintFindings:
    whole = Block(block.network)
    for network in networks:
        if any(block_within(Block(network), Block(gap)) for gap in block.exceptions):
            continue
        if block_within(Block(network), whole):
            what = f"{block.network} holds the pod network {network}: it allows pods, whatever their labels"
            hint = f"add {network} to except" if policy.tier == "NetworkPolicy" else "pass pods in a rule before it"
            yield finding("holds-pod-network", policy, peer.field, what, hint)
            return
        if block_within(whole, Block(network)):
            what = f"{block.network} lies within the pod network {network}, whose addresses move from pod to pod"
            hint = "use podSelector and namespaceSelector"
            yield finding("within-pod-network", policy, peer.field, what, hint)
            return
