"""Findings of the linter with the lines of their files. Called by cli/policy/check.py and cli/service/check.py."""

from __future__ import annotations

from collections.abc import Sequence

from percale.cli.findings import Finding
from percale.model.manifest.written_objects import WrittenObjects
from percale.policy.lint.finding import LintFinding


def placed(finding: LintFinding, written: WrittenObjects) -> Finding:
    """The linter's finding with its line."""
    line = written.line(finding.source, finding.field)
    return Finding(finding.source.file, line, finding.severity, finding.code, finding.ref, finding.what, finding.hint)


def in_order(findings: Sequence[Finding], names: Sequence[str]) -> list[Finding]:
    """In the order in which people read these files."""
    files = list(dict.fromkeys((*names, *(each.file for each in findings))))
    return sorted(findings, key=lambda each: (files.index(each.file), each.line))
