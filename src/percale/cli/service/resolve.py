"""`percale service resolve`: where would a packet seen on this node go? One question on the command line, or many in a file.

files, lab ─ service_worlds ─▶ ServiceResolver ─ resolve ─▶ answers
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from ipaddress import ip_address
from pathlib import Path
from typing import cast, get_args

import click
from msgspec import Struct

from percale.cli.json_output import format_errors, format_json
from percale.cli.options import networks, source_options
from percale.cli.sources import load_services
from percale.errors import BadInput
from percale.explain.service_world import ServiceWorld
from percale.model.addresses import IPAddress, is_address, port_number
from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.model.manifest.json_text import read_json_text
from percale.model.meta import Object, ObjectKey
from percale.model.node import Node
from percale.model.pod import Pod, Protocol
from percale.model.service import Service
from percale.service.node_context import ServiceConfig
from percale.service.packet_lookup import Answer
from percale.service.packet_lookup import resolve as resolve_packet
from percale.service.resolver import ServiceResolver

_PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)


@click.command(short_help="Where a packet to a Service goes.")
@click.argument("source", metavar="FROM", required=False)
@click.argument("target", metavar="TO:PORT[/PROTO]", required=False)
@click.option("--node", metavar="NODE", required=True, help="The node on which the packet is seen.")
@source_options
@click.option("--batch", metavar="FILE", help="One JSON request a line, - is stdin; one JSON answer a line.")
@click.option(
    "--pod-cidr",
    "pods",
    metavar="CIDR,…",
    multiple=True,
    help="Pods' networks (default: those of the Nodes; '': not known).",
)
@click.option("--service-cidr", "services", metavar="CIDR,…", multiple=True, help="Networks of the cluster IPs.")
@click.option(
    "--node-port-addresses",
    metavar="CIDR,…",
    multiple=True,
    help="The node's addresses that take node ports (default: primary).",
)
@click.option("--masquerade-all", is_flag=True, help="Masquerade whatever goes to a cluster IP.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def resolve(
    *,
    source: str | None,
    target: str | None,
    node: str,
    files: tuple[str, ...],
    lab: str | None,
    batch: str | None,
    pods: tuple[str, ...],
    services: tuple[str, ...],
    node_port_addresses: tuple[str, ...],
    masquerade_all: bool,
    output: str,
) -> int:
    """Show where a packet at NODE would go: to which endpoints, and whether they see its source.

    FROM is an address, NAMESPACE/POD or node/NAME. TO is an address, [IPV6] or svc/NAMESPACE/NAME.

    \b
    percale service resolve 10.244.1.2 10.96.0.10:53/UDP --node n1 -f cluster.yaml
    percale service resolve default/client svc/default/web:http --node n1 -f cluster.yaml
    percale service resolve --batch - --node n1 -f cluster.yaml < requests
    percale service resolve default/client svc/default/web:80 --node node1 --lab lab

    Where the manifests have pods but no EndpointSlices, these and missing cluster IPs and node ports are made as
    a cluster makes them. Of a lab, the networks are those of its agents' configuration, unless they are given.
    """
    if batch is None and (source is None or target is None):
        raise click.UsageError("give FROM and TO:PORT, or --batch FILE")
    if batch is not None and source is not None:
        raise click.UsageError("give FROM and TO:PORT or --batch FILE, not both")
    ports = networks(node_port_addresses, "--node-port-addresses", but="primary")
    said = ServiceConfig(
        node=node,
        service_cidrs=networks(services, "--service-cidr"),
        node_port_addresses=ports or None,
        masquerade_all=masquerade_all,
    )
    pod_networks = networks(pods, "--pod-cidr") if pods else None
    world = _World.of(load_services(files, lab, said, pod_networks), node)
    for problem in world.table.problems:
        click.echo(f"percale: {problem}", err=True)
    if batch is not None:
        return _answer_all(world, batch)
    assert source is not None
    assert target is not None
    answer = world.ask(source, *_split(target))
    if output == "json":
        click.echo(format_json(answer, indent=0))
    else:
        click.echo("\n".join(_lines(answer)))
    return 0


def _lines(answer: Answer) -> Iterator[str]:
    yield answer.reason
    if answer.action == "endpoints":
        yield from (f"  {endpoint}" for endpoint in answer.endpoints)
    else:
        yield f"  {answer.action}"


class _World(Struct, frozen=True):
    """Who is who, and the table."""

    table: ServiceResolver
    objects: dict[tuple[type[Object], ObjectKey], Object]

    @classmethod
    def of(cls, world: ServiceWorld, node: str) -> _World:
        """Raises BadInput when there are nodes, but not this one."""
        return cls(world.table(world.node(node)), {(type(each), each.key): each for each in world.objects})

    def ask(self, source: str, target: str, port: str | int, protocol: str) -> Answer:
        """Raises BadInput."""
        if protocol.upper() not in _PROTOCOLS:
            raise BadInput(f"protocol {protocol!r} is not known", hint=f"there are {', '.join(_PROTOCOLS)}")
        targets, number = self._target(target, port)
        sources = self._source(source)
        both = [(a, b) for b in targets for a in sources if a.version == b.version]
        if not both:
            raise BadInput(f"{source} and {target} have no address family in common")
        return resolve_packet(self.table, *both[0], number, cast(Protocol, protocol.upper()))

    def _source(self, text: str) -> list[IPAddress]:
        if is_address(text):
            return [ip_address(text)]
        namespace, slash, name = text.partition("/")
        if not slash:
            raise BadInput(f"FROM {text!r} is not an address", hint="or write NAMESPACE/POD or node/NAME")
        if namespace == "external":
            raise BadInput(f"FROM {text!r}: hosts outside are no objects", hint="write the host's address")
        if namespace == "node":
            node = self.objects.get((Node, ObjectKey(None, name)))
            found = (
                [each.address for each in cast(Node, node).status.addresses if is_address(each.address)] if node else []
            )
        else:
            pod = self.objects.get((Pod, ObjectKey(namespace, name)))
            found = cast(Pod, pod).status.addresses if pod else []
        if not found:
            raise BadInput(f"there is no {'node' if namespace == 'node' else 'pod'} {text!r} with an address")
        return [ip_address(each) for each in found]

    def _target(self, text: str, port: str | int) -> tuple[list[IPAddress], int]:
        bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        if is_address(bare):
            return [ip_address(bare)], _number(port)
        word, _, rest = text.partition("/")
        namespace, _, name = rest.rpartition("/")
        namespace = namespace or DEFAULT_NAMESPACE
        if word != "svc" or not name:
            raise BadInput(f"TO {text!r} is not an address", hint="or write svc/NAMESPACE/NAME")
        service = cast("Service | None", self.objects.get((Service, ObjectKey(namespace, name))))
        if service is None:
            raise BadInput(f"there is no Service {namespace}/{name}")
        spec = service.spec
        found = [ip_address(each) for each in spec.clusterIPs or (spec.clusterIP or "",) if is_address(each)]
        if not found:
            raise BadInput(f"Service {namespace}/{name} has no cluster IP")
        named = next((each.port for each in spec.ports if each.name == port), None)
        if named is None and isinstance(port, str) and not port.isdecimal():
            names = ", ".join(filter(None, (each.name for each in spec.ports)))
            hint = f"it names {names}" if names else "write a number: it names no ports"
            raise BadInput(f"Service {namespace}/{name} has no port named {port}", hint=hint)
        return found, named or _number(port)


def _split(text: str) -> tuple[str, str, str]:
    """`TO:PORT/PROTO` → its parts. Raises BadInput."""
    head, slash, protocol = text.rpartition("/")
    if not slash or ":" in protocol or ":" not in head:
        head, protocol = text, "TCP"
    target, colon, port = head.rpartition(":")
    if not colon or not target:
        raise BadInput(f"TO {text!r} has no port", hint="write TO:PORT, such as 10.96.0.10:53/UDP")
    if target.count(":") and not target.startswith("["):
        raise BadInput(f"TO {text!r} is not clear", hint=f"write an IPv6 address in brackets: [{target}]:{port}")
    return target, port, protocol


def _number(port: str | int) -> int:
    number = port_number(port if isinstance(port, str) else json.dumps(port))
    if number is None:
        raise BadInput(f"port {json.dumps(port)[:40]} is not a number from 1 to 65535")
    return number


# Many questions


def _answer_all(world: _World, batch: str) -> int:
    """One answer a line: of a bad line its errors, which are on stderr too."""
    name = "stdin" if batch == "-" else batch
    code = 0
    for number, line in enumerate(_lines_of(batch), 1):
        if not line.strip():
            continue
        try:
            answer = _answer(world, line)
        except BadInput as error:
            what = " ".join(error.what.splitlines())  # which may repeat what was asked
            bad_line = BadInput(what, where=f"{name}:{number}", hint=error.hint)
            click.echo(f"percale: {bad_line}", err=True)
            click.echo(format_errors(bad_line))
            code = bad_line.exit_code
        else:
            click.echo(format_json(answer, indent=0))
    return code


def _lines_of(batch: str) -> Iterator[bytes]:
    """One after the other: who writes into a pipe gets answers meanwhile. Raises BadInput."""
    try:
        with nullcontext(sys.stdin.buffer) if batch == "-" else Path(batch).open("rb") as lines:
            yield from lines
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", where=batch) from error


def _answer(world: _World, line: bytes) -> Answer:
    try:
        request = read_json_text(line.decode())
    except json.JSONDecodeError as error:
        raise BadInput(f"not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise BadInput("not UTF-8 text") from error
    if not isinstance(request, dict):
        raise BadInput("not a JSON object")
    for key in ("from", "to", "port"):
        if key not in request:
            raise BadInput(f"{key}: missing")
    source, target, protocol = request["from"], request["to"], request.get("protocol") or "TCP"
    for key, value in (("from", source), ("to", target), ("protocol", protocol)):
        if not isinstance(value, str):
            raise BadInput(f"{key}: expected a text")
    return world.ask(source, target, request["port"], protocol)
