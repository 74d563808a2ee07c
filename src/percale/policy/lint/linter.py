"""All checks over a set of manifests. Called by `percale policy check`, and of Services by `percale service check`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from percale.model.addresses import IPNetwork
from percale.model.manifest.decode import ManifestEntry, SkippedDocument
from percale.policy.kinds.registry import POLICY_KINDS, PolicyKinds
from percale.policy.lint.dns import policies_that_block_dns
from percale.policy.lint.finding import LintedObject, LintedPolicy, LintFinding, LintFindings
from percale.policy.lint.inventory import inventory_of, pod_networks_of
from percale.policy.lint.ip_blocks import odd_blocks
from percale.policy.lint.namespaces import undefined_namespaces
from percale.policy.lint.no_effect import open_rules, peers_of_newer_apis, sections_without_effect
from percale.policy.lint.ports import undeclared_ports
from percale.policy.lint.selectors import empty_selectors, services_without_pods
from percale.policy.lint.shadowing import identical_policies, shadowed_rules


def lint(
    entries: Sequence[ManifestEntry],
    networks: Sequence[IPNetwork] = (),
    service_networks: Sequence[IPNetwork] = (),
    skipped: Sequence[SkippedDocument] = (),
    *,
    kinds: PolicyKinds = POLICY_KINDS,
) -> list[LintFinding]:
    """Findings about these objects, in their order. `networks` are the pod networks, if known.

    Raises BadNetworkConfig for a ConfigMap with an invalid net-conf.json.
    """
    policies = _compiled(entries, kinds)
    inventory = inventory_of(entries, networks or pod_networks_of(entries), service_networks, skipped)
    others = [LintedObject(each.object, each.source) for each in entries if kinds.of(type(each.object)) is None]
    findings = (
        *undefined_namespaces((*policies, *others), inventory),
        *empty_selectors(policies, inventory),
        *services_without_pods(inventory),
        *undeclared_ports(policies, inventory),
        *odd_blocks(policies, inventory),
        *sections_without_effect(policies),
        *(found for policy in policies for found in _of_kind(policy, kinds)),
        *peers_of_newer_apis(policies),
        *policies_that_block_dns(policies, inventory),
        *identical_policies(policies),
        *shadowed_rules(policies),
    )
    order = {each.source: number for number, each in enumerate(entries)}
    return sorted(findings, key=lambda each: order[each.source])


def lint_services(entries: Sequence[ManifestEntry], skipped: Sequence[SkippedDocument] = ()) -> list[LintFinding]:
    """The findings about Services alone."""
    return list(services_without_pods(inventory_of(entries, skipped=skipped)))


def _compiled(entries: Iterable[ManifestEntry], kinds: PolicyKinds) -> list[LintedPolicy]:
    return [
        LintedPolicy(each.object, each.source, kind.compile(each.object))
        for each in entries
        if (kind := kinds.of(type(each.object))) is not None
    ]


def _of_kind(policy: LintedPolicy, kinds: PolicyKinds) -> LintFindings:
    return kinds.of_policy(policy.compiled.key).lint(policy)


def lint_written(entry: ManifestEntry, written: Mapping[str, Any]) -> LintFindings:
    """What only the text of a policy tells: decoding makes one of an empty list and an absent one."""
    for policy in _compiled((entry,), POLICY_KINDS):
        yield from open_rules(policy, written)
