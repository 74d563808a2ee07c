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

import click
from msgspec import Struct, field

from percale.cli.json_output import format_errors, format_json
from percale.cli.object_sources import load, lookup, pod_hint, service_world
from percale.cli.options import lab_of_source, namespace_option, networks, source_options, source_words
from percale.errors import BadInput, NotFound
from percale.explain.end_names import NamedNumber, ServiceName, find_port, parse_name, split_port
from percale.explain.service_world import NO_NODE, ServiceWorld
from percale.explain.why.targets import Target, TargetLookup, port_of
from percale.model.addresses import is_address
from percale.model.manifest.json_text import read_json_text
from percale.service.node_context import ServiceConfig
from percale.service.packet_lookup import Answer
from percale.service.packet_lookup import resolve as resolve_packet
from percale.service.resolver import ServiceResolver

_LONGEST_LINE = 1 << 20
"""Bytes of a request: a device has no end of line."""


@click.command(short_help="Where a packet to a Service goes.")
@click.argument("source", metavar="FROM", required=False)
@click.argument("target", metavar="TO", required=False)
@click.argument("port", metavar="PORT[/PROTO]", required=False)
@click.option("--node", metavar="NODE", help="The node on which the packet is seen (default: the one where FROM is).")
@namespace_option
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
    port: str | None,
    namespace: str | None,
    node: str | None,
    files: tuple[str, ...],
    lab: str | None,
    batch: str | None,
    pods: tuple[str, ...],
    services: tuple[str, ...],
    node_port_addresses: tuple[str, ...],
    masquerade_all: bool,
    output: str,
) -> int:
    """Show where a packet at a node would go: to which endpoints, and whether they see its source.

    FROM and TO are named as for `percale why`, and the port is a word of its own or TO:PORT. An address of TO need not be
    anybody's. A packet of a pod or node is seen on its own node; of one from elsewhere, --node says on which.

    \b
    percale service resolve 10.244.1.2 10.96.0.10:53/UDP --node n1 -f cluster.yaml
    percale service resolve default/client svc/default/web:http --node n1 -f cluster.yaml
    percale service resolve --batch - --node n1 -f cluster.yaml < requests
    percale service resolve default/client svc/default/web:80 --lab lab

    Where the manifests have pods but no EndpointSlices, these and missing cluster IPs and node ports are made as
    a cluster makes them. Of a lab, the networks are those of its agents' configuration, unless they are given.
    """
    if batch is None and (source is None or target is None):
        raise click.UsageError("give FROM, TO and PORT, or --batch FILE")
    if batch is not None and source is not None:
        raise click.UsageError("give FROM, TO and PORT or --batch FILE, not both")
    ports = networks(node_port_addresses, "--node-port-addresses", but="primary")
    said = ServiceConfig(
        node=NO_NODE,
        service_cidrs=networks(services, "--service-cidr"),
        node_port_addresses=ports or None,
        masquerade_all=masquerade_all,
    )
    pod_networks = networks(pods, "--pod-cidr") if pods else None
    place = lab_of_source(files, lab)
    plain = load(files, place, pods=pod_networks, policies=False)
    services_here = service_world(plain, place, said, pod_networks)
    options = f"{f' --node {node}' if node is not None else ''}{source_words(files, place)}"
    seen_at = services_here.node(node) if node is not None else None
    world = _World(services_here, lookup(plain, place), namespace, seen_at, options)
    if batch is not None:
        return _answer_all(world, batch)
    assert source is not None
    assert target is not None
    to, own_port = split_port(target, port)
    answer = world.ask(source, to, own_port)
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
    """Who is who, and the nodes' tables."""

    services: ServiceWorld
    lookup: TargetLookup
    namespace: str | None
    """Of names without one."""
    node: str | None
    """None: where the source is."""
    options: str
    """That mean this world, in a command that is printed."""
    _tables: dict[str, ServiceResolver] = field(default_factory=dict)

    def ask(self, source: str, target: str, port: str) -> Answer:
        """Raises BadInput, NotFound."""
        asker = self.lookup.find(source, self.namespace)
        sources = [ip_address(each.address) for each in asker.ends]
        match parse_name(target, self.namespace):
            case ServiceName(key):
                service = self.services.service(key)
                targets = [
                    ip_address(each)
                    for each in service.spec.clusterIPs or (service.spec.clusterIP or "",)
                    if is_address(each)
                ]
                if not targets:
                    hint = pod_hint(self.services, service, port, f"service resolve {asker.name}", self.options)
                    raise BadInput(f"Service {key} has no cluster IP", hint=hint)
                ports = (NamedNumber(each.name, each.protocol, each.port) for each in service.spec.ports)
                protocol, number = find_port(port, f"Service {key}", ports)
            case name:
                asked = self.lookup.target(name)
                targets = [ip_address(each.address) for each in asked.ends]
                protocol, number = port_of(port, asked)
        if number is None or protocol == "ICMP":
            raise BadInput("ICMP has no port, and goes to no Service")
        both = [(a, b) for b in targets for a in sources if a.version == b.version]
        if not both:
            raise BadInput(f"{source} and {target} have no address family in common")
        node = self._node_of(asker) if self.node is None else self.node
        return resolve_packet(self._table(node), *both[0], number, protocol)

    def _node_of(self, asker: Target) -> str:
        """Where nothing says it, and there is no choice, it makes no difference. Raises BadInput."""
        own = next((each.node or (each.pod.node if each.pod is not None else None) for each in asker.ends), None)
        if own or len(self.services.nodes) < 2:
            return self.services.node(own)
        hint = f"name one by --node: {', '.join(self.services.nodes)}"
        raise BadInput(f"{asker.name} is on no node, so a packet of it may be seen on any", hint=hint)

    def _table(self, node: str) -> ServiceResolver:
        if node not in self._tables:
            table = self._tables[node] = self.services.table(node)
            if len(self._tables) == 1:  # the Services' own, not the node's
                for problem in table.problems:
                    click.echo(f"percale: {problem}", err=True)
        return self._tables[node]


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
        except (BadInput, NotFound) as error:
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
            while line := lines.readline(_LONGEST_LINE):
                if len(line) == _LONGEST_LINE:
                    raise BadInput(f"a line of more than {_LONGEST_LINE >> 10} KiB", where=batch)
                yield line
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
    source, target, protocol = request["from"], request["to"], request.get("protocol") or ""
    for key, value in (("from", source), ("to", target), ("protocol", protocol)):
        if not isinstance(value, str):
            raise BadInput(f"{key}: expected a text")
    port = request["port"]
    if not isinstance(port, str | int) or isinstance(port, bool):
        raise BadInput("port: expected a number or a name")
    return world.ask(source, target, f"{port}/{protocol}" if protocol else str(port))
