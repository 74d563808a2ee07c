"""What is written and does not do what it seems to: sections without effect, ranges of one port, unknown peers."""

from __future__ import annotations

from collections.abc import Iterable

from percale.model.networkpolicy import NetworkPolicy
from percale.policy.lint.finding import LintFindings, finding
from percale.policy.lint.parsed_policy import Direction, Peer, Policy, Port, Unknown


def sections_without_effect(policies: Iterable[Policy]) -> LintFindings:
    """Rules of a direction that `policyTypes` leaves out."""
    directions: tuple[Direction, ...] = ("ingress", "egress")
    for policy in policies:
        if not isinstance(policy.obj, NetworkPolicy):
            continue
        spec = policy.obj.spec
        for direction, rules in zip(directions, (spec.ingress, spec.egress), strict=True):
            if rules and direction not in policy.isolates:
                word = direction.capitalize()
                yield finding(
                    "no-effect",
                    policy,
                    ("spec", direction),
                    f"its rules have no effect: policyTypes does not list {word}, so {direction} stays open",
                    f"add {word} to policyTypes, or remove the section",
                )


def ranges_of_one(policies: Iterable[Policy]) -> LintFindings:
    """`endPort` equal to `port`."""
    for policy in policies:
        if not isinstance(policy.obj, NetworkPolicy):
            continue
        spec = policy.obj.spec
        written = (
            *((("spec", "ingress", index, "ports"), rule.ports) for index, rule in enumerate(spec.ingress)),
            *((("spec", "egress", index, "ports"), rule.ports) for index, rule in enumerate(spec.egress)),
        )
        for path, ports in written:
            for number, port in enumerate(ports):
                if port.endPort is not None and port.endPort == port.port:
                    yield finding(
                        "end-port-equals-port",
                        policy,
                        (*path, number),
                        f"endPort is {port.endPort}, as port is: this range is one port",
                        "remove endPort, or write the last port of the range",
                        field=(*path, number, "endPort"),
                    )


def peers_of_newer_apis(policies: Iterable[Policy]) -> LintFindings:
    """Peers and protocols without any field that is known here: their rules fail closed."""
    for policy in policies:
        for rule in policy.rules:
            parts: tuple[Peer | Port, ...] = (*(rule.peers or ()), *(rule.ports or ()))
            for part in parts:
                if isinstance(part.means, Unknown):
                    means = "matches nothing" if rule.action == "Accept" else "denies everything"
                    yield finding(
                        "fails-closed",
                        policy,
                        part.field,
                        f"none of its fields is known here, so the rule {means}",
                        "check the spelling, or write it with fields of v1alpha2",
                    )
