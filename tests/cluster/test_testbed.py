"""A whole cluster with Percale as its network: a few of Kubernetes' own end-to-end specs (`make conformance` runs all)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.api_server import BINARIES
from tests.cluster.testbed import cgroups, cluster, suite
from tests.cluster.testbed.layout import Layout
from tests.cluster.testbed.processes import in_node, run

_SPECS = {
    "Networking Granular Checks: Pods should function for intra-pod communication: http": "pods reach pods of both nodes",
    "Networking Granular Checks: Pods should function for node-pod communication: udp": "nodes reach pods of both nodes",
    "DNS should provide DNS for services": "names are resolved",
    "Services should be able to create a functioning NodePort service": "node ports of both nodes answer",
    "Services should have session affinity work for service with type clusterIP": "clients stay at their endpoint",
    "Netpol NetworkPolicy between server and client should support a 'default-deny-ingress' policy": "policies deny",
}


@pytest.fixture(scope="module")
def layout() -> Iterator[Layout]:
    assert BINARIES is not None
    with cluster.testbed(Layout(str(BINARIES), node_count=2)) as made:
        yield made
    assert not cgroups.processes()
    assert not made.root.exists()


def test_specs_of_the_end_to_end_suite_pass(layout: Layout, tmp_path: Path) -> None:
    names = "|".join(name.replace("(", r"\\(") for name in _SPECS)
    specs = suite.run(layout, suite.Selection(names, ("SCTP",)), tmp_path, processes=2, minutes=10)
    assert [spec for spec in specs if not spec.passed] == []
    assert len(specs) >= len(_SPECS)


def test_a_nodes_own_nft_lists_what_the_nft_of_the_image_has_made(layout: Layout) -> None:
    for node in layout.nodes:
        listed = run([*in_node(layout, node.name), "nft", "list", "ruleset"])
        assert "table inet percale {" in listed
        assert "table netdev percale {" in listed
