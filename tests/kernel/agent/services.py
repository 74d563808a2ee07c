"""Services for the agents' cluster: manifests as files of its store, and pods that say who asked them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests import builders
from tests.kernel.agent.cluster import NETNS, Cluster, Node, Pod
from tests.kernel.service_world import SILENCE, Answering, Seen, ask

from percale.model.meta import Object

VIP, NODE_PORT = "10.96.0.10", 30080
SERVICES = {"services": {"cidrs": ["10.96.0.0/16"], "leastConnInterval": 0.2}}
"""The agents' settings."""
BOTH_PORTS = [{"name": each.lower(), "port": 8080, "protocol": each} for each in ("TCP", "UDP")]
"""Of pods that `serving` has answer."""


class Services:
    """Made by `services`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.answering = Answering()

    def ask(
        self, name: str, target: str, port: int, protocol: str = "TCP", *, source: tuple[str, int] | None = None
    ) -> Seen:
        """From the namespace of this name."""
        return ask(NETNS / name, target, port, protocol, source=source, within=SILENCE)

    def serving(self, pod: Pod) -> Pod:
        """It answers."""
        self.answering.listen(NETNS / pod.name, pod.name)
        return pod

    def write(self, name: str, *objects: Object) -> None:
        self.cluster.write(name, *objects)

    def remove(self, name: str) -> None:
        (self.cluster.store / f"{name}.yaml").unlink()

    def node(self, number: int, *, taints: tuple[str, ...] = (), **meta: str) -> None:
        found = [{"key": key, "effect": "NoSchedule"} for key in taints]
        self.write(f"node-n{number}", builders.node(f"n{number}", f"192.168.0.{number}", meta=meta, taints=found))

    def service(self, name: str = "web", **fields: Any) -> None:
        """TCP and UDP at one port number, and a node port for both."""
        ports = [
            {"name": protocol.lower(), "port": 80, "targetPort": 8080, "protocol": protocol, "nodePort": NODE_PORT}
            for protocol in ("TCP", "UDP")
        ]
        fields = {"type": "NodePort", "clusterIP": VIP, "ports": ports, **fields}
        self.write(f"service-{name}", builders.service(name, **fields))

    def slice(self, *pods: Pod, draining: tuple[Pod, ...] = (), service: str = "web") -> None:
        endpoints = [
            builders.endpoint(
                f"{pod.addresses[0]}@{pod.node.name}",
                conditions={"ready": pod not in draining, "serving": True, "terminating": pod in draining},
            )
            for pod in (*pods, *draining)
        ]
        self.write(f"slice-{service}", builders.endpoint_slice(service, *endpoints, ports=BOTH_PORTS))

    def close(self) -> None:
        self.answering.close()


@contextmanager
def services(cluster: Cluster, *numbers: int, **settings: Any) -> Iterator[tuple[Services, list[Node]]]:
    """Nodes that are ready, with their Node objects."""
    made = Services(cluster)
    try:
        for number in numbers:
            made.node(number)
        yield made, [cluster.node(number, **{**SERVICES, **settings}).start() for number in numbers]
    finally:
        made.close()
