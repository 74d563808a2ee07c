"""A verdict in words. Called by `percale why` and `percale policy test`; pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from ipaddress import ip_address
from math import inf
from typing import Any, Protocol

import yaml

from percale.explain.why.connection import Answer, Reply
from percale.explain.why.smallest_fix import AddLabels, AddPolicy, AddRule, NoFix
from percale.explain.world import Tool
from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.policy.compiled_policy import PolicyKey, RuleRef
from percale.policy.verdict import Decision, FlowEnd


class Places(Protocol):
    """Where policies are written; None: unknown."""

    def place(self, rule: RuleRef) -> str | None: ...

    def policy_place(self, policy: PolicyKey) -> str | None: ...


class PlacesAndTool(Places, Protocol):
    """And how objects are changed."""

    @property
    def tool(self) -> Tool: ...


def to_text(reply: Reply, places: PlacesAndTool) -> Iterator[str]:
    """For a person; the verdict first."""
    asked = f"{reply.source.name} → {reply.destination.name}, {_port(reply.protocol, reply.port)}"
    if not reply.answers:
        yield f"cannot tell: {asked}: {reply.doubt}"
    for answer in reply.answers:
        yield from _answer_lines(answer, reply, places)


def _answer_lines(answer: Answer, reply: Reply, places: PlacesAndTool) -> Iterator[str]:
    flow = answer.verdict.flow
    ends = " → ".join(
        asked.name if asked.unknown or asked.name == str(_address(end)) else f"{asked.name} ({_address(end)})"
        for asked, end in ((reply.source, flow.source), (reply.destination, flow.destination))
    )
    word = "cannot tell" if answer.doubt is not None else answer.word
    yield f"{word}: {ends}, {_port(flow.protocol, flow.port)}"
    if answer.doubt is not None:
        yield f"  {answer.doubt}"
        return
    for end, decision in ((flow.source, answer.verdict.egress), (flow.destination, answer.verdict.ingress)):
        yield f"  {decision.direction:<8} {reason(decision, end, places)}"
    for near in answer.nearest:
        yield f"  nearest  {_with_place(near.rule, places)}: {near.what}"
    for fix in answer.fixes:
        if isinstance(fix.change, NoFix):
            yield f"  no fix   {fix.change.reason}"
        else:
            yield f"  fix      {change_text(fix.change, places.tool)}"


def change_text(change: AddLabels | AddRule | AddPolicy, tool: Tool) -> str:
    """A command line, or what to add to a policy."""
    match change:
        case AddLabels(pod, labels):
            words = " ".join(f"{key}={value}" for key, value in labels.items())
            return tool.command("label", f"pod -n {pod.namespace or DEFAULT_NAMESPACE} {pod.name} {words}")
        case AddRule(policy, direction, rule):
            return f"add to spec.{direction} of {policy}: - {_in_a_line(rule)}"
        case AddPolicy(manifest):
            return f"echo {shlex.quote(_in_a_line(manifest))} | {tool.command('apply', '-f -')}"


def _in_a_line(value: Any) -> str:
    """YAML in flow style."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=inf).strip()


def reason(decision: Decision, end: FlowEnd, places: Places) -> str:
    """What one side says."""
    if decision.rule is not None:
        return f"{'allowed' if decision.allowed else 'denied'} by {_with_place(decision.rule, places)}"
    match decision.why:
        case "self":
            words = "allowed: a pod reaches itself"
        case "node":
            words = "allowed: NetworkPolicies do not apply between a pod and its own node"
        case "isolated":
            policies = ", ".join(_policy(each, places) for each in decision.isolating)
            words = f"denied: isolated by {policies}, and no rule allows it"
        case _ if end.pod is not None:
            words = f"open: no policy isolates {end.pod.key}"
        case _:
            words = f"open: policies do not select {'nodes' if end.node else 'addresses outside'}"
    return words


def to_line(answer: Answer, places: Places) -> str:
    """Why this is the verdict, in one line."""
    verdict = answer.verdict
    decision = verdict.decisive
    end = verdict.flow.source if decision.direction == "egress" else verdict.flow.destination
    words = f"{decision.direction} {reason(decision, end, places)}"
    near = next((each for each in answer.nearest if each.rule.direction == decision.direction), None)
    return f"{words}; nearest {_with_place(near.rule, places)}: {near.what}" if near is not None else words


def _port(protocol: str, port: int | None) -> str:
    return protocol if port is None else f"{port}/{protocol}"


def _address(end: FlowEnd) -> str:
    return str(ip_address(end.address))


def _with_place(rule: RuleRef, places: Places) -> str:
    place = places.place(rule)
    return f"{rule} ({place})" if place is not None else str(rule)


def _policy(policy: PolicyKey, places: Places) -> str:
    place = places.policy_place(policy)
    return f"{policy} ({place})" if place is not None else str(policy)
