"""The shortcut's table is restored when only it is deleted, though no source declares it."""

from __future__ import annotations

import pytest
from tests.kernel.agent.cluster import Cluster, Node
from tests.waiting import until


def hooked(node: Node) -> str:
    return node.sh("nft", "list table netdev percale", check=False)


@pytest.mark.parametrize("deletion", ["delete table netdev percale", "flush ruleset"])
def test_it_is_back(cluster: Cluster, deletion: str) -> None:
    node = cluster.node(1).start()
    pod = node.pod("a")
    until(lambda: f"{pod.addresses[0]} :" in hooked(node), "the pod is hooked")
    for _ in range(2):  # what brings it back tells of a deletion, too
        node.sh("nft", deletion)
        until(lambda: f"{pod.addresses[0]} :" in hooked(node), "it is back")
