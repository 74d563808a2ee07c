"""May this connection begin, and why? One answer for each family that both ends have. Called by `percale why`; pure.

A pod without an address is evaluated with every address that it may get, of its pod network where that is known, and that makes
a difference to some rule: when all verdicts are equal, that is the answer; when they are not, it is undecided, and the answer
names the rule that it depends on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from percale.explain.flow_ends import Outside, outside
from percale.explain.pod_networks import NO_PODS
from percale.explain.why.nearest_rule import AddressText, Nearest, nearest, plain_address
from percale.explain.why.smallest_fix import Fix, smallest_fix, useful
from percale.explain.why.targets import Target, TargetLookup
from percale.model.addresses import IPNetwork
from percale.model.ip_family import Family
from percale.policy.evaluator import Evaluator
from percale.policy.rule_terms import FlowProtocol
from percale.policy.verdict import Decision, Flow, FlowEnd, Verdict

Word: TypeAlias = Literal["allowed", "denied", "unknown"]


class Answer(Struct, frozen=True):
    """For one family. `doubt`: why it is undecided; then the verdict is one of the possible ones."""

    verdict: Verdict
    nearest: tuple[Nearest, ...]
    """Of each side that denies."""
    doubt: str | None = None
    fixes: tuple[Fix, ...] = ()
    """Of each side that denies: all of them make it allowed."""

    @property
    def word(self) -> Word:
        if self.doubt is not None:
            return "unknown"
        return "allowed" if self.verdict.allowed else "denied"


class Reply(Struct, frozen=True):
    """All that there is to say. Without answers, `doubt` says why."""

    source: Target
    destination: Target
    protocol: FlowProtocol
    port: int | None
    answers: tuple[Answer, ...]
    doubt: str | None = None

    @property
    def word(self) -> Word:
        """Denied when one family is: a connection that may fail is no connection."""
        words = {answer.word for answer in self.answers}
        for word in ("denied", "unknown"):
            if word in words:
                return word
        return "allowed" if words else "unknown"


def explain_connection(
    lookup: TargetLookup, source: Target, destination: Target, protocol: FlowProtocol, port: int | None
) -> Reply:
    """Evaluates every family that both have."""
    flows = [Flow(*ends, protocol, port) for ends in _pairs(source, destination)]
    answers = tuple(_with_fixes(lookup, _answer(lookup, flow, source, destination)) for flow in flows)
    doubt = None
    if not answers:
        doubt = f"{source.name} has only {_families(source)} and {destination.name} only {_families(destination)}"
    return Reply(source, destination, protocol, port, answers, doubt)


def answer(evaluator: Evaluator, flow: Flow, address_text: AddressText = plain_address) -> Answer:
    """For two ends with these addresses."""
    verdict = evaluator.evaluate(flow)
    near = (nearest(evaluator, flow, side, address_text) for side in (verdict.egress, verdict.ingress))
    return Answer(verdict, tuple(each for each in near if each))


def _with_fixes(lookup: TargetLookup, answer_: Answer) -> Answer:
    if answer_.word != "denied":
        return answer_
    verdict, near = answer_.verdict, {each.rule.direction: each for each in answer_.nearest}
    sides = verdict.egress, verdict.ingress
    fixes = (smallest_fix(lookup, verdict.flow, side, near.get(side.direction)) for side in sides)
    return replace(answer_, fixes=useful(each for each in fixes if each is not None))


def _pairs(source: Target, destination: Target) -> Iterator[tuple[FlowEnd, FlowEnd]]:
    """The ends that may meet; the one without an address takes the other's family."""
    for one in source.ends:
        for other in destination.ends:
            if len(one.address) == len(other.address):
                yield one, other
            elif source.unknown and not destination.unknown and len(source.ends) == 1:
                yield _moved(one, bytes(len(other.address) - 1) + b"\1"), other
            elif destination.unknown and not source.unknown and len(destination.ends) == 1:
                yield one, _moved(other, bytes(len(one.address) - 1) + b"\1")


def _moved(end: FlowEnd, address: bytes) -> FlowEnd:
    return FlowEnd(address, end.pod, end.node)


def _families(asked: Target) -> str:
    return " and ".join(Family.of_packed(end.address).kubernetes for end in asked.ends)


def _answer(lookup: TargetLookup, flow: Flow, source: Target, destination: Target) -> Answer:
    """A side depends on the address of the other end alone: each is tried by itself."""
    evaluator = lookup.evaluator
    if source.pod is not None and destination.pod is not None and source.pod.key == destination.pod.key:
        return answer(evaluator, Flow(flow.source, flow.source, flow.protocol, flow.port), lookup.address_text)
    sources = _moves(lookup, flow.source, flow.destination) if source.unknown else [flow.source]
    destinations = _moves(lookup, flow.destination, sources[0]) if destination.unknown else [flow.destination]
    ends = [
        *((sources[0], each) for each in destinations),
        *((each, destinations[0]) for each in sources[1:] if each.address != destinations[0].address),
    ]
    flows = [Flow(*each, flow.protocol, flow.port) for each in ends]
    answers = [answer(evaluator, each, lookup.address_text) for each in flows]
    verdicts = [each.verdict for each in answers]
    egress, ingress = ({getattr(each, side).allowed for each in verdicts} for side in ("egress", "ingress"))
    if egress == {False} or ingress == {False}:
        likely = [each for each in answers if _sides(each.verdict) == _sides(verdicts[0])]
        return min(likely, key=lambda each: sum(near.weight for near in each.nearest))
    if egress == ingress == {True}:
        return answers[0]
    return Answer(
        verdicts[0], (), _doubt(lookup, source, destination, verdicts, "ingress" if egress == {True} else "egress")
    )


def _sides(verdict: Verdict) -> tuple[bool, bool]:
    return verdict.egress.allowed, verdict.ingress.allowed


def _moves(lookup: TargetLookup, end: FlowEnd, other: FlowEnd) -> Sequence[FlowEnd]:
    """The end with an address of each range that rules distinguish and that the pod can have; its own first, if it can."""
    size, node = len(end.address), end.pod.node if end.pod is not None else None
    networks = [each for each in lookup.networks.of(node) if len(each.network_address.packed) == size]
    ranges = [each for each in outside([lookup.evaluator]) if len(each.sample) == size and _for_pods(each)]
    addresses = [sample for each in ranges for sample in _samples(each, networks)]
    own = not networks or any(ip_address(end.address) in network for network in networks)
    moved = [_moved(end, address) for address in addresses if address != other.address]
    return [end, *moved] if own or not moved else moved


def _samples(addresses: Outside, networks: Sequence[IPNetwork]) -> Iterator[bytes]:
    """Two of the range, in these networks if there are any: one of them may be the other end's."""
    spans = [(each.network_address.packed, each.broadcast_address.packed) for each in networks]
    for low, high in spans or [(addresses.first, addresses.last)]:
        first, last = max(low, addresses.first), min(high, addresses.last)
        if first <= last:
            yield from dict.fromkeys((addresses.sample if first <= addresses.sample <= last else first, last))


def _for_pods(addresses: Outside) -> bool:
    """Whether a pod can have one of them."""
    first, last = ip_address(addresses.first), ip_address(addresses.last)
    return not any(first in each and last in each for each in NO_PODS)


def _doubt(
    lookup: TargetLookup,
    source: Target,
    destination: Target,
    verdicts: Sequence[Verdict],
    side: Literal["egress", "ingress"],
) -> str:
    who = source if side == "ingress" else destination
    decisions: list[Decision] = [getattr(verdict, side) for verdict in verdicts]
    rules = dict.fromkeys(str(each.rule) for each in decisions if each.rule is not None)
    hint = "" if lookup.networks.everywhere else "; --pod-cidr says the pods' network"
    return f"it depends on the address of {who.name}, which has none yet: {', '.join(rules)} names addresses{hint}"
