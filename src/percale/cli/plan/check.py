"""`percale plan check`: what is wrong with a plan, or will be, each with its line."""

from __future__ import annotations

import click

from percale.cli.findings import by_severity, print_findings
from percale.cli.plan.given_plan import read_plan
from percale.counted import counted
from percale.ipam.address_plan.check import errors_of_names, findings
from percale.model.addresses import IPNetwork


@click.command(short_help="Overlaps, values that do not fit, sizes, and this host's routes.")
@click.argument("file", metavar="FILE", envvar="PERCALE_PLAN")
@click.option("--routes", is_flag=True, help="Also with the routes of this host.")
@click.option("--strict", is_flag=True, help="Exit 1 on warnings too.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def check(*, file: str, routes: bool, strict: bool, output: str) -> int:
    """Check an address plan (FILE, or $PERCALE_PLAN).

    Errors: ranges and reserved networks that overlap, names whose value does not fit into a range, subnets that are no
    network, service networks that kube-apiserver refuses, addresses that no host may have, routes of this host (--routes)
    for addresses of pods and Services. Warnings: what a pod's address cannot say, few subnets, public addresses.
    Exits with 1 on errors.
    """
    given = read_plan(file)
    found = list(errors_of_names(given.plan)) or list(findings(given.plan, _routes_of_this_host() if routes else ()))
    placed = given.placed(found)
    count = by_severity(placed)
    ranges = counted(len(given.plan.spec.ranges), "range")
    summary = f"{ranges}: {counted(count['error'], 'error')}, {counted(count['warning'], 'warning')}"
    print_findings(placed, output, summary)
    return 1 if count["error"] or (strict and count["warning"]) else 0


def _routes_of_this_host() -> list[tuple[IPNetwork, str]]:
    """Of the main table, without default routes and our own; with how packets leave."""
    from percale.kernel.rtnl.driver import opened

    with opened() as driver:
        routes = driver.underlay().routes
    return [
        (route.dst, f"by {route.via} on {route.dev}" if route.via is not None else f"on {route.dev}")
        for route in routes
        if route.dst.prefixlen
    ]
