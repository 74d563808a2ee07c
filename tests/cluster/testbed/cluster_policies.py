"""Runs the conformance suite of ClusterNetworkPolicy (module sigs.k8s.io/network-policy-api) in a testbed, with all features."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

from tests.cluster.testbed.control_plane import kubectl
from tests.cluster.testbed.layout import Layout
from tests.cluster.testbed.processes import TestbedError, in_control_plane, tail
from tests.cluster.testbed.suite import Spec

from percale.store.kubernetes.list_watch import ABSENT_RECHECK

TITLE = "ClusterNetworkPolicy, all features but SCTP"
KIND = Path(__file__).parents[3] / "deploy/clusternetworkpolicies.yaml"
_TEST = "TestClusterNetworkPolicy"
_SCTP = f"{_TEST}/SCTP|{_TEST}/.*/SCTP"
"""Go's pattern: tests, and parts of others."""
_ENDED = re.compile(rf"^ +--- (PASS|FAIL|SKIP): {_TEST}/(\S+) \(([0-9.]+)s\)$", re.MULTILINE)
_RUN = re.compile(rf"^=== RUN +{_TEST}/(\S+)$", re.MULTILINE)
_COMMAND = re.compile(r"FAILED Command was \[(.*)\]$", re.MULTILINE)
"""Probes with another outcome than expected; the last one of a part is what it failed for."""
_EXPECTED = re.compile(r"^ +helper\.go:\d+: (Expected .*)$", re.MULTILINE)
"""What it says of a probe with another outcome."""
_STATES = {"PASS": "passed", "FAIL": "failed", "SKIP": "skipped"}


def run(layout: Layout, report: Path, *, minutes: int = 60) -> list[Spec]:
    """What became of each part of its tests. The suite's whole output is in `report`/cluster-policies.log."""
    kubectl(layout, "apply", "-f", str(KIND))
    kubectl(layout, "wait", "--for=condition=Established", "crd/clusternetworkpolicies.policy.networking.k8s.io")
    time.sleep(2 * ABSENT_RECHECK)  # until the agents have looked for it again
    report.mkdir(parents=True, exist_ok=True)
    path = report / "cluster-policies.log"
    environment = ("env", f"KUBECONFIG={layout.kubeconfig}")
    options = ("-test.v", f"-test.timeout={minutes}m", f"-test.skip={_SCTP}")
    command = [*in_control_plane(layout), *environment, str(layout.programs / "policies.test"), *options]
    with path.open("wb") as log:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=report, check=False)
    specs = read_log(path.read_text(errors="replace"))
    if done.returncode != 0 and all(spec.passed for spec in specs):  # it fails for those without SCTP, too
        raise TestbedError(f"the suite did not run: {tail(path)}")
    return specs


def read_log(text: str) -> list[Spec]:
    """Of a program of Go's `testing`: the parts of each test, and the tests that have none.

    A part that asks by SCTP among other protocols cannot pass here: it ends with the first such probe.
    """
    _, *runs = _RUN.split(text)
    outputs = dict(zip(runs[::2], runs[1::2], strict=True))
    without_sctp = {
        name for name, output in outputs.items() if "--protocol=sctp" in next(reversed(_COMMAND.findall(output)), "")
    }
    ended = {name: (state, float(seconds)) for state, name, seconds in _ENDED.findall(text)}
    whole = {name.rpartition("/")[0] for name in ended}
    return [
        Spec(re.sub("[/_]", " ", name), "skipped", seconds, "the machine's kernel has no SCTP")
        if state == "FAIL" and name in without_sctp
        else Spec(re.sub("[/_]", " ", name), _STATES[state], seconds, _why(outputs[name]) if state == "FAIL" else "")
        for name, (state, seconds) in ended.items()
        if name not in whole
    ]


def _why(output: str) -> str:
    return next(reversed(_EXPECTED.findall(output)), "see its log")
