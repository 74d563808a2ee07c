"""Findings of the linter with the lines of their files. Called by cli/policy/check.py and cli/service/check.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from percale.cli.findings import Finding
from percale.model.manifest.decode import Source, node_at, read_nodes
from percale.model.manifest.files import Document
from percale.model.manifest.syntax_tree import Node, descend, plain_value
from percale.policy.lint.finding import LintFinding


class WrittenObjects:
    """Objects as their files have them; each file is read once."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self._texts = dict(documents)
        self._read: dict[str, tuple[Node, ...]] = {}

    def node(self, source: Source) -> Node:
        """The node of an object that was decoded from these texts."""
        file = source.file
        if file not in self._read:
            self._read[file] = tuple(read_nodes(self._texts[file], file))
        node = node_at(self._read[file], source)
        assert node is not None
        return node

    def value(self, source: Source) -> Any:
        """The same object as dicts, lists and scalars."""
        return plain_value(self.node(source), len(self._texts[source.file]), str(source))

    def finding(self, finding: LintFinding) -> Finding:
        """The linter's finding with its line."""
        _, line = descend(self.node(finding.source), finding.field)
        return Finding(
            finding.source.file, line, finding.severity, finding.code, finding.ref, finding.what, finding.hint
        )


def in_order(findings: Sequence[Finding], names: Sequence[str]) -> list[Finding]:
    """In the order in which people read these files."""
    files = list(dict.fromkeys((*names, *(each.file for each in findings))))
    return sorted(findings, key=lambda each: (files.index(each.file), each.line))
