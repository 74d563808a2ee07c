"""`make conformance`: Kubernetes' end-to-end specs of the network, in testbeds with Percale. The page is made of what ran.

    GROUPS ─▶ a testbed for each layout ─▶ suites, under a disturbance or none ─▶ conformance.json ─▶ page.py ─▶ conformance.md

A group that is run again replaces its own results only.
"""

from __future__ import annotations

import json
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import msgspec
from tests.cluster.testbed import agents, cluster_policies, measurements, suite
from tests.cluster.testbed.cluster import testbed
from tests.cluster.testbed.disturbances import DISTURBANCES
from tests.cluster.testbed.groups import ALL, GROUPS, SHORT, Group
from tests.cluster.testbed.layout import Layout
from tests.cluster.testbed.load_balancer import load_balancer
from tests.cluster.testbed.networks import NETWORKS
from tests.cluster.testbed.page import PLOT_NAME, AgentUsage, GroupResult, SuiteResult, columns, page
from tests.cluster.testbed.plot import plot
from tests.cluster.testbed.processes import in_node, run, say
from tests.cluster.testbed.suite import Selection, Spec
from tests.cluster.testbed.traffic import traffic

from percale import __version__

DOCS = Path(__file__).parents[3] / "docs"
RESULTS, PAGE, PLOT = DOCS / "conformance.json", DOCS / "conformance.md", DOCS / PLOT_NAME
REPORT = Path("/tmp/percale-conformance")


def measure(layout: Layout, name: str, group: Group) -> GroupResult:
    """In a testbed that is up."""
    say(f"== {name}: {group.title}")
    if group.measured:
        return GroupResult(versions(layout), [], measured=measurements.measure(layout))
    if group.disturbance is None:
        with load_balancer(layout) if group.load_balancer else nullcontext():
            results = _suites(layout, group, REPORT / name)
        usage = [AgentUsage(each.node, each.cpu_seconds, each.resident_bytes) for each in agents.running(layout)]
        return GroupResult(versions(layout), results, usage)
    with traffic(layout) as streams, DISTURBANCES[group.disturbance](layout, streams):
        results = _suites(layout, group, REPORT / name)
    count = streams.count()
    say(str(count))
    return GroupResult(versions(layout), results, [], count)


def _suites(layout: Layout, group: Group, report: Path) -> list[SuiteResult]:
    """One after the other."""

    def selected(title: str, selection: Selection) -> Callable[[], list[Spec]]:
        return lambda: suite.run(layout, selection, report / re.sub(r"\W+", "-", title).lower())

    runs = {title: selected(title, selection) for title, selection in group.suites.items()}
    if group.cluster_policies:
        runs[cluster_policies.TITLE] = lambda: cluster_policies.run(layout, report)
    return [_result(title, run) for title, run in runs.items()]


def _result(title: str, run: Callable[[], list[Spec]]) -> SuiteResult:
    say(title)
    begin = time.monotonic()
    result = SuiteResult.of(title, run(), time.monotonic() - begin)
    say(f"{result.passed} of {result.specs} passed, {result.seconds:.0f} s")
    for spec, message in result.failed.items():
        say(f"failed: {spec}: {message}")
    return result


def versions(layout: Layout) -> dict[str, str]:
    """Of everything that takes part."""
    node = [*in_node(layout, layout.nodes[0].name)]
    network = NETWORKS[layout.network]
    return {
        **({"Percale": __version__} if network.percale else {}),
        **{name: (layout.programs / name).readlink().name.removeprefix(f"{name}-") for name in network.others},
        "Kubernetes": run([*node, str(layout.programs / "kubelet"), "--version"]).split()[-1].removeprefix("v"),
        "etcd": run([*node, str(layout.programs / "etcd"), "--version"]).split("\n")[0].split()[-1],
        "containerd": run([*node, "containerd", "--version"]).split()[2],
        "runc": run([*node, "runc", "--version"]).split("\n")[0].split()[-1],
        "nftables": run([*node, "nft", "--version"]).split()[1].removeprefix("v"),
        "Linux": platform.release().split("-")[0],
    }


def record(found: dict[str, GroupResult], names: Iterable[str]) -> None:
    """Results of before, with these in their places, and the page."""
    before = read(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}
    merged = {name: result for name in GROUPS if (result := found.get(name) or before.get(name)) is not None}
    text = page(merged, names)
    RESULTS.write_text(json.dumps({name: asdict(each) for name, each in merged.items()}, indent=1) + "\n")
    PAGE.write_text(text)
    if side_by_side := columns(merged):
        PLOT.write_text(plot(side_by_side))


def read(document: dict[str, object]) -> dict[str, GroupResult]:
    """What `record` has written."""
    return msgspec.convert(document, dict[str, GroupResult])


def main(programs: Path, names: list[str]) -> None:
    """Exits 1 when a spec, a request or a policy failed."""
    groups = {**GROUPS, **SHORT}
    unknown = [name for name in names if name not in groups]
    if unknown:
        sys.exit(f"no group {unknown[0]}; there are {', '.join(groups)}")
    known = suite.names(Layout(str(programs)), ALL, REPORT / "names")

    def layout_of(name: str) -> Layout:
        return Layout(str(programs), groups[name].nodes, groups[name].stack, groups[name].network)

    failed = False
    for layout, together in groupby(names or GROUPS, layout_of):
        with testbed(layout):
            for name in together:
                result = measure(layout, name, groups[name])
                failed |= result.has_failed
                if name in GROUPS:
                    record({name: result}, known)
    sys.exit(failed)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
