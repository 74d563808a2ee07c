"""`percale matrix`: who reaches whom on which ports, and what a changed set of manifests opens and closes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from percale.cli.json_output import format_json
from percale.cli.options import lab_of_source, networks, pod_cidr_option, source_lab_option, validate_option
from percale.counted import counted

if TYPE_CHECKING:
    from percale.explain.matrix.diff import WorldSide
    from percale.explain.matrix.document import ChangeDocument
    from percale.explain.matrix.groups import Grouping
    from percale.explain.matrix.matrix import Matrix
    from percale.explain.pod_owners import Group
    from percale.explain.world import World
    from percale.model.pod import Pod
    from percale.policy.evaluator import Evaluator
    from percale.policy.rule_terms import PortSpan


_MOST_ROWS = 40
"""A table with more workloads than these shows namespaces."""


@click.command()
@validate_option
@click.option("-f", "files", metavar="FILE|DIR", multiple=True, help="Manifests; - is stdin.")
@source_lab_option
@pod_cidr_option
@click.option(
    "--port", "ports", metavar="PORT[/PROTO]", multiple=True, help="Only these ports: 80, 53/udp, a name, icmp."
)
@click.option(
    "-n", "--namespace", "namespaces", metavar="NS", multiple=True, help="Its workloads; the others by namespace."
)
@click.option(
    "-o", "--output", type=click.Choice(["table", "json", "csv", "dot", "svg"]), default="table", show_default=True
)
@click.option("--diff", "changed", metavar="FILE|DIR", multiple=True, help="What these manifests would open and close.")
def matrix(
    *,
    files: tuple[str, ...],
    lab: str | None,
    ports: tuple[str, ...],
    namespaces: tuple[str, ...],
    output: str,
    changed: tuple[str, ...],
    pods: tuple[str, ...],
) -> int:
    """Who reaches whom on which ports, by workload: NetworkPolicies, cluster policies, nodes, addresses outside.

    Rows are sources, columns destinations. A pod and itself, and a pod and its own node, are left out.

    With --diff: the flows that flip, each with the rule that decides before and after; exit code 1 when there are any,
    2 when it cannot be told, as of IPv6 blocks where nothing says the pods' network.
    Objects of --diff replace those of the same kind and name. When -f and --diff are both directories, --diff is the whole
    changed set: what is not in it is deleted.
    """
    if changed and output in ("dot", "svg"):
        raise click.UsageError("--diff goes with -o table, json or csv")
    place = lab_of_source(files, lab)
    from percale.cli.object_sources import load

    network = networks(pods, "--pod-cidr") if pods else None
    before = load(files, place, pods=network)
    if not changed:
        return _show(before, ports, namespaces, output)
    whole = bool(files) and all(Path(each).is_dir() for each in (*files, *changed))
    after = load(changed, pods=network) if whole else load(files, place, changed, network)
    return _compare(before, after, ports, namespaces, output)


# One world


def _show(world: World, ports: Sequence[str], namespaces: Sequence[str], output: str) -> int:
    from percale.explain.matrix.matrix import Matrix

    (side,), asked = _sides([world], ports, namespaces)
    grouping = side.grouping
    if _is_crowded(grouping, namespaces, output):
        grouping = grouping.folded()
    found = Matrix(side.reach, grouping, asked)
    for line in _lines(found, output):
        click.echo(line)
    _note(world, side.evaluator)
    return 0


def _is_crowded(grouping: Grouping, namespaces: Sequence[str], output: str) -> bool:
    """Too many workloads for a table; says so."""
    if output != "table" or namespaces or len(grouping.groups) <= _MOST_ROWS:
        return False
    workloads = sum(group.sort == "workload" for group in grouping.groups)
    click.echo(f"{workloads} workloads: by namespace; -n NS shows the workloads of one, -o csv all", err=True)
    return True


def _lines(found: Matrix, output: str) -> Iterator[str]:
    from percale.explain.matrix import graph, text
    from percale.explain.matrix.document import matrix_document

    match output:
        case "json":
            yield format_json(matrix_document(found))
        case "csv":
            yield from text.as_csv(found)
        case "dot":
            yield from graph.dot(found)
        case "svg":
            yield from graph.svg(found)
        case _:
            yield from text.table(found, max(80, min(120, shutil.get_terminal_size((120, 24)).columns)))


def _sides(worlds: Sequence[World], ports: Sequence[str], namespaces: Sequence[str]) -> tuple[list[WorldSide], int]:
    """The worlds, computed over one space of ports and the same addresses outside; which ports are asked for."""
    from percale.errors import BadInput
    from percale.explain.flow_ends import outside
    from percale.explain.matrix import groups
    from percale.explain.matrix.diff import WorldSide
    from percale.explain.matrix.port_space import port_space_of
    from percale.explain.matrix.reachability import Reachability
    from percale.explain.pod_owners import owners
    from percale.policy.evaluator import Evaluator

    evaluators = [Evaluator(world.objects) for world in worlds]
    there = {pod.namespace for evaluator in evaluators for pod in evaluator.selector_index.pods if pod is not None}
    for namespace in namespaces:
        if namespace not in there:
            known = f"there are {', '.join(sorted(there))}" if there else "there are no pods at all"
            raise BadInput(f"no pods in namespace {namespace}", hint=known)
    if not there:
        raise BadInput("no pods and no workloads", hint="give the manifests of the workloads too, with another -f")
    spans = [span for port in ports for span in _spans(port, evaluators)]
    space = port_space_of(evaluators, spans)
    ranges = outside(evaluators)
    reaches = [Reachability(evaluator, space, ranges) for evaluator in evaluators]
    named = groups.outside_groups(ranges, evaluators, reaches)
    asked = reduce(or_, map(space.span, spans), 0) or space.all
    return [
        WorldSide(evaluator, reach, groups.by_workload(reach, owners(world.objects), named, detailed=namespaces))
        for world, evaluator, reach in zip(worlds, evaluators, reaches, strict=True)
    ], asked


def _spans(text: str, evaluators: Sequence[Evaluator]) -> Iterator[PortSpan]:
    """`80`, `53/udp`, `icmp`; a name means each port that a pod calls so."""
    from percale.errors import BadInput
    from percale.explain.end_names import NamedNumber, find_ports, names_of_ports
    from percale.policy.rule_terms import PortSpan

    pods = [pod for evaluator in evaluators for pod in evaluator.selector_index.pods if pod is not None]
    known = [NamedNumber(each.name, each.protocol, each.number) for pod in pods for each in pod.ports]
    found = find_ports(text, known)
    if not found:
        raise BadInput(
            f"no pod has a port named {text.partition('/')[0]}", where="--port", hint=names_of_ports(known, "they name")
        )
    for protocol, number in found:
        yield PortSpan(protocol) if number is None else PortSpan(protocol, number, number)


def _note(world: World, evaluator: Evaluator) -> None:
    """What the picture does not show."""
    from percale.explain.flow_ends import rules_of
    from percale.explain.made_up_addresses import dependent_rules, unseen_ipv6_rules
    from percale.model.pod import Pod

    shared = sum(isinstance(each, Pod) and each.spec.hostNetwork for each in world.objects)
    if shared:
        click.echo(f"note: {counted(shared, 'pod')} on the nodes' network, counted as nodes", err=True)
    pods = _made_up_pods(world)
    rules = dependent_rules(rules_of(evaluator), world.networks, pods)
    if rules:
        count = counted(len(pods), "pod")
        which = f"note: whom these rules mean depends on the addresses of {count}, which have none yet:"
        click.echo(f"{which} {', '.join(map(str, rules))}", err=True)
    if rules and not world.networks.everywhere:
        click.echo("note: here they mean none of them, if that can be; --pod-cidr says the pods' network", err=True)
    unseen = unseen_ipv6_rules(rules_of(evaluator), world.networks, pods)
    if unseen:
        which = "note: pods have IPv4 addresses here, so nothing is said of the IPv6 blocks of these rules:"
        click.echo(f"{which} {', '.join(map(str, unseen))}; --pod-cidr says the pods' networks", err=True)


# Two worlds


def _compare(before: World, after: World, ports: Sequence[str], namespaces: Sequence[str], output: str) -> int:
    from percale.errors import BadInput
    from percale.explain.matrix.diff import flow_changes
    from percale.explain.matrix.document import DiffDocument, change_document
    from percale.explain.matrix.text import csv_line, names

    (old, new), asked = _sides([before, after], ports, namespaces)
    if _is_crowded(old.grouping, namespaces, output):
        old, new = (replace(each, grouping=each.grouping.folded()) for each in (old, new))
    found = list(flow_changes(old, new, asked))
    if not found and (unseen := _unseen_changes((before, old.evaluator), (after, new.evaluator))):
        what = f"the IPv6 blocks of {', '.join(unseen)} cannot be compared: nothing says that pods have IPv6 addresses"
        raise BadInput(what, hint="--pod-cidr says the pods' networks, such as 10.244.0.0/16,fd00:244::/56")
    groups = old.grouping.groups
    called = dict(zip(groups, names(groups), strict=True))
    rows = [change_document(each, called, old.reach.space, before, after) for each in found]
    if output == "json":
        click.echo(format_json(DiffDocument(rows)))
    elif output == "csv":
        click.echo(csv_line("from", "to", "change", "ports", "partly", "before", "after"))
        for row in rows:
            partly = "true" if row.partly else "false"
            click.echo(csv_line(row.from_, row.to, row.change, row.ports, partly, row.before, row.after))
    else:
        _tell(rows)
    _tell_strangers(groups, new.grouping.groups)
    _note(after, new.evaluator)
    return 1 if found else 0


def _unseen_changes(*sides: tuple[World, Evaluator]) -> list[str]:
    """Rules of the policies that differ, of which IPv4 addresses of pods show a part only."""
    from percale.explain.flow_ends import rules_of
    from percale.explain.made_up_addresses import unseen_ipv6_rules

    (_, old), (_, new) = sides
    changed = {key for key in (*old.policies, *new.policies) if old.policies.get(key) != new.policies.get(key)}
    rules = (
        rule
        for world, evaluator in sides
        for rule in unseen_ipv6_rules(rules_of(evaluator), world.networks, _made_up_pods(world))
    )
    return list(dict.fromkeys(str(rule) for rule in rules if rule.policy in changed))


def _made_up_pods(world: World) -> list[Pod]:
    """Pods whose address is not the one that they will get."""
    from percale.model.pod import Pod

    return [each for each in world.objects if isinstance(each, Pod) and each.key in world.made_up and each.ips]


def _tell(rows: Sequence[ChangeDocument]) -> None:
    if not rows:
        click.echo("no flow flips")
        return
    last = None
    for row in rows:
        pair = f"{row.from_} → {row.to}"
        if pair != last:
            click.echo(pair)
        last = pair
        click.echo(f"  {row.change} {row.ports}{', for some of them' if row.partly else ''}")
        click.echo(f"    before  {row.before}")
        click.echo(f"    after   {row.after}")
        if row.partly:
            click.echo(f"    such as {row.example}")
    opened = sum(row.change == "opens" for row in rows)
    click.echo(f"\n{opened} opened, {len(rows) - opened} closed")


def _tell_strangers(before: Sequence[Group], after: Sequence[Group]) -> None:
    """Workloads of one side only: no flow changes there."""
    for title, here, there in (("gone", before, after), ("new", after, before)):
        strangers = [str(group) for group in here if group.sort == "workload" and group not in there]
        if strangers:
            click.echo(f"note: {title}, and not compared: {', '.join(strangers)}", err=True)
