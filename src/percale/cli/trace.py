"""`percale trace`: one real probe packet, there and back, hop by hop: devices, routes, rules, tunnels, and where it was lost."""

from __future__ import annotations

import shlex
from functools import cached_property
from typing import TYPE_CHECKING

import click
from msgspec import Struct, convert, field

from percale.cli.json_output import format_json
from percale.cli.options import lab_option, probe_options
from percale.lab.commands import lab_command, lab_words, run_at
from percale.trace.hops import AnyHop, End, Outcome, RuleHop, Trace

if TYPE_CHECKING:
    from percale.explain.service_world import ServiceWorld
    from percale.explain.world import World
    from percale.lab.trace_plan import TracePlan
    from percale.policy.evaluator import Evaluator
    from percale.service.resolver import ServiceResolver
    from percale.trace.evidence import Evidence


class TraceDocument(Struct, frozen=True):
    """What was sent, its way, and what came of it; the field names are an interface."""

    from_: str = field(name="from")
    to: str
    address: str
    port: int | None
    protocol: str
    outcome: Outcome
    place: str
    """Where it ended."""
    what: str
    commands: tuple[str, ...]
    """What to type."""
    hops: tuple[AnyHop, ...]
    differences: tuple[str, ...]
    """Where the kernel does not do what policies and Services say: a bug of Percale's."""
    notes: tuple[str, ...]


class _LabCommands(Struct, frozen=True):
    """`trace.diagnosis.TypedCommands` of a lab."""

    plan: TracePlan
    lab: str

    def at(self, place: str, command: str) -> str:
        kind = next(each.kind for each in self.plan.places if each.name == place)
        if kind == "router":
            return f"{command} (at the lab's router)"
        return run_at(self.lab, place, command, "exec" if kind == "pod" else "node")

    def restart_agent(self, node: str) -> str:
        return lab_command(self.lab, f"restart-agent {node}")

    def why(self) -> str:
        return f"percale why {shlex.join(self.plan.question)}{lab_words(self.lab)}"

    def mend(self, rule: RuleHop) -> End | None:
        """The router drops what a cut cable would."""
        if (rule.place, rule.table) != ("router", "lab"):
            return None
        cables = " and ".join(f"between {one} and {other}" for one, other in self.plan.cuts)
        commands = tuple(lab_command(self.lab, f"heal {one} {other}") for one, other in self.plan.cuts)
        return End("lost", rule.place, f"the lab's cable {cables} is cut", commands)


class _Model:
    """What policies and Services of a lab say."""

    def __init__(self, lab: str) -> None:
        self._lab = lab

    def load(self, *, services: bool) -> None:
        """All that will be asked for, and its modules: half of a trace's time."""
        from percale.trace import comparison, diagnosis  # noqa: F401

        _ = self.evaluator, self._services if services else None

    @cached_property
    def world(self) -> World:
        from percale.cli.object_sources import load

        return load((), self._lab)

    @cached_property
    def evaluator(self) -> Evaluator:
        from percale.cli.object_sources import lookup

        return lookup(self.world, self._lab).evaluator

    def services_of(self, node: str) -> ServiceResolver:
        """As the node has them."""
        return self._services.table(node)

    @cached_property
    def _services(self) -> ServiceWorld:
        from percale.cli.object_sources import service_world

        return service_world(self.world, self._lab)


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.argument("port", metavar="[PORT[/PROTO]]", required=False)
@probe_options(1.0)
@click.option("-o", "--output", type=click.Choice(["text", "wide", "json"]), default="text", show_default=True)
@lab_option
def trace(
    *,
    source: str,
    target: str,
    port: str | None,
    namespace: str | None,
    ipv6: bool,
    timeout: float,
    output: str,
    lab: str,
) -> int:
    """Send one packet from FROM to TO, and show its way there and back: exit code 0: it was answered.

    FROM, TO and PORT are named as for `percale why`; a port of TCP (one SYN, which opens no connection) or UDP, or icmp.
    Seen at every device of FROM, TO, the nodes and the router: routes, neighbours and forwarding entries, translations,
    the rules of policies and of other programs, tunnels; and the cause, with what to type, where the packet is lost.
    What the kernel does is held against what policies and Services say.
    """
    from percale.explain.end_names import split_port
    from percale.lab.api.client import ask
    from percale.lab.run_dir import locate
    from percale.lab.trace import trace as send
    from percale.lab.trace_plan import TracePlan
    from percale.trace.text import to_text

    target, own_port = split_port(target, port)
    lab_dir, version = locate(lab), 6 if ipv6 else None
    answer = ask(
        lab_dir, "trace_places", source=source, target=target, port=own_port, namespace=namespace, version=version
    )
    plan = convert(answer, TracePlan)
    model = _Model(lab)
    evidence = send(lab_dir, plan, timeout, lambda: model.load(services=plan.target.startswith("svc/")))
    found = _explained(model, lab, plan, evidence)
    if output == "json":
        document = TraceDocument(
            plan.source,
            plan.target,
            plan.address,
            plan.port,
            plan.protocol,
            found.end.outcome,
            found.end.place,
            found.end.what,
            found.end.commands,
            found.hops,
            found.differences,
            found.notes,
        )
        click.echo(format_json(document, indent=0))
    else:
        click.echo("\n".join(to_text(found, _question(plan), wide=output == "wide")))
    return 0 if found.end.outcome == "answered" else 1


def _question(plan: TracePlan) -> str:
    from ipaddress import ip_address

    from percale.service.service_ports import format_endpoint

    address = ip_address(plan.address)
    at = format_endpoint(address.packed, plan.port) if plan.port is not None else str(address)
    return f"{plan.source} → {plan.target}, {at}/{plan.protocol.lower()}"


def _explained(model: _Model, lab: str, plan: TracePlan, evidence: Evidence) -> Trace:
    """The hops with names, the end, and what the model says of it."""
    from percale.trace.assembly import assemble
    from percale.trace.comparison import policy_differences, service_differences, with_services
    from percale.trace.diagnosis import diagnose, notes

    typed, objects = _LabCommands(plan, lab), model.world.objects
    hops = with_services(assemble(evidence), objects, plan.protocol)
    differences = (
        *policy_differences(evidence, model.evaluator),
        *service_differences(evidence, hops, objects, model.services_of),
    )
    return Trace(hops, diagnose(evidence, hops, typed), differences, tuple(notes(evidence, hops, plan.troubles, typed)))
