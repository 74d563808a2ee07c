"""`percale why`: may this connection begin, which rule says so, and what would change it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import click
from msgspec import Struct, field
from msgspec.structs import replace

from percale.cli.json_output import format_json
from percale.cli.options import source_options

if TYPE_CHECKING:
    from percale.explain.why.document import ConnectionDocument, ServiceDocument
    from percale.explain.why.targets import Target, TargetLookup
    from percale.explain.world import World

_CODES = {"allowed": 0, "denied": 1, "in part": 2, "unknown": 2}
_SERVICE = ("svc/", "service/")


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("destination", metavar="TO")
@click.argument("port", metavar="[PORT[/PROTO]]", required=False)
@source_options
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def why(
    *, source: str, destination: str, port: str | None, files: tuple[str, ...], lab: str | None, output: str
) -> int:
    """May FROM open a connection to TO, and which rule of which policy says so.

    FROM and TO: NS/POD, POD (of the namespace default), deploy/NAME, deploy/NS/NAME (its first pod; also sts, ds, rs,
    job), node/NAME, external/NAME (a lab's host), or an address.
    PORT: 80, 53/udp, 9999/sctp, the name of a port of TO, or icmp. The port is the pod's own, not a Service's.
    TO may be a Service, with a port of its own: svc/NS/NAME:PORT, svc/NAME:PORT. Each endpoint that the Service may
    choose on the node of FROM has its verdict.

    Exit code 0: allowed, 1: denied, 2: undecided, with the reason; or some endpoints of a Service are
    allowed and others are not.
    """
    if files and lab is not None:
        raise click.UsageError("either -f or --lab")
    from percale.cli.sources import load
    from percale.explain.why.targets import TargetLookup
    from percale.policy.evaluator import Evaluator

    place = None if files else lab or "lab"
    world = load(files, place)
    around = TargetLookup(Evaluator(world.objects), world.made_up, _hosts(world, place), world.owned, world.selectors)
    question = _Question(world, place, around)
    if destination.startswith(_SERVICE):
        answer = question.service(source, destination, port)
    else:
        answer = question.pod(source, destination, port)
    taken = question.taken
    if output == "json":
        document = replace(answer.document, taken=taken) if taken else answer.document
        click.echo(format_json(document, indent=0))
    else:
        click.echo("\n".join([*(f"{asked}: its first pod is {pod}" for asked, pod in taken.items()), *answer.lines]))
    return _CODES[answer.word]


class _Answer(NamedTuple):
    word: str
    lines: list[str]
    document: ConnectionDocument | ServiceDocument


class _Question(Struct, frozen=True):
    world: World
    lab: str | None
    around: TargetLookup
    taken: dict[str, str] = field(default_factory=dict)
    """The pods that stand for workloads."""

    def pod(self, source: str, destination: str, port: str | None) -> _Answer:
        """Raises BadInput, NotFound."""
        from percale.explain.why.connection import explain_connection
        from percale.explain.why.document import connection_document
        from percale.explain.why.targets import find_port
        from percale.explain.why.text import to_text

        if port is None:
            raise click.UsageError("Missing argument 'PORT[/PROTO]'.")
        asker, asked = self._find(source), self._find(destination)
        protocol, number = find_port(port, asked)
        self._no_service(asked, protocol, number)
        answer = explain_connection(self.around, asker, asked, protocol, number)
        return _Answer(answer.word, list(to_text(answer, self.world)), connection_document(answer, self.world))

    def _no_service(self, asked: Target, protocol: str, number: int | None) -> None:
        """A verdict on the address of a Service would be none on the connection. Raises BadInput."""
        from percale.cli.sources import service_world
        from percale.errors import BadInput
        from percale.explain.why.through_service import service_at
        from percale.model.service import Service
        from percale.service.service_ports import format_endpoint

        if not any(isinstance(each, Service) for each in self.world.objects):
            return
        for party in asked.parties:
            if party.pod is None and number is not None:
                found = service_at(service_world(self.world, self.lab).objects, party.address, number, protocol)
                if found is not None:
                    name, own = found
                    at, service = format_endpoint(party.address, number), f"{name.namespace}/{name.service}"
                    hint = f"ask for svc/{service}:{name.port or own}"
                    raise BadInput(f"{at}/{protocol} leads to Service {service}", hint=hint)

    def service(self, source: str, destination: str, port: str | None) -> _Answer:
        """Raises BadInput, NotFound."""
        from percale.cli.sources import service_world
        from percale.explain.why.document import service_document
        from percale.explain.why.through_service import Cluster, find_service_port, service_reply, to_text

        name, colon, own = destination.partition(":")
        if bool(colon) == (port is not None):
            raise click.UsageError("give the port once: svc/NS/NAME:PORT, or svc/NS/NAME PORT")
        services = service_world(self.world, self.lab)
        service = services.service(name, None)
        found = find_service_port(service, port or own)
        table_of = partial(services.table_of, service)
        asker = self._find(source)
        cluster = Cluster(self.around, table_of, services.nodes, services.masquerade_addresses)
        answer = service_reply(cluster, asker, service, found)
        return _Answer(answer.word, list(to_text(answer, self.world)), service_document(answer, self.world))

    def _find(self, text: str) -> Target:
        from percale.explain.why.targets import first_pod

        pod = first_pod(self.world.objects, text)
        if pod is None:
            return self.around.find(text)
        self.taken[text] = str(pod)
        return self.around.find(str(pod))


def _hosts(world: World, lab: str | None) -> Mapping[str, tuple[str, ...]] | None:
    """The hosts outside: the lab's, or those of a Lab document among the manifests."""
    from percale.lab.spec.topology import Lab, topology

    if lab is not None:
        from percale.lab.api.client import ask
        from percale.lab.run_dir import locate

        return {name: tuple(each) for name, each in ask(locate(lab), "hosts")["hosts"].items()}
    for each in world.objects:
        if isinstance(each, Lab):
            return {host.name: (str(host.address.ip), str(host.address6.ip)) for host in topology(each.spec).hosts}
    return None
