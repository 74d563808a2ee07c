"""`percale policy check`: reads manifests, and prints what is wrong or odd, each with its file and line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import click

from percale.cli.findings import Finding, by_severity, counted, decoded, errors_of, print_findings
from percale.cli.options import networks, validate_option, validation
from percale.errors import BadNetworkConfig
from percale.lab.spec.topology import Lab
from percale.model.addresses import IPNetwork
from percale.model.manifest.decode import ManifestEntry, Source, node_at, read_nodes
from percale.model.manifest.files import Document, read
from percale.model.manifest.syntax_tree import Node, descend, plain_value
from percale.model.netconf import network_config
from percale.policy.kinds.registry import POLICY_KINDS
from percale.policy.lint.finding import LintFinding
from percale.policy.lint.linter import lint, lint_written


@click.command()
@validate_option
@click.argument("paths", metavar="FILE|DIR…", nargs=-1, required=True)
@click.option("--strict", is_flag=True, help="Exit 1 on warnings too.")
@click.option(
    "--pod-cidr", "cidrs", metavar="CIDR,…", multiple=True, help="The pod network, where no manifest says it."
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def check(*, paths: tuple[str, ...], strict: bool, cidrs: tuple[str, ...], output: str) -> int:
    """Check policies; give the pods and namespaces that they are for, too.

    Errors are those of the API server, with its words. Warnings are what people get wrong: selectors that select
    nothing, named ports that no pod declares, ipBlocks that hold the pod network, sections and rules without effect, DNS
    that is cut off. Exits with 1 on errors.
    """
    given = networks(cidrs, "--pod-cidr")
    documents = read(paths)
    findings, found, warnings = decoded(documents, validation())
    if not findings:
        try:
            findings = _sorted([*warnings, *_lint(found, documents, given)], documents)
        except BadNetworkConfig as error:
            findings = errors_of(error, documents[0][0])
    count = by_severity(findings)
    print_findings(findings, "policy", output, _summary(found, count))
    return 1 if count["error"] or (strict and count["warning"]) else 0


def _lint(found: Sequence[ManifestEntry], documents: Sequence[Document], given: Sequence[IPNetwork]) -> list[Finding]:
    texts = dict(documents)
    nodes = _Nodes(texts)
    linted = lint(found, given or _lab_networks(found))
    for each in found:
        if isinstance(each.object, POLICY_KINDS.object_types):
            node = nodes.of(each.source)
            linted += lint_written(each, plain_value(node, len(texts[each.source.file]), str(each.source)))
    return [_finding(each, nodes) for each in linted]


def _sorted(findings: Iterable[Finding], documents: Sequence[Document]) -> list[Finding]:
    files = [file for file, _ in documents]
    return sorted(findings, key=lambda each: (files.index(each.file), each.line))


def _finding(finding: LintFinding, nodes: _Nodes) -> Finding:
    _, line = descend(nodes.of(finding.source), finding.field)
    return Finding(finding.source.file, line, finding.severity, finding.code, finding.ref, finding.what, finding.hint)


class _Nodes:
    """Where objects are written; each file is read once."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self._read: dict[str, tuple[Node, ...]] = {}

    def of(self, source: Source) -> Node:
        """The node of an object that was decoded from these texts."""
        file = source.file
        if file not in self._read:
            self._read[file] = tuple(read_nodes(self._texts[file], file))
        node = node_at(self._read[file], source)
        assert node is not None
        return node


def _lab_networks(found: Iterable[ManifestEntry]) -> list[IPNetwork]:
    """The pod network of a Lab document."""
    return [
        network
        for each in found
        if isinstance(each.object, Lab) and each.object.spec.network is not None
        for network in network_config(each.object.spec.network, f"{each.source} spec.network").networks
    ]


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
