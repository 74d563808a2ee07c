"""Services for the agents' cluster: manifests as files of its store, and pods that say who asked them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.kernel.agent.cluster import NETNS, Cluster, Node, Pod
from tests.kernel.service_world import Answering, Seen, ask

VIP, NODE_PORT = "10.96.0.10", 30080
SERVICES = {"services": {"cidrs": ["10.96.0.0/16"], "leastConnInterval": 0.2}}
"""The agents' settings."""


@dataclass
class Spot:
    """A namespace by name, for `ask` and `Answering`."""

    name: str

    def __post_init__(self) -> None:
        self.descriptor = os.open(NETNS / self.name, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def space(self) -> Spot:
        return self

    def close(self) -> None:
        os.close(self.descriptor)


class Services:
    """Made by `services`."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.answering = Answering()
        self._spots: dict[str, Spot] = {}

    def spot(self, name: str) -> Any:
        if name not in self._spots:
            self._spots[name] = Spot(name)
        return self._spots[name]

    def ask(
        self, name: str, target: str, port: int, protocol: str = "TCP", *, source: tuple[str, int] | None = None
    ) -> Seen:
        """From the namespace of this name."""
        return ask(self.spot(name), target, port, protocol, source=source)

    def serving(self, pod: Pod) -> Pod:
        """It answers."""
        self.answering.listen(self.spot(pod.name), pod.name)
        return pod

    def write(self, name: str, document: dict[str, Any]) -> None:
        """At once and whole, as the store's readers want it."""
        draft = self.cluster.store / f".{name}"
        draft.write_text(json.dumps(document))
        draft.rename(self.cluster.store / f"{name}.yaml")

    def remove(self, name: str) -> None:
        (self.cluster.store / f"{name}.yaml").unlink()

    def node(self, number: int, *, taints: tuple[str, ...] = (), **metadata: str) -> None:
        addresses = [{"type": "InternalIP", "address": f"192.168.0.{number}"}]
        document = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": f"n{number}", **metadata},
            "spec": {"taints": [{"key": key, "effect": "NoSchedule"} for key in taints]},
            "status": {"addresses": addresses},
        }
        self.write(f"node-n{number}", document)

    def service(self, name: str = "web", *, annotations: dict[str, str] | None = None, **spec: Any) -> None:
        """TCP and UDP at one port number, and a node port for both."""
        ports = [
            {"name": protocol.lower(), "port": 80, "targetPort": 8080, "protocol": protocol, "nodePort": NODE_PORT}
            for protocol in ("TCP", "UDP")
        ]
        document = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default", "annotations": annotations or {}},
            "spec": {"type": "NodePort", "clusterIP": VIP, "ports": ports, **spec},
        }
        self.write(f"service-{name}", document)

    def slice(self, *pods: Pod, draining: tuple[Pod, ...] = (), service: str = "web") -> None:
        endpoints = [
            {
                "addresses": [pod.addresses[0]],
                "nodeName": pod.node.name,
                "conditions": {"ready": pod not in draining, "serving": True, "terminating": pod in draining},
            }
            for pod in (*pods, *draining)
        ]
        document = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{service}-1",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{"name": each.lower(), "port": 8080, "protocol": each} for each in ("TCP", "UDP")],
        }
        self.write(f"slice-{service}", document)

    def close(self) -> None:
        self.answering.close()
        for spot in self._spots.values():
            spot.close()


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
