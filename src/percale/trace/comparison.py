"""Holds what the kernel did with a probe against the model: the evaluator's verdict, the resolver's endpoints; pure.

A difference is a bug of Percale's, or an agent that lags behind. Nothing is computed a second way here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address

from msgspec.structs import replace

from percale.explain.service_world import service_at
from percale.kernel.probe_packet import Header
from percale.model.meta import Object
from percale.policy.evaluator import Evaluator
from percale.policy.rule_terms import Direction, FlowProtocol
from percale.policy.verdict import Decision, Flow
from percale.render.nft.objects import INPUT_CHAIN
from percale.render.policy.base_chains import OWN_NODE
from percale.service import packet_lookup
from percale.service.resolver import ServiceResolver
from percale.service.service_ports import format_endpoint
from percale.trace.assembly import Run, runs
from percale.trace.evidence import Evidence, Step
from percale.trace.hops import AnyHop, NatHop

_BASE_CHAINS = frozenset({"policies", INPUT_CHAIN})
_ACCEPTING = _BASE_CHAINS | {OWN_NODE}
"""The chains whose `accept` is the end of it."""
_CLASSES: tuple[Direction, ...] = ("egress", "ingress")


def policy_differences(evidence: Evidence, evaluator: Evaluator) -> Iterator[str]:
    """Of the verdicts on the request, on each node that evaluated it."""
    for run in runs(evidence):
        steps = _evaluated(run)
        header = next((each.header for each in steps if each.header is not None), None)
        if run.direction != "request" or run.is_outer or header is None:
            continue
        flow = _flow(evidence, evaluator, header)
        verdict = evaluator.evaluate(flow)
        dropped = next((each for each in steps if each.drops), None)
        for decision in (verdict.egress, verdict.ingress):
            if (said := _difference(run.place, decision, steps, dropped, flow)) is not None:
                yield said
                break


def _evaluated(run: Run) -> Sequence[Step]:
    """From a base chain of the policies to its end."""
    found: list[Step] = []
    for step in run.steps:
        if (step.table, step.family) == ("percale", "inet") and (found or step.chain in _BASE_CHAINS):
            found.append(step)
            if step.drops or (step.chain in _ACCEPTING and step.verdict == "accept"):
                break
    return found


def _flow(evidence: Evidence, evaluator: Evaluator, header: Header) -> Flow:
    protocol: FlowProtocol = evidence.probe.protocol
    ends = evaluator.flow_end(header.source.packed), evaluator.flow_end(header.destination.packed)
    return Flow(*ends, protocol, header.destination_port if protocol != "ICMP" else None)


def _difference(place: str, decision: Decision, steps: Sequence[Step], dropped: Step | None, flow: Flow) -> str | None:
    end = flow.source if decision.direction == "egress" else flow.destination
    if end.pod is None or end.pod.node != place or decision.why == "self":
        return None  # evaluated on the pod's node only
    own = [each for each in steps if each.chain.startswith(decision.direction) and each.comment]
    denied = dropped is not None and dropped.chain.startswith(decision.direction)
    if dropped is not None and not denied and not own and decision.direction == "ingress":
        return None  # its egress had the last word
    about = f"{place}, {decision.direction} of {flow.source} → {flow.destination}, {flow.protocol} {flow.port or ''}".rstrip()
    said = own[-1].comment if own else "no rule"
    if denied != (not decision.allowed):
        kernel, model = ("drops" if denied else "passes"), ("allowed" if decision.allowed else "denied")
        return (
            f"{about}: the kernel {kernel} it ({said}), by the policies it is {model} ({decision.rule or decision.why})"
        )
    if decision.rule is not None and own and "…" not in said and said != str(decision.rule):
        return f"{about}: the kernel's rule is {said}, by the policies it is {decision.rule}"
    return None


def service_differences(
    evidence: Evidence,
    hops: Iterable[AnyHop],
    objects: Sequence[Object],
    table_of: Callable[[str], ServiceResolver],
) -> Iterator[str]:
    """Of the endpoint that the kernel chose for the request, against those that may be chosen there.

    `table_of`: Services as a node has them; asked only where a Service has the address, or the kernel has translated it.
    """
    for run in runs(evidence):
        header = run.first_header
        if run.direction != "request" or run.is_outer or header is None or not _is_first(evidence, run):
            continue
        protocol = evidence.probe.protocol
        if protocol == "ICMP" or not any(each.table.endswith("-services") for each in run.steps):
            continue
        chosen = next((each.after for each in _translations(hops, run.place)), None)
        port = header.destination_port
        if chosen is None and service_at(objects, header.destination.packed, port, protocol) is None:
            continue
        answer = packet_lookup.resolve(table_of(run.place), header.source, header.destination, port, protocol)
        about = f"{run.place}, {format_endpoint(header.destination.packed, port)}/{protocol}"
        if answer.action == "endpoints" and chosen is not None and chosen not in answer.endpoints:
            yield f"{about}: the kernel chose {chosen}, the Service's endpoints are {', '.join(answer.endpoints)}"
        elif answer.action == "endpoints" and chosen is None and run.routed:
            yield f"{about}: the kernel chose no endpoint, the Service has {', '.join(answer.endpoints)}"
        elif answer.action == "none" and chosen is not None:
            yield f"{about}: the kernel chose {chosen}, and no Service is there: {answer.reason}"
        elif answer.action in ("reject", "drop") and run.routed and chosen is not None:
            yield f"{about}: the kernel chose {chosen}, by the Service it is a {answer.action}: {answer.reason}"


def _is_first(evidence: Evidence, run: Run) -> bool:
    """Whether it still has the address that FROM asked for."""
    return run.first_header is not None and run.first_header.destination == evidence.destination


def _translations(hops: Iterable[AnyHop], place: str) -> Iterator[NatHop]:
    for hop in hops:
        if isinstance(hop, NatHop) and (hop.place, hop.direction, hop.what) == (place, "request", "dnat"):
            yield hop


def with_services(hops: Sequence[AnyHop], objects: Sequence[Object], protocol: str) -> tuple[AnyHop, ...]:
    """Names of Services at translations of destinations."""

    def named(hop: AnyHop) -> AnyHop:
        if not isinstance(hop, NatHop) or hop.what != "dnat":
            return hop
        address, _, port = (hop.after if hop.restored else hop.before).rpartition(":")
        if not port.isdecimal():
            return hop
        found = service_at(objects, ip_address(address.strip("[]")).packed, int(port), protocol)
        if found is None:
            return hop
        return replace(hop, service=f"svc/{found[0].namespace}/{found[0].service}:{found[0].port or found[1]}")

    return tuple(map(named, hops))
