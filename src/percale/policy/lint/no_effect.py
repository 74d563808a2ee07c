"""Checks for parts without effect: sections that `policyTypes` leaves out, peers and protocols of a newer API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from percale.model.networkpolicy import NetworkPolicy
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


def open_rules(policy: LintedPolicy, written: Mapping[str, Any]) -> LintFindings:
    """`from: []` and `to: []`: no peers mean everybody. `written` is the object as its file has it."""
    if not isinstance(policy.object, NetworkPolicy):
        return
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(written["spec"].get(direction) or ()):
            if rule and rule.get(peers, ...) in ([], None):
                yield finding(
                    "empty-peers",
                    policy,
                    ("spec", direction, index, peers),
                    "an empty list of peers allows everybody",
                    f"write `{direction}: []` to allow nobody, or leave {peers} out if everybody is meant",
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
