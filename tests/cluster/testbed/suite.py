"""Runs specs of Kubernetes' end-to-end suite in a testbed, and reads what became of them."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.testbed.images import IMAGE_NAMES
from tests.cluster.testbed.layout import Layout
from tests.cluster.testbed.processes import TestbedError, in_control_plane, tail

_PASSED, _SKIPPED = "passed", ("skipped", "pending")


@dataclass(frozen=True)
class Selection:
    """Specs by their names: a pattern that they have, and patterns that they don't."""

    focus: str
    skip: tuple[str, ...] = ()
    serial: bool = False
    """One after the other."""

    def options(self) -> list[str]:
        return [f"--focus={self.focus}", *(f"--skip={each}" for each in self.skip)]

    def has(self, name: str) -> bool:
        """Whether a spec of this name is in it."""
        return bool(re.search(self.focus, name)) and not any(re.search(each, name) for each in self.skip)


@dataclass(frozen=True)
class Spec:
    name: str
    state: str
    seconds: float
    message: str
    """Why it failed, or skipped itself; empty for the others."""

    @property
    def passed(self) -> bool:
        return self.state == _PASSED

    @property
    def failed(self) -> bool:
        return not self.passed and self.state not in _SKIPPED


def run(layout: Layout, selection: Selection, report: Path, *, processes: int = 3, minutes: int = 60) -> list[Spec]:
    """The specs that ran, and those that skipped themselves. The suite's whole output is in `report`/e2e.log."""
    prefix = [*in_control_plane(layout), "env", f"KUBE_TEST_REPO_LIST={IMAGE_NAMES}"]
    side_by_side = 1 if selection.serial else processes
    _ginkgo(layout, prefix, report, [*selection.options(), f"--procs={side_by_side}", f"--timeout={minutes}m"])
    return read_report(report / "report.json")


def names(layout: Layout, selection: Selection, report: Path) -> list[str]:
    """Of the specs that would run; a testbed need not be up."""
    _ginkgo(layout, ["env", f"KUBE_TEST_REPO_LIST={IMAGE_NAMES}"], report, [*selection.options(), "--dry-run"])
    return [spec.name for spec in read_report(report / "report.json")]


def _ginkgo(layout: Layout, prefix: list[str], report: Path, options: list[str]) -> None:
    """Its exit code says no more than its report."""
    report.mkdir(parents=True, exist_ok=True)
    written = report / "report.json"
    written.unlink(missing_ok=True)
    suite = (
        *("--provider=local", f"--kubeconfig={layout.kubeconfig}", f"--kubectl-path={layout.programs / 'kubectl'}"),
        *(f"--num-nodes={layout.node_count}", "--prepull-images=false", "--disable-log-dump"),
        "--dump-logs-on-failure=false",
    )
    command = [*prefix, str(layout.programs / "ginkgo"), "run", "--no-color", "--keep-going", *options]
    command += [f"--output-dir={report}", "--json-report=report.json", str(layout.programs / "e2e.test"), "--", *suite]
    with (report / "e2e.log").open("wb") as log:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=report, check=False)
    if not written.exists():
        raise TestbedError(f"the suite did not run: {tail(report / 'e2e.log')}")


def read_report(path: Path) -> list[Spec]:
    """Those that were selected."""
    reports: list[dict[str, Any]] = json.loads(path.read_text())
    specs = (spec for report in reports for spec in report.get("SpecReports") or [])
    return [
        Spec(
            name=" ".join((*(spec.get("ContainerHierarchyTexts") or ()), spec["LeafNodeText"])),
            state=spec["State"],
            seconds=spec["RunTime"] / 1e9,
            message=(spec.get("Failure") or {}).get("Message", "").strip(),
        )
        for spec in specs
        if spec["LeafNodeType"] == "It" and (spec["State"] not in _SKIPPED or spec.get("NumAttempts"))
    ]
