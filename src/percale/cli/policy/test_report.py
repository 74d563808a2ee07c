"""What came of policy tests, as text, JSON, or JUnit's XML that CI systems read. Called by `percale policy test`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from xml.etree import ElementTree as Xml

from msgspec import Struct, field

from percale.cli.json_output import format_json
from percale.counted import counted
from percale.explain.policy_tests.runner import Trial, word

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class TestedDocument(Struct, frozen=True):
    """A probe and what came of it. `apart`: why it was not tried with real packets; `doubt`: the case's own."""

    case: str
    file: str
    line: int
    from_: str = field(name="from")
    to: str
    protocol: str
    port: int | None
    expected: str
    found: str
    wrong: bool
    reason: str
    apart: str | None
    doubt: str | None


class TestsDocument(Struct, frozen=True):
    """The report as JSON; the field names are an interface."""

    live: bool
    summary: str
    wrong: int
    probes: Sequence[TestedDocument]


def report(trials: Sequence[Trial], output: str, *, live: bool) -> str:
    """The whole answer."""
    if output == "json":
        return format_json(_document(trials, live=live), indent=0)
    if output == "junit":
        return _as_junit(trials)
    return "\n".join([*(f"wrong: {trial}" for trial in trials if trial.wrong), summary(trials, live=live)])


def summary(trials: Sequence[Trial], *, live: bool) -> str:
    """One line; what was not tried is never left out."""
    cases = len({id(trial.case) for trial in trials})
    apart = Counter(trial.apart for trial in trials if trial.apart is not None)
    tried = [trial for trial in trials if trial.apart is None]
    line = f"{counted(cases, 'case')}, {counted(len(trials), 'probe')}: "
    line += f"{_counts(tried)} {'with real packets' if live else 'by the evaluator'}"
    if apart:
        others = [trial for trial in trials if trial.apart is not None]
        reasons = "; ".join(f"{count}: {reason}" for reason, count in apart.items())
        line += f"; {_counts(others)} by the evaluator alone ({reasons})"
    return line


def _counts(trials: Sequence[Trial]) -> str:
    wrong = sum(trial.wrong for trial in trials)
    return f"{len(trials) - wrong} right, {wrong} wrong"


def _document(trials: Sequence[Trial], *, live: bool) -> TestsDocument:
    probes = [
        TestedDocument(
            case=trial.case.name,
            file=trial.case.source.file,
            line=trial.probe.line,
            from_=trial.probe.source,
            to=trial.probe.destination,
            protocol=trial.probe.protocol,
            port=trial.probe.port,
            expected=word(trial.probe.allowed),
            found=trial.found,
            wrong=trial.wrong,
            reason=trial.reason,
            apart=trial.apart,
            doubt=trial.probe.doubt,
        )
        for trial in trials
    ]
    return TestsDocument(live, summary(trials, live=live), sum(trial.wrong for trial in trials), probes)


def _as_junit(trials: Sequence[Trial]) -> str:
    """A suite for each case, a test for each probe."""
    root = Xml.Element("testsuites", {"name": "percale policy test", **_totals(trials)})
    cases = {id(trial.case): trial.case for trial in trials}
    for identity, case in cases.items():
        own = [trial for trial in trials if id(trial.case) == identity]
        suite = Xml.SubElement(
            root, "testsuite", {"name": _clean(case.name), "file": _clean(case.source.file), **_totals(own)}
        )
        for trial in own:
            test = Xml.SubElement(
                suite,
                "testcase",
                classname=_clean(case.name),
                name=_clean(str(trial.probe)),
                file=_clean(case.source.file),
                line=str(trial.probe.line),
            )
            if trial.wrong:
                Xml.SubElement(test, "failure", message=_clean(str(trial))).text = _clean(trial.reason)
            if trial.apart is not None:
                Xml.SubElement(test, "system-out").text = _clean(f"by the evaluator alone: {trial.apart}")
    Xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(root, encoding="unicode")


def _totals(trials: Sequence[Trial]) -> dict[str, str]:
    return {
        "tests": str(len(trials)),
        "failures": str(sum(trial.wrong for trial in trials)),
        "errors": "0",
        "skipped": "0",
    }


def _clean(text: str) -> str:
    """Without what XML cannot hold."""
    return _NOT_XML.sub("?", text)
