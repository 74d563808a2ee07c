"""SCTP by a real agent, with associations of the kernel's own: policies by protocol and port, and Services.

What needs no association is tested by INIT chunks on any kernel (`policy_probes.py`).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import pytest
from tests import builders
from tests.kernel.agent.cluster import NETNS, Cluster, Pod
from tests.kernel.agent.policies import Policies, selecting
from tests.kernel.agent.services import NODE_PORT, SERVICES, VIP, Services
from tests.kernel.inside import inside
from tests.waiting import until

pytestmark = pytest.mark.vm
PORT, OTHER = 5080, 5081
N1 = "192.168.0.1"
_SILENCE = 3.0
"""Seconds without an association that count as none: the machine is emulated."""
_START = 240.0
"""Seconds until an agent is ready there."""


def _socket(where: str, protocol: int = socket.IPPROTO_SCTP) -> socket.socket:
    return inside(NETNS / where, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol))


def _connected(where: str, address: str, port: int, protocol: int = socket.IPPROTO_SCTP) -> socket.socket:
    """Raises OSError."""
    made = _socket(where, protocol)
    try:
        made.settimeout(_SILENCE)
        made.connect((address, port))
    except OSError:
        made.close()
        raise
    return made


class World(NamedTuple):
    services: Services
    policies: Policies
    friend: Pod
    stranger: Pod
    server: Pod

    def reaches(self, where: str, address: str, port: int, protocol: int = socket.IPPROTO_SCTP) -> bool:
        """A new association comes about."""
        try:
            _connected(where, address, port, protocol).close()
        except OSError:
            return False
        return True


@pytest.fixture
def world(cluster: Cluster) -> Iterator[World]:
    """The server listens at both ports by SCTP, and at one by TCP."""
    made, policies = Services(cluster), Policies(cluster)
    made.node(1)
    with closing(made), ExitStack() as opened:
        node = cluster.node(1, services=SERVICES["services"]).launch()
        until(lambda: (status := node.ask()) is not None and status.ready, "the agent is ready", patience=_START)
        friend, stranger, server = (policies.pod(node, name) for name in ("friend", "stranger", "server"))
        for port, protocol in ((PORT, socket.IPPROTO_SCTP), (OTHER, socket.IPPROTO_SCTP), (PORT, socket.IPPROTO_TCP)):
            listener = opened.enter_context(_socket("server", protocol))
            listener.bind((server.addresses[0], port))
            listener.listen(64)
        yield World(made, policies, friend, stranger, server)


def _ingress(**rule: Any) -> dict[str, Any]:
    return {**selecting("server"), "policyTypes": ["Ingress"], "ingress": [rule]}


def test_policies_decide_by_protocol_and_port(world: World) -> None:
    address = world.server.addresses[0]
    until(lambda: world.reaches("stranger", address, OTHER), "nobody has a policy yet")
    world.policies.cluster.write(
        "namespace", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
    )
    assert world.reaches("friend", address, PORT, socket.IPPROTO_TCP)
    ports = [{"port": PORT, "protocol": "SCTP"}]
    world.policies.policy("friends", _ingress(**{"from": [selecting("friend")], "ports": ports}))
    until(lambda: not world.reaches("stranger", address, PORT), "only friends come in")
    assert world.reaches("friend", address, PORT)
    assert not world.reaches("friend", address, OTHER)
    assert not world.reaches("friend", address, PORT, socket.IPPROTO_TCP)
    world.policies.put(
        "ClusterNetworkPolicy",
        "nobody",
        spec={
            "tier": "Admin",
            "priority": 10,
            "subject": {"namespaces": {}},
            "ingress": [
                {
                    "action": "Deny",
                    "from": [{"namespaces": {}}],
                    "protocols": [{"sctp": {"destinationPort": {"number": PORT}}}],
                }
            ],
        },
    )
    until(lambda: not world.reaches("friend", address, PORT), "the cluster's policy is above the namespace's")
    world.policies.remove("ClusterNetworkPolicy", "nobody")
    until(lambda: world.reaches("friend", address, PORT))
    world.policies.remove("NetworkPolicy", "friends")
    until(lambda: world.reaches("stranger", address, OTHER))


def test_a_service(world: World) -> None:
    ports = [{"name": "sctp", "port": 80, "targetPort": PORT, "protocol": "SCTP", "nodePort": NODE_PORT}]
    world.services.service(ports=ports)
    endpoint = builders.endpoint(f"{world.server.addresses[0]}@{world.server.node.name}")
    slice_ports = [{"name": "sctp", "port": PORT, "protocol": "SCTP"}]
    world.services.write("slice-web", builders.endpoint_slice("web", endpoint, ports=slice_ports))
    until(lambda: world.reaches("friend", VIP, 80), "by the cluster IP")
    assert world.reaches("switch", N1, NODE_PORT)
    assert not world.reaches("friend", VIP, 80, socket.IPPROTO_TCP)
    world.services.write("slice-web", builders.endpoint_slice("web", ports=slice_ports))
    until(lambda: not world.reaches("friend", VIP, 80), "it has no endpoint")
