"""What is wrong or odd in manifests, each with its file and line. Called by cli/policy/check.py and cli/service/check.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import click
from msgspec import Struct
from msgspec.structs import replace

from percale.cli.json_output import format_json
from percale.errors import BadManifest, BadNetworkConfig
from percale.lab.spec.topology import Lab
from percale.model.kinds import KINDS, kinds_of
from percale.model.manifest.decode import ManifestEntry, SkippedDocument
from percale.model.manifest.files import Files
from percale.model.manifest.load import load_manifests
from percale.model.manifest.strictness import Validation

Severity: TypeAlias = Literal["error", "warning", "info"]


class Finding(Struct, frozen=True):
    """`line` 0: the file as a whole. `subject`: what it is about, where that is not clear from the message."""

    file: str
    line: int
    severity: Severity
    code: str
    subject: str | None
    message: str
    hint: str | None

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        if self.severity == "error":
            text = f"{where}: {self.message}; {self.hint}" if self.hint else f"{where}: {self.message}"
            return " ".join(text.split())
        hint = f" ({self.hint})" if self.hint else ""
        subject = f"{self.subject}: " if self.subject else ""
        return f"{where}: {self.severity}: {subject}{self.message}{hint}"


class FindingsDocument(Struct, frozen=True):
    """All findings, and how many there are of each severity; the field names are an interface."""

    findings: Sequence[Finding]
    error: int
    warning: int
    info: int


def by_severity(findings: Sequence[Finding]) -> dict[str, int]:
    """How many there are of each."""
    return {severity: sum(each.severity == severity for each in findings) for severity in get_args(Severity)}


def print_findings(findings: Sequence[Finding], output: str, summary: str) -> None:
    """As text with this last line, or as JSON."""
    if output == "json":
        click.echo(format_json(FindingsDocument(findings, **by_severity(findings))))
        return
    for finding in findings:
        click.echo(finding)
    click.echo(summary)


class Decoded(NamedTuple):
    """All errors of all files, the objects of those that have none, what is left out though it matters, unknown fields that
    pass, and all that is left out.
    """

    errors: list[Finding]
    entries: Sequence[ManifestEntry]
    warnings: list[Finding]
    skipped: Sequence[SkippedDocument]


def decoded(files: Files, validate: Validation, *, policies: bool = True) -> Decoded:
    """The content of these files. `policies`: those that are not enforced are warned of."""
    loaded = load_manifests(files.documents, {**KINDS, **kinds_of(Lab)}, unreadable=files.faults)
    errors = [finding for fault in loaded.faults for finding in errors_of(fault)]
    twice = [replace(finding, code="twice") for fault in loaded.duplicates for finding in errors_of(fault)]
    unknown = [replace(finding, code="unknown-field") for fault in loaded.unknown for finding in errors_of(fault)]
    warnings = [_left_out(each) for each in loaded.skipped_that_matter if policies or not each.why.policy]
    if not (errors or loaded.entries or loaded.skipped or loaded.networks):
        where = ", ".join(file for file, _ in files.documents)
        errors = errors_of(
            BadManifest("no objects in there", where=where)
        )  # of `helm template | percale … -` that failed
    if validate == "strict":
        errors += unknown
    elif validate == "warn":
        warnings += [replace(each, severity="warning") for each in unknown]
    return Decoded([*errors, *twice], loaded.entries, warnings, loaded.skipped)


def _left_out(document: SkippedDocument) -> Finding:
    source, subject = document.source, f"{document.kind} of {document.api_version}"
    message = f"{document.why.reason}, left out"
    return Finding(source.file, source.line, "warning", "not-enforced", subject, message, document.why.hint)


def errors_of(error: BadManifest | BadNetworkConfig, file: str = "") -> list[Finding]:
    """Of an error with its `where`, or of several; `file` is for an error that has none."""
    faults = error.parts if isinstance(error, BadManifest) else (error,)
    return [
        Finding(name or file, line, "error", "invalid", None, each.what, each.hint)
        for each in faults
        for name, line in (each.place,)
    ]
