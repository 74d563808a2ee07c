"""In the VM: writes each test's result as a line to the second serial port. A plugin of pytest's, named by `plugin.py`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import msgspec
import pytest

PORT = Path("/dev/ttyS1")


class Result(msgspec.Struct):
    """`failure` is pytest's text, of what is not passed: a skipped test is none that passed."""

    nodeid: str
    failure: str | None


_failures: defaultdict[str, list[str]] = defaultdict(list)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if not report.passed:
        _failures[report.nodeid] += [report.longreprtext or str(report.longrepr)]
        _failures[report.nodeid] += [f"{title}:\n{text}" for title, text in report.sections]


def pytest_runtest_logfinish(nodeid: str) -> None:
    result = Result(nodeid, "\n".join(_failures[nodeid]) if nodeid in _failures else None)
    with PORT.open("ab") as port:
        port.write(msgspec.json.encode(result) + b"\n")
