"""`percale plan render`: the plan as what other programs read."""

from __future__ import annotations

import click

from percale.cli.json_output import format_json
from percale.cli.options import source_lab_option
from percale.cli.plan.given_plan import plan_option, usable_plan
from percale.ipam.address_plan import rendering
from percale.ipam.address_plan.plan import Plan


@click.command(short_help="The plan as a net-conf.json, as labels of nodes, or as pools.")
@plan_option
@click.option("-f", "files", metavar="FILE|DIR", multiple=True, help="Manifests whose nodes get labels.")
@source_lab_option
@click.argument("what", metavar="net-conf|labels|ippools", type=click.Choice(["net-conf", "labels", "ippools"]))
def render(*, file: str, files: tuple[str, ...], lab: str | None, what: str) -> int:
    """Print the plan as another program's input.

    net-conf: the pods' network and the length of a node's subnet, for flannel and Percale.
    labels: for each node of -f or --lab the command that gives it the labels which its address says.
    ippools: Calico's IPPools, one for each choice of named values, for the nodes with these labels.
    """
    plan = usable_plan(file)
    if what == "net-conf":
        click.echo(format_json(rendering.net_conf(plan)))
    elif what == "labels":
        return _labels(plan, files, lab)
    else:
        from percale.model.manifest.encode import to_plain
        from percale.model.manifest.yaml_writer import plain_to_yaml

        click.echo("---\n".join(plain_to_yaml(to_plain(each)) for each in rendering.pools(plan)), nl=False)
    return 0


def _labels(plan: Plan, files: tuple[str, ...], lab: str | None) -> int:
    from percale.cli.object_sources import load
    from percale.cli.options import lab_of_source
    from percale.model.node import Node

    world = load(files, lab_of_source(files, lab), policies=False)
    nodes = [each for each in world.objects if isinstance(each, Node)]
    found = dict(rendering.labels(plan, nodes))
    for name, labels in found.items():
        if labels:
            words = " ".join(f"{key}={value}" for key, value in labels.items())
            click.echo(world.tool.command("label", f"node {name} {words}"))
    for node in nodes:
        if node.metadata.name not in found:
            click.echo(f"{node.metadata.name} has no address of the plan", err=True)
    return 0
