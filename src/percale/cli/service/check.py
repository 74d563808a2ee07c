"""`percale service check`: what an API server would refuse in Services and EndpointSlices, and what is odd in them.

files ─┬─ as they are written ─▶ model/validation/service ──┐
       └─ decoded ─▶ controllers/service_allocator ──────────────┼▶ findings, each with its line
                  └▶ ServiceResolver: its problems ──────┘
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import click
from msgspec import Struct

from percale.cli.findings import Decoded, Finding, by_severity, decoded, errors_of, print_findings
from percale.cli.lab_documents import service_networks_of_labs
from percale.cli.lint_findings import in_order, placed
from percale.cli.options import networks, validate_option, validation
from percale.controllers.offline import DEFAULT_SERVICE_CIDR
from percale.controllers.service_allocator import Allocations
from percale.counted import counted
from percale.errors import BadManifest
from percale.explain.service_world import pod_networks
from percale.model.addresses import IPNetwork, parse_network
from percale.model.endpoints import Endpoints, EndpointSlice
from percale.model.manifest.decode import ManifestEntry, read_nodes
from percale.model.manifest.diagnostics import SourceText, diagnose
from percale.model.manifest.files import Document, Files, read
from percale.model.manifest.syntax_tree import Node, plain_value
from percale.model.manifest.written_objects import WrittenObjects
from percale.model.meta import Object
from percale.model.service import Service
from percale.model.validation.field_errors import FieldErrors
from percale.model.validation.service import check_endpoint_slice, check_endpoints, check_service
from percale.policy.lint.linter import lint_services
from percale.service.node_context import ServiceConfig
from percale.service.resolver import KINDS, ServiceResolver

_CHECKS: Mapping[str, tuple[type[Object], Callable[[Mapping[str, Any]], FieldErrors]]] = {
    Service.KIND: (Service, check_service),
    EndpointSlice.KIND: (EndpointSlice, check_endpoint_slice),
    Endpoints.KIND: (Endpoints, check_endpoints),
}
_ANYTHING = (parse_network("0.0.0.0/0"), parse_network("::/0"))
"""Cluster IPs when their network is not given."""


@click.command()
@validate_option
@click.argument("paths", metavar="FILE|DIR…", nargs=-1, required=True)
@click.option(
    "--service-cidr",
    "cidrs",
    metavar="CIDR,…",
    multiple=True,
    help="Of cluster IPs (default: a Lab document's, or any).",
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def check(*, paths: tuple[str, ...], cidrs: tuple[str, ...], output: str) -> int:
    """Check Services and EndpointSlices.

    Errors are those of the API server, with its words: fields, names, cluster IPs and node ports that are out of range
    or taken. Warnings are what only one Service suffers from: an unknown strategy, an address that another one has,
    no pod that it selects.
    Exits with 1 on errors.
    """
    given = networks(cidrs, "--service-cidr")
    files = read(paths)
    documents = files.documents
    content = _checked(files, given)
    findings, found = content.errors, content.entries
    if not findings:
        written = WrittenObjects(documents)
        linted = (placed(each, written) for each in lint_services(found, content.skipped))
        findings = [*content.warnings, *linted, *_odd(found, given or service_networks_of_labs(found))]
    findings = in_order(findings, files.names)
    count = by_severity(findings)
    print_findings(findings, output, _summary(found, count))
    return 1 if count["error"] else 0


def _checked(files: Files, given: Sequence[IPNetwork]) -> Decoded:
    """All errors, and the objects of those files that can be read."""
    content, documents = decoded(files, validation(), policies=False), files.documents
    found = content.entries
    errors = [each for document in documents for each in _validated(document)]
    said = set(map(_field_of, errors))
    errors += [each for each in content.errors if _field_of(each) not in said]  # the API server's words come first
    if not errors:
        errors = list(_unallocated(found, documents, given or service_networks_of_labs(found) or _ANYTHING))
    return content._replace(errors=errors)


def _field_of(error: Finding) -> tuple[str, int, str]:
    return error.file, error.line, error.message.partition(": ")[0]


def _validated(document: Document) -> Iterator[Finding]:
    file, text = document
    try:
        for written, value in _objects(file, text):
            kind, validator = _CHECKS[value["kind"]]
            if errors := tuple(validator(value)):
                yield from errors_of(diagnose(errors, (), kind, written), file)
    except BadManifest:
        return  # it cannot be read: the decoder has said so


class _Part(Struct, frozen=True):
    """An object, or a list of them, as it is written."""

    node: Node
    value: Any


def _objects(file: str, text: str) -> Iterator[tuple[SourceText, dict[str, Any]]]:
    """The Services and EndpointSlices of a file. Raises BadManifest."""
    for node in read_nodes(text, file):
        for part in _parts(_Part(node, plain_value(node, len(text), f"{file}:{node.line}"))):
            if isinstance(part.value, dict) and _is_checked(part.value):
                yield SourceText(part.node, text, file), part.value


def _is_checked(value: Mapping[str, Any]) -> bool:
    """Others too have a kind Service."""
    kind = value.get("kind")
    return isinstance(kind, str) and kind in _CHECKS and value.get("apiVersion") == _CHECKS[kind][0].API_VERSION


def _parts(part: _Part) -> Iterable[_Part]:
    kind = part.value.get("kind") if isinstance(part.value, dict) else None
    items, values = part.node.get("items"), part.value.get("items") if isinstance(part.value, dict) else None
    if not isinstance(kind, str) or not kind.endswith("List") or items is None or not isinstance(values, list):
        return (part,)
    version = part.value.get("apiVersion")
    inherited = {"apiVersion": version, "kind": kind.removesuffix("List")} if kind != "List" else {}
    plain = ({**value, **inherited} if isinstance(value, dict) else value for value in values)
    return [_Part(node, value) for node, value in zip(items.items, plain, strict=True)]


def _unallocated(
    found: Sequence[ManifestEntry], documents: Sequence[Document], cidrs: Sequence[IPNetwork]
) -> Iterator[Finding]:
    """What they ask for and cannot have."""
    written = WrittenObjects(documents)
    services = [each for each in found if isinstance(each.object, Service)]
    admitted = Allocations(cidrs).admit_all([each.object for each in services if isinstance(each.object, Service)])
    for each, result in zip(services, admitted, strict=True):
        if result.errors:
            yield from errors_of(diagnose(result.errors, (), Service, written.text(each.source)), each.source.file)


def _odd(found: Sequence[ManifestEntry], cidrs: tuple[IPNetwork, ...]) -> list[Finding]:
    """What the agent would complain of, each about its own Service."""
    sources = {each.object.key: each.source for each in found if isinstance(each.object, Service)}
    others = [each.object for each in found if isinstance(each.object, KINDS) and not isinstance(each.object, Service)]
    # With addresses, as a cluster would have given them: a Service without any means nothing yet.
    services = Allocations(cidrs or (DEFAULT_SERVICE_CIDR,)).complete(
        [each.object for each in found if isinstance(each.object, Service)]
    )
    config = ServiceConfig("", pod_cidrs=pod_networks(each.object for each in found), service_cidrs=cidrs)
    findings = []
    for key, service in ServiceResolver(config, (*others, *services)).services.items():
        for problem in dict.fromkeys(service.problems):
            source, said = sources[key], problem.removeprefix(f"Service {key}: ")
            findings.append(Finding(source.file, source.line, "warning", "odd", f"Service {key}", said, None))
    return findings


def _summary(found: Iterable[ManifestEntry], count: Mapping[str, int]) -> str:
    objects = [each.object for each in found]
    services = sum(isinstance(each, Service) for each in objects)
    slices = sum(isinstance(each, EndpointSlice) for each in objects)
    if count["error"]:
        return f"{counted(count['error'], 'error')}; warnings come when there are none"
    checked = f"{counted(services, 'Service')}, {counted(slices, 'EndpointSlice')}"
    return f"{checked}: 0 errors, {counted(count['warning'], 'warning')}"
