"""`percale plan next`: the next free address, node's subnet or service network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network

import click
from msgspec import Struct

from percale.cli.json_output import format_json
from percale.cli.options import output_option, source_lab_option
from percale.cli.plan.given_plan import address_or_network, plan_option, usable_plan
from percale.ipam.address_plan.plan import Meaning, Plan
from percale.model.address_plan import NODES
from percale.model.addresses import IPNetwork
from percale.model.meta import Object
from percale.model.node import Node
from percale.model.service import Service
from percale.model.subnet_lease import SubnetLease


class NextFree(Struct, frozen=True):
    """An address, or a network with its prefix length; both are null when all are in use."""

    address: str | None
    meaning: Meaning | None


@click.command(
    "next",
    short_help="The next free address, node's subnet or service network.",
    context_settings={"ignore_unknown_options": True},
)
@plan_option
@click.option("-f", "files", metavar="FILE|DIR", multiple=True, help="Manifests whose nodes and Services are there.")
@source_lab_option
@click.option("--taken", metavar="ADDRESS|CIDR,…", multiple=True, help="What is in use beside them.")
@click.option("-6", "ipv6", is_flag=True, help="Of a range that has both families: IPv6.")
@output_option
@click.argument("words", metavar="[RANGE] [--FIELD VALUE]…", nargs=-1, type=click.UNPROCESSED)
def next_free(
    *,
    file: str,
    files: tuple[str, ...],
    lab: str | None,
    taken: tuple[str, ...],
    ipv6: bool,
    output: str | None,
    words: tuple[str, ...],
) -> int:
    """Print the next free address of a range (nodes by default): of pods a node's subnet, of services a service network.

    Fields are given by number or by the plan's name for it: percale plan next --room berlin --env 7. What is in use comes
    from manifests (-f), a lab (--lab) and --taken; what the plan reserves is never given. Exits with 1 when none is free.
    """
    plan = usable_plan(file)
    purpose, fixed = _fixed(plan, words)
    given = [address_or_network(word, "--taken") for each in taken for word in each.split(",")]
    ranges = plan.ranges_for(purpose)
    wanted = next((each for each in ranges if each.addresses.family == (6 if ipv6 else 4)), ranges[0])
    found = plan.next_free(wanted, fixed, [*given, *_in_use(files, lab)])
    free = NextFree(None, None)
    if found is not None:
        free = NextFree(str(found[0] if found.num_addresses == 1 else found), plan.meaning(found))
    if output == "json":
        click.echo(format_json(free))
    elif found is None:
        click.echo("all are in use", err=True)
    else:
        click.echo(f"{free.address}   # {free.meaning}")
    return 1 if found is None else 0


def _fixed(plan: Plan, words: Sequence[str]) -> tuple[str, Mapping[str, int]]:
    """The range, and values by field. Raises click's UsageError, BadInput."""
    rest, fixed, purposes = list(words), {}, []
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            purposes.append(word)
            continue
        field, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            if not rest:
                raise click.UsageError(f"Option '{word}' requires an argument.")
            value = rest.pop(0)
        fixed[field] = plan.value(field, value)
    if len(purposes) > 1:
        raise click.UsageError(f"one RANGE, not {' and '.join(purposes)}")
    return (purposes[0] if purposes else NODES), fixed


def _in_use(files: Sequence[str], lab: str | None) -> Iterator[IPNetwork]:
    """Addresses of nodes and Services, subnets of nodes."""
    if not files and lab is None:
        return
    from percale.cli.object_sources import load
    from percale.cli.options import lab_of_source

    for each in load(files, lab_of_source(files, lab), policies=False).objects:
        yield from map(ip_network, _addresses_of(each))


def _addresses_of(obj: Object) -> Iterator[str]:
    match obj:
        case Node():
            yield from (each.address for each in obj.status.addresses if each.type != "Hostname")
            yield from map(str, obj.pod_cidrs)
        case SubnetLease():
            yield from map(str, obj.spec.subnets)
        case Service():
            yield from (each for each in obj.spec.clusterIPs or (obj.spec.clusterIP,) if each and each != "None")
