"""`percale lab get`: the objects of a lab, with the status that its controllers would write."""

from __future__ import annotations

from typing import Any

import click

from percale.cli.lab.requests import get_objects
from percale.cli.object_names import wanted_objects
from percale.cli.object_output import get_options, print_objects
from percale.cli.options import lab_option


@click.command(short_help="Show objects: pods, nodes, deployments, …")
@get_options
@lab_option
def get(
    *,
    what: tuple[str, ...],
    namespace: str | None,
    all_namespaces: bool,
    output: str | None,
    selector: str | None,
    watch: bool,
    lab: str,
) -> int:
    """Show objects: pods, nodes, deployments, services, networkpolicies, subnetleases, … `all` is workloads and services.

    Without -n all of the namespace `default`; where that has none, -A shows the others.
    """
    wanted = wanted_objects(what)

    def ask(after: int | None) -> dict[str, Any]:
        return get_objects(
            lab, wanted, namespace, everywhere=all_namespaces, wide=output == "wide", selector=selector, after=after
        )

    return print_objects(wanted, ask, output, watch=watch)
