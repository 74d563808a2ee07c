"""`percale policy check`: reads manifests, and prints what is wrong or odd, each with its file and line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import click

from percale.cli.findings import Decoded, Finding, by_severity, decoded, errors_of, print_findings
from percale.cli.lab_documents import pod_networks_of_labs, service_networks_of_labs
from percale.cli.lint_findings import in_order, placed
from percale.cli.options import networks, validate_option, validation
from percale.counted import counted
from percale.errors import BadNetworkConfig
from percale.model.addresses import IPNetwork
from percale.model.manifest.decode import ManifestEntry
from percale.model.manifest.files import Document, read
from percale.model.manifest.written_objects import WrittenObjects
from percale.policy.kinds.registry import POLICY_KINDS
from percale.policy.lint.linter import lint, lint_written


@click.command()
@validate_option
@click.argument("paths", metavar="FILE|DIR…", nargs=-1, required=True)
@click.option("--strict", is_flag=True, help="Exit 1 on warnings too.")
@click.option("--pod-cidr", "pods", metavar="CIDR,…", multiple=True, help="The pod network, where no manifest says it.")
@click.option(
    "--service-cidr", "services", metavar="CIDR,…", multiple=True, help="The network of cluster IPs, likewise."
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def check(
    *, paths: tuple[str, ...], strict: bool, pods: tuple[str, ...], services: tuple[str, ...], output: str
) -> int:
    """Check policies; give the pods and namespaces that they are for, too.

    Errors are those of the API server, with its words. Warnings are what people get wrong: selectors that select
    nothing, ports of Services or that no pod declares, ipBlocks that hold the pod network or cluster IPs, sections and
    rules without effect, DNS that is cut off. Exits with 1 on errors.
    """
    pod_networks, service_networks = networks(pods, "--pod-cidr"), networks(services, "--service-cidr")
    files = read(paths)
    documents = files.documents
    content = decoded(files, validation())
    findings = content.errors
    if not findings:
        try:
            findings = [*content.warnings, *_lint(content, documents, pod_networks, service_networks)]
        except BadNetworkConfig as error:
            findings = errors_of(error, documents[0][0])
    findings = in_order(findings, files.names)
    count = by_severity(findings)
    print_findings(findings, output, _summary(content.entries, count))
    return 1 if count["error"] or (strict and count["warning"]) else 0


def _lint(
    content: Decoded, documents: Sequence[Document], pods: Sequence[IPNetwork], services: Sequence[IPNetwork]
) -> list[Finding]:
    found, written = content.entries, WrittenObjects(documents)
    linted = lint(
        found, pods or pod_networks_of_labs(found), services or service_networks_of_labs(found), content.skipped
    )
    for each in found:
        if isinstance(each.object, POLICY_KINDS.object_types):
            linted += lint_written(each, written.value(each.source))
    return [placed(each, written) for each in linted]


def _summary(found: Iterable[ManifestEntry], count: Mapping[str, int]) -> str:
    policies = sum(isinstance(each.object, POLICY_KINDS.object_types) for each in found)
    words = [counted(count["error"], "error"), counted(count["warning"], "warning")]
    if count["info"]:
        words.append(f"{count['info']} for information")
    return (
        f"{counted(policies, 'policy')}: {', '.join(words)}"
        if not count["error"]
        else f"{words[0]}; warnings come when there are none"
    )
