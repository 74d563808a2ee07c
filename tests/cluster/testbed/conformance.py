"""`make conformance`: Kubernetes' end-to-end specs of the network with Percale in a testbed, written to docs/conformance.md."""

from __future__ import annotations

import platform
import re
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.testbed import agents, suite
from tests.cluster.testbed.cluster import testbed
from tests.cluster.testbed.layout import Layout
from tests.cluster.testbed.processes import TestbedError, in_node, run, say
from tests.cluster.testbed.suite import Selection, Spec

from percale import __version__

PAGE = Path(__file__).parents[3] / "docs/conformance.md"
_ALL = Selection(r"\[sig-network\]")
_SUITES = {
    "Conformance": Selection(r"\[sig-network\].*\[Conformance\]"),
    "NetworkPolicy": Selection(r"\[Feature:NetworkPolicy\]", ("SCTPConnectivity",)),
    "others of [sig-network]": Selection(
        r"\[sig-network\]", (r"\[Conformance\]", "Feature:", r"\[Serial\]", r"\[Disruptive\]", "Provider:GCE")
    ),
    "serial ones": Selection(r"\[sig-network\].*\[Serial\]", ("DNS configMap", "PerformanceDNS"), serial=True),
}
_REASONS = {
    "SCTPConnectivity": "the machine's kernel has no SCTP",
    "IPv6DualStack": "the testbed's nodes have IPv4 only",
    "LoadBalancer": "needs a cloud's load balancer",
    "Feature:Networking-(IPv4|IPv6|DNS)": "needs the internet",
    "KubeProxyNFAcct": "about kube-proxy's own counters in iptables",
    "Networking-Performance|PerformanceDNS": "a measurement, without a limit that a network could miss",
    "Provider:GCE": "about another provider's machines",
    "Disruptive": "ends programs of the nodes over SSH, which the testbed's nodes don't have",
    "DNS configMap": "about the DNS server's configuration",
}
"""Why specs are in none of the suites: what their names have, the first that is found."""


KILL_EVERY = 5.0
"""Seconds."""


@dataclass(frozen=True)
class Result:
    """What became of a suite."""

    name: str
    specs: list[Spec]
    seconds: float


def measure(layout: Layout, report: Path) -> str:
    """The page; the testbed is up."""
    results = [_result(layout, name, selection, report) for name, selection in _SUITES.items()]
    usage = [(each.node, each.cpu_seconds, each.resident_bytes) for each in agents.running(layout)]
    with agents.killed_in_turn(layout, KILL_EVERY) as killed:
        name = f"Conformance, an agent killed every {KILL_EVERY:.0f} s"
        results.append(_result(layout, name, _SUITES["Conformance"], report))
    say(f"{len(killed)} agents were killed")
    ran = {spec.name for result in results for spec in result.specs}
    left_out = [name for name in suite.names(layout, _ALL, report / "names") if name not in ran]
    return page(versions(layout), results, left_out, usage)


def _result(layout: Layout, name: str, selection: Selection, report: Path) -> Result:
    say(name)
    begin = time.monotonic()
    specs = suite.run(layout, selection, report / re.sub(r"\W+", "-", name).lower())
    result = Result(name, specs, time.monotonic() - begin)
    say(f"{sum(spec.passed for spec in specs)} of {len(specs)} passed, {result.seconds:.0f} s")
    for spec in specs:
        if spec.failed:
            say(f"{spec.state}: {spec.name}: {_first_line(spec.message)}")
    return result


def page(
    programs: dict[str, str], results: list[Result], left_out: list[str], usage: list[tuple[str, float, int]]
) -> str:
    """docs/conformance.md."""
    lines = [
        "# Conformance",
        "",
        "Written by `make conformance`: Kubernetes' own end-to-end specs of the network, in a cluster of three nodes with",
        "kubelet and containerd, in namespaces of one machine (`tests/cluster/testbed`). Percale gives pods their network,",
        "enforces policies and carries Services; kube-proxy does not run.",
        "",
        "| suite | specs | passed | failed | skipped themselves | minutes |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        passed = sum(spec.passed for spec in result.specs)
        failed = sum(spec.failed for spec in result.specs)
        rest = len(result.specs) - passed - failed
        minutes = f"{result.seconds / 60:.1f}"
        lines.append(f"| {result.name} | {len(result.specs)} | {passed} | {failed} | {rest} | {minutes} |")
    lines += ["", f"Versions: {', '.join(f'{program} {version}' for program, version in programs.items())}."]
    lines += ["", "The agents after the undisturbed suites:"]
    lines += ["", "| agent of | CPU seconds | resident MiB |", "|---|---|---|"]
    lines += [f"| {node} | {seconds:.0f} | {memory >> 20} |" for node, seconds, memory in usage]
    specs = [spec for result in results for spec in result.specs]
    for title, chosen in (
        ("Failed", [spec for spec in specs if spec.failed]),
        ("Skipped themselves", [spec for spec in specs if not spec.failed and not spec.passed]),
    ):
        if chosen:
            lines += ["", f"## {title}", ""]
            lines += [f"- {spec.name}: {_first_line(spec.message)}" for spec in chosen]
    lines += ["", "## Not run", ""]
    for reason, names in sorted(reasons(left_out).items()):
        lines += [f"**{reason}** ({len(names)})", ""]
        lines += [*(f"- {name}" for name in sorted(names)), ""]
    return "\n".join(lines).rstrip() + "\n"


def reasons(left_out: list[str]) -> dict[str, list[str]]:
    """The specs that are in no suite, by why; one without a reason is an error."""
    found = defaultdict(list)
    for name in left_out:
        known = next((reason for pattern, reason in _REASONS.items() if re.search(pattern, name)), None)
        if known is None:
            raise TestbedError(f"no reason is known why this spec is not run: {name}")
        found[known].append(name)
    return found


def versions(layout: Layout) -> dict[str, str]:
    """Of everything that takes part."""
    node = [*in_node(layout, layout.nodes[0].name)]
    return {
        "Percale": __version__,
        "Kubernetes": run([*node, str(layout.programs / "kubelet"), "--version"]).split()[-1].removeprefix("v"),
        "etcd": run([*node, str(layout.programs / "etcd"), "--version"]).split("\n")[0].split()[-1],
        "containerd": run([*node, "containerd", "--version"]).split()[2],
        "runc": run([*node, "runc", "--version"]).split("\n")[0].split()[-1],
        "nftables": run([*node, "nft", "--version"]).split()[1].removeprefix("v"),
        "Linux": platform.release().split("-")[0],
    }


def _first_line(message: str) -> str:
    return message.splitlines()[0] if message else "without a message"


def main(binaries: str) -> None:
    """Exits 1 when a spec failed."""
    with testbed(Layout(binaries)) as layout:
        text = measure(layout, Path("/tmp/percale-conformance"))
    PAGE.write_text(text)
    say(f"written: {PAGE}")
    if "## Failed" in text:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
