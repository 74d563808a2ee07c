"""The page of `make conformance` counts what ran, names what failed, and has a reason for all else."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import pytest
from tests.cluster.testbed import cgroups, cluster_policies, load_balancer
from tests.cluster.testbed.conformance import PAGE, RESULTS, read
from tests.cluster.testbed.groups import GROUPS, left_out
from tests.cluster.testbed.layout import NAME, Layout
from tests.cluster.testbed.measurements import Measurement
from tests.cluster.testbed.page import GroupResult, SuiteResult, columns, page
from tests.cluster.testbed.plot import plot
from tests.cluster.testbed.processes import TestbedError
from tests.cluster.testbed.suite import Selection, read_report
from tests.cluster.testbed.traffic import Count, Failure, Traffic


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
    suite = SuiteResult.of("Conformance", read_report(report), 90)
    text = page({"default": GroupResult({"Percale": "0"}, [suite])}, ["[sig-network] a [Feature:SCTPConnectivity]"])
    assert "| default | vxlan | Conformance | 4 | 1 | 2 | 1 | 1.5 |" in text
    assert "- default: [sig-network] Services fail: no answer\n" in text
    assert "- default: [sig-network] Services time out: too late\n" in text
    assert "## Skipped themselves\n\n- default: [sig-network] Services need six nodes: needs 6 nodes\n" in text
    assert "**the machine's kernel has no SCTP** (1)\n\n- [sig-network] a [Feature:SCTPConnectivity]\n" in text
    assert "Under disturbance" not in text


def test_the_parts_of_the_suite_of_cluster_network_policies_are_counted() -> None:
    log = """\
=== RUN   TestClusterNetworkPolicy/CNPGress/Should_support_TCP
=== RUN   TestClusterNetworkPolicy/CNPGress/Should_support_all
    helper.go:71: FAILED Command was [/agnhost connect --protocol=tcp 172.30.0.11:34346]
    helper.go:71: FAILED Command was [/agnhost connect --protocol=sctp 172.30.0.11:34347]
=== RUN   TestClusterNetworkPolicy/CNPGress/Should_support_UDP/TCP
    helper.go:71: FAILED Command was [/agnhost connect --protocol=sctp 172.30.0.11:34347]
    helper.go:71: FAILED Command was [/agnhost connect --protocol=tcp 172.30.0.11:34346]
    helper.go:71: Expected connection to fail from harry-potter-1 to 172.30.0.11, but instead it successfully connected.
=== RUN   TestClusterNetworkPolicy/CNPPriority
--- FAIL: TestClusterNetworkPolicy (9.00s)
    --- FAIL: TestClusterNetworkPolicy/CNPGress (5.25s)
        --- PASS: TestClusterNetworkPolicy/CNPGress/Should_support_TCP (3.25s)
        --- FAIL: TestClusterNetworkPolicy/CNPGress/Should_support_all (9.00s)
        --- FAIL: TestClusterNetworkPolicy/CNPGress/Should_support_UDP/TCP (2.00s)
    --- FAIL: TestClusterNetworkPolicy/CNPPriority (0.00s)
"""
    specs = cluster_policies.read_log(log)
    assert [(spec.name, spec.state, spec.seconds) for spec in specs] == [
        ("CNPGress Should support TCP", "passed", 3.25),
        ("CNPGress Should support all", "skipped", 9),
        ("CNPGress Should support UDP TCP", "failed", 2),
        ("CNPPriority", "failed", 0),
    ]
    assert [spec.message for spec in specs[2:]] == [
        "Expected connection to fail from harry-potter-1 to 172.30.0.11, but instead it successfully connected.",
        "see its log",
    ]


class Services:
    """An API server that has these."""

    def __init__(self, *services: dict[str, Any]) -> None:
        self.services = {each["metadata"]["name"]: each for each in services}

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        if body is not None:
            service = self.services[path.removesuffix("/status").rpartition("/")[2]]
            for part, fields in body.items():
                service[part].update({name: value if value is not None else {} for name, value in fields.items()})
        return {"items": list(self.services.values())}


def test_the_load_balancer_gives_services_an_address_and_takes_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_balancer, "_is_healthy", lambda layout, node, port: (node, port) == ("172.30.0.12", 30000))

    def service(name: str, **spec: Any) -> dict[str, Any]:
        usual = {"type": "LoadBalancer", "externalTrafficPolicy": "Cluster", "sessionAffinity": "None"}
        return {
            "metadata": {"name": name, "namespace": "x"},
            "spec": {**usual, **spec},
            "status": {"loadBalancer": {}},
        }

    server = Services(
        service("all"),
        service("own", externalTrafficPolicy="Local", healthCheckNodePort=30000),
        service("same", sessionAffinity="ClientIP"),
        service("inner", type="ClusterIP"),
    )
    nodes = ["172.30.0.11", "172.30.0.12", "172.30.0.13"]
    expected = {"203.0.113.1": nodes, "203.0.113.2": nodes[1:2], "203.0.113.3": nodes[:1]}
    assert load_balancer.assign(Layout(""), server) == expected  # type: ignore[arg-type]
    assert load_balancer.assign(Layout(""), server) == expected  # type: ignore[arg-type]
    kept = {name for name, each in server.services.items() if each["metadata"].get("finalizers")}
    assert kept == {"all", "own", "same"}
    server.services["all"]["spec"]["type"] = "ClusterIP"
    assert load_balancer.assign(Layout(""), server).keys() == {"203.0.113.2", "203.0.113.3"}  # type: ignore[arg-type]
    released = server.services["all"]
    assert (released["metadata"]["finalizers"], released["status"]["loadBalancer"]) == ([], {})


def test_results_are_read_as_they_were_written() -> None:
    count = Count(disturbances=3, requests=900, failed=1, slowest=0.5, denied=70, arrived=0, notes=["odd"])
    result = GroupResult({"Percale": "0"}, [SuiteResult("Conformance", 1, 0, {"a": "b"}, {}, 9)], [], count)
    assert read(json.loads(json.dumps({"killed": asdict(result)}))) == {"killed": result}
    assert "| killed | vxlan, an agent killed every 5 s | 3 | 900 | 1 | 0.50 s | 70 | 0 |\n\n- killed: odd\n" in page(
        {"killed": result}, []
    )
    assert result.has_failed


def test_measurements_of_networks_are_side_by_side() -> None:
    def measured(milliseconds: float) -> GroupResult:
        found = [Measurement("policy written", "ms", milliseconds), Measurement("a stream", "Gbit/s", 9, True)]
        return GroupResult({"Percale": "0"}, [], measured=found)

    results = {"percale": measured(20), "others": measured(1250)}
    assert read(json.loads(json.dumps({name: asdict(each) for name, each in results.items()}))) == results
    text = page(results, [])
    assert "| | unit | percale: vxlan | others: flannel by vxlan, kube-proxy and kube-router |\n" in text
    assert "| policy written | ms | 20 | 1250 |\n| a stream, more is better | Gbit/s | 9 | 9 |\n" in text
    drawn = [each.get("width") for each in fromstring(plot(columns(results))).iter("{http://www.w3.org/2000/svg}rect")]
    assert drawn[-4:] == ["6", "360", "360", "360"]


def test_the_page_shows_the_recorded_results() -> None:
    results = read(json.loads(RESULTS.read_text()))
    shown = PAGE.read_text()
    assert page(results, []).partition("## Not run")[0] == shown.partition("## Not run")[0]
    assert results.keys() <= GROUPS.keys()


def test_a_spec_that_is_not_run_has_a_reason() -> None:
    with pytest.raises(TestbedError, match="no reason is known why this spec is not run: new one"):
        left_out(["new one"])


def test_a_selection_has_the_specs_that_the_suite_would_run() -> None:
    selection = Selection(r"\[sig-network\]", ("SCTP",))
    assert selection.has("[sig-network] Services should serve")
    assert not selection.has("[sig-network] Services SCTP")
    assert not selection.has("[sig-node] Pods")


def test_packets_arrive_while_the_policies_are_deleted_and_are_named() -> None:
    traffic = Traffic()
    traffic.requests, traffic.denied, traffic.arrived = 9, 9, 3
    traffic.excuse_packets(0, "n1: without its table for 0.10 s")
    count = traffic.count()
    assert (count.arrived, count.has_failed) == (0, False)
    assert count.notes == ["n1: without its table for 0.10 s 3 denied packets arrived"]


def test_processes_of_a_testbed_while_a_group_of_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "hierarchies", lambda: [tmp_path])
    for group in ("n1", "n1/kubepods", "n1/gone"):
        (tmp_path / NAME / group).mkdir(parents=True)
    (tmp_path / NAME / "n1/cgroup.procs").write_text("")
    (tmp_path / NAME / "n1/kubepods/cgroup.procs").write_text("7\n8\n")
    assert cgroups.processes("n1") == {7, 8}


def test_only_requests_through_a_node_that_was_away_may_fail() -> None:
    traffic = Traffic()
    traffic.requests, traffic.denied = 9, 9
    traffic.excuse("n3", 10, 13, "n3: its link is down")
    traffic.failures += [
        Failure(9, 14, "away", frozenset({"n1", "n3"})),
        Failure(9, 14, "another way", frozenset({"n1", "n2"})),
        Failure(14, 19, "later", frozenset({"n3"})),
        Failure(12.9, 17.9, "held up for ever", frozenset({"n3"})),
    ]
    count = traffic.count()
    assert (count.failed, count.has_failed) == (3, True)
    assert [note.partition(" after")[0] for note in count.notes] == [
        "another way",
        "later",
        "held up for ever",
        "n3: its link is down: requests through the node that failed meanwhile: 1",
    ]
