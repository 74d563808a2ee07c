"""`percale why`: may this connection begin, which rule says so, and what would change it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import click
from msgspec import Struct
from msgspec.structs import replace

from percale.cli.json_output import format_json
from percale.cli.options import (
    lab_of_source,
    namespace_option,
    networks,
    pod_cidr_option,
    source_options,
    source_words,
)

if TYPE_CHECKING:
    from percale.explain.why.document import ConnectionDocument, ServiceDocument
    from percale.explain.why.targets import Target, TargetLookup
    from percale.explain.world import World
    from percale.model.meta import ObjectKey

_CODES = {"allowed": 0, "denied": 1, "in part": 2, "unknown": 2}


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("destination", metavar="TO")
@click.argument("port", metavar="[PORT[/PROTO]]", required=False)
@namespace_option
@source_options
@pod_cidr_option
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def why(
    *,
    source: str,
    destination: str,
    port: str | None,
    namespace: str | None,
    files: tuple[str, ...],
    lab: str | None,
    pods: tuple[str, ...],
    output: str,
) -> int:
    """May FROM open a connection to TO, and which rule of which policy says so.

    FROM and TO: POD or NS/POD, deploy/NAME or deploy/NS/NAME (its first pod; also sts, ds, rs, job, cronjob), node/NAME,
    external/NAME (a lab's host), or an address. PORT: 80, 53/udp, 9999/sctp, the name of a port of TO, or icmp, as a
    word of its own or as TO:PORT; the port is the pod's own, not a Service's.
    TO may be a Service, with a port of its own: svc/NAME or svc/NS/NAME. Each endpoint that the Service may choose on
    the node of FROM has its verdict.

    Exit code 0: allowed, 1: denied, 2: undecided, with the reason; or some endpoints of a Service are
    allowed and others are not.
    """
    from percale.cli.object_sources import load, lookup
    from percale.explain.end_names import ServiceName, parse_name, split_port

    place = lab_of_source(files, lab)
    world = load(files, place, pods=networks(pods, "--pod-cidr") if pods else None)
    target, own_port = split_port(destination, port)
    options = source_words(files, place) + "".join(f" --pod-cidr {each}" for each in pods)
    question = _Question(world, place, lookup(world, place), options)
    asker = question.around.find(source, namespace)
    match parse_name(target, namespace):
        case ServiceName(key):
            answer = question.service(asker, key, own_port)
            taken = {source: asker}
        case name:
            asked = question.around.target(name)
            answer = question.pod(asker, asked, own_port)
            taken = {source: asker, target: asked}
    stands_for = {text: each.name for text, each in taken.items() if each.of_workload}
    if output == "json":
        document = replace(answer.document, taken=stands_for) if stands_for else answer.document
        click.echo(format_json(document, indent=0))
    else:
        click.echo("\n".join([*(f"{text}: its first pod is {pod}" for text, pod in stands_for.items()), *answer.lines]))
    return _CODES[answer.word]


class _Answer(NamedTuple):
    word: str
    lines: list[str]
    document: ConnectionDocument | ServiceDocument


class _Question(Struct, frozen=True):
    world: World
    lab: str | None
    around: TargetLookup
    options: str
    """That mean this world, in a command that is printed."""

    def pod(self, asker: Target, asked: Target, port: str) -> _Answer:
        """Raises BadInput."""
        from percale.explain.why.connection import explain_connection
        from percale.explain.why.document import connection_document
        from percale.explain.why.targets import port_of
        from percale.explain.why.text import to_text

        protocol, number = port_of(port, asked)
        self._no_service(asked, protocol, number)
        answer = explain_connection(self.around, asker, asked, protocol, number)
        return _Answer(answer.word, list(to_text(answer, self.world)), connection_document(answer, self.world))

    def _no_service(self, asked: Target, protocol: str, number: int | None) -> None:
        """A verdict on the address of a Service would be none on the connection. Raises BadInput."""
        from percale.cli.object_sources import service_world
        from percale.errors import BadInput
        from percale.explain.service_world import service_at
        from percale.model.service import Service
        from percale.service.service_ports import format_endpoint

        if not any(isinstance(each, Service) for each in self.world.objects):
            return
        for end in asked.ends:
            if end.pod is None and number is not None:
                found = service_at(service_world(self.world, self.lab).objects, end.address, number, protocol)
                if found is not None:
                    name, own = found
                    at, service = format_endpoint(end.address, number), f"{name.namespace}/{name.service}"
                    hint = f"ask for svc/{service}:{name.port or own}"
                    raise BadInput(f"{at}/{protocol} leads to Service {service}", hint=hint)

    def service(self, asker: Target, key: ObjectKey, port: str) -> _Answer:
        """Raises BadInput, NotFound."""
        from percale.cli.object_sources import pod_hint, service_world
        from percale.explain.why.document import service_document
        from percale.explain.why.through_service import Cluster, find_service_port, service_reply, to_text

        services = service_world(self.world, self.lab)
        service = services.service(key)
        found = find_service_port(service, port, pod_hint(services, service, port, f"why {asker.name}", self.options))
        table_of = partial(services.table_of, service)
        cluster = Cluster(self.around, table_of, services.nodes, services.masquerade_addresses)
        answer = service_reply(cluster, asker, service, found)
        return _Answer(answer.word, list(to_text(answer, self.world)), service_document(answer, self.world))
