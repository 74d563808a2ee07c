"""`percale service show`: one Service as a node sees it, each endpoint with the reason why it is used or not."""

from __future__ import annotations

import click

from percale.cli.json_output import format_json
from percale.cli.object_sources import load_services
from percale.cli.options import source_options
from percale.explain.end_names import ServiceName, parse_name
from percale.explain.services.document import service_document
from percale.explain.services.show import Connections, ServiceView, lines, view
from percale.lab.commands import default_lab


@click.command(short_help="One Service as a node sees it.")
@click.argument("name", metavar="[NS/]NAME")
@click.option("-n", "--namespace", metavar="NS", help="Its namespace (default: `default`).")
@click.option("--node", metavar="NODE", help="As this node sees it (default: the first by name).")
@source_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def show(
    *, name: str, namespace: str | None, node: str | None, files: tuple[str, ...], lab: str | None, output: str
) -> int:
    """Show one Service as a node sees it: addresses, what happens to whom, and each endpoint.

    Of endpoints that are not used it says why: not ready, terminating, on another node (traffic policy Local), meant
    for other nodes or zones (topology hints), of weight 0, or a duplicate. In a lab it counts the connections that the
    node's kernel has in its table now.
    """
    world = load_services(files, lab)
    asked = parse_name(name if name.startswith(("svc/", "service/")) else f"svc/{name}", namespace)
    assert isinstance(asked, ServiceName)
    service = world.service(asked.key)
    where = world.node(node)
    seen = view(service, world.table(where), world.behind.get(service.key, ()))
    connections = None if files or not seen.ports else _counted(seen, lab or default_lab(), where)
    if output == "json":
        click.echo(format_json(service_document(seen, connections)))
    else:
        click.echo("\n".join(lines(seen, connections)))
    return 0


def _counted(seen: ServiceView, lab: str, node: str) -> Connections:
    from percale.lab.connection_counts import connections
    from percale.lab.run_dir import locate

    return connections(locate(lab), node, seen.ports)
