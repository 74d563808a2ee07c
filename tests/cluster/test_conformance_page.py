"""The page of `make conformance` counts what ran, names what failed, and has a reason for all else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cluster.testbed.conformance import Result, page, reasons
from tests.cluster.testbed.processes import TestbedError
from tests.cluster.testbed.suite import read_report


def _spec(name: str, state: str, message: str = "", attempts: int = 1) -> dict[str, object]:
    return {
        "ContainerHierarchyTexts": ["[sig-network] Services"],
        "LeafNodeType": "It",
        "LeafNodeText": name,
        "State": state,
        "RunTime": 2_000_000_000,
        "NumAttempts": attempts,
        "Failure": {"Message": message},
    }


def test_a_page_from_a_report(tmp_path: Path) -> None:
    specs = [
        _spec("serve", "passed"),
        _spec("fail", "failed", "no answer\nmore"),
        _spec("time out", "timedout", "too late"),
        _spec("need six nodes", "skipped", "needs 6 nodes"),
        _spec("not selected", "skipped", attempts=0),
    ]
    report = tmp_path / "report.json"
    report.write_text(
        json.dumps([{"SpecReports": [*specs, {**_spec("setup", "passed"), "LeafNodeType": "BeforeSuite"}]}])
    )
    left_out = ["[sig-network] a [Feature:SCTPConnectivity]"]
    text = page({"Percale": "0"}, [Result("Conformance", read_report(report), 90)], left_out, [])
    assert "| Conformance | 4 | 1 | 2 | 1 | 1.5 |" in text
    assert (
        "## Failed\n\n- [sig-network] Services fail: no answer\n- [sig-network] Services time out: too late\n" in text
    )
    assert "## Skipped themselves\n\n- [sig-network] Services need six nodes: needs 6 nodes\n" in text
    assert "**the machine's kernel has no SCTP** (1)\n\n- [sig-network] a [Feature:SCTPConnectivity]\n" in text


def test_a_spec_that_is_not_run_has_a_reason() -> None:
    with pytest.raises(TestbedError, match="no reason is known why this spec is not run: new one"):
        reasons(["new one"])
