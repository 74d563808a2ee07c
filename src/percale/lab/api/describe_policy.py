"""A NetworkPolicy in kubectl's words. Pure; called by `describe`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from percale.model.networkpolicy import NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort
from percale.model.selector import LabelSelector

_RULES_END = "    ----------"


def policy_lines(policy: NetworkPolicy) -> Iterator[str]:
    """The spec."""
    spec = policy.spec
    yield "Spec:"
    nothing = "<none> (Allowing the specific traffic to all pods in this namespace)"
    yield f"  PodSelector:     {selector_text(spec.podSelector) or nothing}"
    if "Ingress" in spec.types:
        yield "  Allowing ingress traffic:"
        yield from _rules([(rule.ports, rule.from_) for rule in spec.ingress], "ingress", "From", "source")
    else:
        yield "  Not affecting ingress traffic"
    if "Egress" in spec.types:
        yield "  Allowing egress traffic:"
        yield from _rules([(rule.ports, rule.to) for rule in spec.egress], "egress", "To", "destination")
    else:
        yield "  Not affecting egress traffic"
    yield f"  Policy Types: {', '.join(spec.types)}"


def selector_text(selector: LabelSelector) -> str:
    """`app=web,tier in (a,b),!legacy`; "" for everything."""
    words = [f"{key}={value}" for key, value in sorted(selector.matchLabels.items())]
    for each in selector.matchExpressions:
        match each.operator:
            case "Exists":
                words.append(each.key)
            case "DoesNotExist":
                words.append(f"!{each.key}")
            case _:
                words.append(f"{each.key} {each.operator.lower()} ({','.join(each.values)})")
    return ",".join(words)


def _rules(
    rules: Sequence[tuple[Sequence[NetworkPolicyPort], Sequence[NetworkPolicyPeer]]], way: str, side: str, what: str
) -> Iterator[str]:
    if not rules:
        yield f"    <none> (Selected pods are isolated for {way} connectivity)"
    for number, (ports, peers) in enumerate(rules):
        if number:
            yield _RULES_END
        for port in ports:
            last = f"-{port.endPort}" if port.endPort is not None else ""
            yield f"    To Port: {port.port if port.port is not None else '<any>'}{last}/{port.protocol}"
        if not ports:
            yield "    To Port: <any> (traffic allowed to all ports)"
        if not peers:
            yield f"    {side}: <any> (traffic not restricted by {what})"
        for peer in peers:
            yield f"    {side}:"
            yield from _peer(peer)


def _peer(peer: NetworkPolicyPeer) -> Iterator[str]:
    if peer.ipBlock is not None:
        yield "      IPBlock:"
        yield f"        CIDR: {peer.ipBlock.cidr}"
        yield f"        Except: {', '.join(peer.ipBlock.except_)}".rstrip()
    if peer.namespaceSelector is not None:
        yield f"      NamespaceSelector: {selector_text(peer.namespaceSelector) or '<none>'}"
    if peer.podSelector is not None:
        yield f"      PodSelector: {selector_text(peer.podSelector) or '<none>'}"
