"""`percale why`: may this connection begin, which rule says so, and what would change it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from percale.cli.worlds import World

_CODES = {"allowed": 0, "denied": 1, "unknown": 2}


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("destination", metavar="TO")
@click.argument("port", metavar="PORT[/PROTO]")
@click.option("-f", "files", metavar="FILE|DIR", multiple=True, help="Manifests; - is stdin.")
@click.option("--lab", metavar="NAME", help="A lab that runs (without -f: the lab `lab`).")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def why(*, source: str, destination: str, port: str, files: tuple[str, ...], lab: str | None, output: str) -> int:
    """May FROM open a connection to TO, and which rule of which policy says so.

    FROM and TO: NS/POD, POD (of the namespace default), node/NAME, external/NAME (a lab's host), or an address.
    PORT: 80, 53/udp, 9999/sctp, the name of a port of TO, or icmp. The port is the pod's own, not a Service's.

    Exit code 0: allowed, 1: denied, 2: nobody can tell from what is known, and why.
    """
    if files and lab is not None:
        raise click.UsageError("either -f or --lab")
    from percale.cli.worlds import load
    from percale.errors import PercaleError
    from percale.explain.answering import reply
    from percale.explain.asking import Surroundings, find_port
    from percale.explain.telling import as_json, lines
    from percale.policy.evaluator import Evaluator

    place = None if files else lab or "lab"
    try:
        world = load(files, place)
        around = Surroundings(Evaluator(world.objects), world.made_up, _hosts(world, place))
        asker, asked = around.find(source), around.find(destination)
        protocol, number = find_port(port, asked)
    except PercaleError as error:
        error.exit_code = _CODES["unknown"]  # 1 would be a verdict
        raise
    answer = reply(around.evaluator, asker, asked, protocol, number)
    click.echo(json.dumps(as_json(answer, world)) if output == "json" else "\n".join(lines(answer, world)))
    return _CODES[answer.word]


def _hosts(world: World, lab: str | None) -> Mapping[str, tuple[str, ...]] | None:
    """The hosts outside: the lab's, or those of a Lab document among the manifests."""
    from percale.lab.document import Lab, topology

    if lab is not None:
        from percale.lab.asking import ask
        from percale.lab.place import locate

        return {name: tuple(each) for name, each in ask(locate(lab), "hosts")["hosts"].items()}
    for each in world.objects:
        if isinstance(each, Lab):
            return {host.name: (str(host.address.ip), str(host.address6.ip)) for host in topology(each.spec).hosts}
    return None
