"""The page of `make conformance`, from what ran."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tests.cluster.testbed.groups import GROUPS, left_out
from tests.cluster.testbed.measurements import Measurement
from tests.cluster.testbed.suite import Spec
from tests.cluster.testbed.traffic import Count

PLOT_NAME = "side-by-side.svg"
"""Beside the page."""


@dataclass(frozen=True)
class SuiteResult:
    title: str
    specs: int
    passed: int
    failed: dict[str, str]
    """Why, by the spec's name."""
    skipped: dict[str, str]
    """Why, of those that skipped themselves."""
    seconds: float

    @classmethod
    def of(cls, title: str, specs: list[Spec], seconds: float) -> SuiteResult:
        """What became of each."""
        failed = {spec.name: _first_line(spec.message) for spec in specs if spec.failed}
        skipped = {spec.name: _first_line(spec.message) for spec in specs if not spec.failed and not spec.passed}
        return cls(title, len(specs), sum(spec.passed for spec in specs), failed, skipped, round(seconds))


@dataclass(frozen=True)
class AgentUsage:
    node: str
    cpu_seconds: float
    resident_bytes: int


@dataclass(frozen=True)
class GroupResult:
    versions: dict[str, str]
    suites: list[SuiteResult]
    usage: list[AgentUsage] = field(default_factory=list)
    traffic: Count | None = None
    measured: list[Measurement] = field(default_factory=list)

    @property
    def has_failed(self) -> bool:
        """A spec, or packets that had to pass, or to be dropped."""
        return any(suite.failed for suite in self.suites) or (self.traffic is not None and self.traffic.has_failed)


def page(results: Mapping[str, GroupResult], names: Iterable[str]) -> str:
    """docs/conformance.md; `names` are all that the suite has."""
    return "\n".join(_lines(results, names)).rstrip() + "\n"


def _lines(results: Mapping[str, GroupResult], names: Iterable[str]) -> Iterator[str]:
    yield from (
        "# Conformance",
        "",
        "Written by `make conformance`: Kubernetes' own end-to-end specs of the network, in clusters of three nodes with",
        "kubelet and containerd, in namespaces of one machine (`tests/cluster/testbed`). Percale gives pods their network,",
        "enforces policies and carries Services, without kube-proxy, if nothing else is said. `make conformance NAMES=host-gw`",
        "runs one group again. Of SCTP, which this kernel lacks, the first packets of associations are compared with policies",
        "by `tests/kernel/test_policy_worlds.py`, and whole associations in a VM by `tests/kernel/agent/test_agent_sctp.py`.",
        "",
        "| group | cluster | suite | specs | passed | failed | skipped themselves | minutes |",
        "|---|---|---|---|---|---|---|---|",
    )
    for name, result in results.items():
        for suite in result.suites:
            counts = f"{suite.specs} | {suite.passed} | {len(suite.failed)} | {len(suite.skipped)}"
            yield f"| {name} | {GROUPS[name].title} | {suite.title} | {counts} | {suite.seconds / 60:.1f} |"
    if missing := [name for name in GROUPS if name not in results]:
        yield from ("", f"Groups that have no result yet: {', '.join(missing)}.")
    yield from _traffic(results)
    yield from _measured(results)
    yield from _versions(results)
    yield from _usage(results)
    for title, field_name in (("Failed", "failed"), ("Skipped themselves", "skipped")):
        found = [
            f"- {name}: {spec}: {message}"
            for name, result in results.items()
            for suite in result.suites
            for spec, message in getattr(suite, field_name).items()
        ]
        if found:
            yield from ("", f"## {title}", "", *found)
    yield from ("", "## Not run", "")
    for reason, specs in sorted(left_out(names).items()):
        yield from (f"**{reason}** ({len(specs)})", "", *(f"- {spec}" for spec in sorted(specs)), "")


def _traffic(results: Mapping[str, GroupResult]) -> Iterator[str]:
    disturbed = {name: each.traffic for name, each in results.items() if each.traffic is not None}
    if not disturbed:
        return
    yield from (
        "",
        "## Under disturbance",
        "",
        "Meanwhile pods of all nodes ask pods, pods that a policy protects and a Service, over new connections and over one",
        "that stays, and a stranger sends what the policy denies.",
        "",
        "| group | cluster | disturbances | requests | failed | slowest | denied packets | arrived |",
        "|---|---|---|---|---|---|---|---|",
    )
    for name, count in disturbed.items():
        cells = (
            count.disturbances,
            count.requests,
            count.failed,
            f"{count.slowest:.2f} s",
            count.denied,
            count.arrived,
        )
        yield f"| {name} | {GROUPS[name].title} | {' | '.join(map(str, cells))} |"
    notes = [f"- {name}: {note}" for name, count in disturbed.items() for note in count.notes]
    if notes:
        yield from ("", *notes)


def columns(results: Mapping[str, GroupResult]) -> dict[str, list[Measurement]]:
    """What was measured of each network."""
    return {f"{name}: {GROUPS[name].title}": each.measured for name, each in results.items() if each.measured}


def _measured(results: Mapping[str, GroupResult]) -> Iterator[str]:
    """A column for each network, a row for each measurement of the first."""
    networks = columns(results)
    if not networks:
        return
    yield from (
        "",
        "## Side by side",
        "",
        '`make conformance NAMES="percale others"`: the same measurements in a testbed of each, one after the other on one',
        "machine, by `tests/cluster/testbed/measurements.py`, which says what each row is. Medians where nothing else is said.",
        "flannel's own CNI plugin only calls bridge, which is configured itself here: its start is not in these numbers.",
        "",
        f"| | unit | {' | '.join(networks)} |",
        "|---|---|" + "---|" * len(networks),
    )
    for row in next(iter(networks.values())):
        values = ({each.what: each.value for each in column}.get(row.what) for column in networks.values())
        cells = ("–" if value is None else f"{value:.4g}" for value in values)
        better = ", more is better" if row.more_is_better else ""
        yield f"| {row.what}{better} | {row.unit} | {' | '.join(cells)} |"
    yield from ("", f"![the same as bars]({PLOT_NAME})")


def _versions(results: Mapping[str, GroupResult]) -> Iterator[str]:
    by_versions: dict[str, list[str]] = {}
    for name, result in results.items():
        text = ", ".join(f"{program} {version}" for program, version in result.versions.items())
        by_versions.setdefault(text, []).append(name)
    yield ""
    if len(by_versions) == 1:
        yield f"Versions: {next(iter(by_versions))}."
    else:
        yield from (f"Versions of {', '.join(names)}: {text}." for text, names in by_versions.items())


def _usage(results: Mapping[str, GroupResult]) -> Iterator[str]:
    rows = [(name, each) for name, result in results.items() for each in result.usage]
    if rows:
        yield from ("", "The agents after the undisturbed suites:", "")
        yield from ("| group | agent of | CPU seconds | resident MiB |", "|---|---|---|---|")
        yield from (
            f"| {name} | {each.node} | {each.cpu_seconds:.0f} | {each.resident_bytes >> 20} |" for name, each in rows
        )


def _first_line(message: str) -> str:
    return message.splitlines()[0] if message else "without a message"
