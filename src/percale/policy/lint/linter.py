"""All checks over a set of manifests. Called by `percale policy check`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from percale.model.addresses import Network
from percale.model.manifest.decode import ManifestEntry
from percale.model.manifest.schema import unknown_fields
from percale.policy.lint.dns import policies_that_block_dns
from percale.policy.lint.finding import LintFinding, finding
from percale.policy.lint.inventory import inventory_of
from percale.policy.lint.ip_blocks import blocks_with_pods
from percale.policy.lint.no_effect import peers_of_newer_apis, ranges_of_one, sections_without_effect
from percale.policy.lint.parsed_policy import policies_of
from percale.policy.lint.selectors import ports_nobody_has, selects_nothing
from percale.policy.lint.shadowing import identical_policies, shadowed_rules


def check(found: Sequence[ManifestEntry], networks: Sequence[Network] = ()) -> list[LintFinding]:
    """Findings about the policies among these objects, in their order. `networks` are the pod networks, if known.

    Raises BadNetworkConfig, for a ConfigMap that has a net-conf.json nobody can use.
    """
    policies = policies_of(found)
    inventory = inventory_of(found, networks)
    findings = (
        *selects_nothing(policies, inventory),
        *ports_nobody_has(policies, inventory),
        *blocks_with_pods(policies, inventory),
        *sections_without_effect(policies),
        *ranges_of_one(policies),
        *peers_of_newer_apis(policies),
        *policies_that_block_dns(policies, inventory),
        *identical_policies(policies),
        *shadowed_rules(policies),
    )
    order = {policy.name: number for number, policy in enumerate(policies)}
    return sorted(findings, key=lambda each: order[each.policy])


def check_fields(found: ManifestEntry, written: Mapping[str, Any]) -> Iterable[LintFinding]:
    """Unknown fields of a policy, which decoding ignores. `written` is the object as its file has it."""
    for policy in policies_of((found,)):
        for path, known in unknown_fields(type(found.object), written, ("spec",)):
            word = str(path[-1])
            near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            yield finding("unknown-field", policy, path, f'the field "{word}" means nothing here', hint)
