"""Checks for parts without effect: sections that `policyTypes` leaves out, peers and protocols of a newer API."""

from __future__ import annotations

from collections.abc import Iterable

from percale.policy.lint.finding import LintedPolicy, LintFindings, finding


def sections_without_effect(policies: Iterable[LintedPolicy]) -> LintFindings:
    """Rules of a direction that `policyTypes` leaves out."""
    for policy in policies:
        for direction in policy.compiled.ineffective:
            word = direction.capitalize()
            yield finding(
                "no-effect",
                policy,
                ("spec", direction),
                f"its rules have no effect: policyTypes does not list {word}, so {direction} stays open",
                f"add {word} to policyTypes, or remove the section",
            )


def peers_of_newer_apis(policies: Iterable[LintedPolicy]) -> LintFindings:
    """Peers and protocols without any known field: their rules fail closed."""
    for policy in policies:
        version = policy.object.API_VERSION.rpartition("/")[2]
        for rule in policy.compiled.all_rules:
            for field in rule.unknown_fields:
                effect = "matches nothing" if rule.action == "Accept" else "denies everything"
                yield finding(
                    "fails-closed",
                    policy,
                    (*rule.ref.field, *field),
                    f"none of its fields is known here, so the rule {effect}",
                    f"check the spelling, or write it with fields of {version}",
                )
