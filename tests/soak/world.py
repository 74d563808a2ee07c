"""Three nodes with agents, pods, Services and policies, that change as a seed says; what is in the store is the truth."""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from tests import builders
from tests.kernel.agent.cluster import Cluster, Node, Pod
from tests.kernel.agent.policies import Policies
from tests.kernel.agent.services import BOTH_PORTS, Services, services

from percale.kernel.netns import delete_namespace

LABELS = ("a", "b", "c")
MOST_PODS, MOST_POLICIES = 12, 6
VIPS = {f"s{number}": f"10.96.0.{20 + number}" for number in range(3)}
PORT = 80
_TABLES = ("inet percale", "ip percale", "inet percale-services", "bridge percale")


class World:
    """`step` makes one change; all that it draws is from the seed."""

    def __init__(self, cluster: Cluster, made: Services, nodes: list[Node], seed: int) -> None:
        self.cluster, self.services, self.nodes = cluster, made, nodes
        self.policies = Policies(cluster)
        self.random = random.Random(seed)
        self.pods: dict[str, Pod] = {}
        self.labels: dict[str, str] = {}
        self.endpoints: dict[str, list[str]] = {}
        self._rules: set[str] = set()
        self._born = 0
        self._steps: tuple[tuple[int, Callable[[], str]], ...] = (
            (5, self._add_pod),
            (3, self._delete_pod),
            (4, self._relabel),
            (5, self._put_policy),
            (3, self._delete_policy),
            (5, self._put_service),
            (1, self._kill_agent),
            (1, self._delete_table),
        )

    def begin(self) -> None:
        self.cluster.write("namespace", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}})
        for _ in range(6):
            self._add_pod()

    def step(self) -> str:
        """What it did."""
        weights, actions = zip(*self._steps, strict=True)
        return str(self.random.choices(actions, weights)[0]())

    def _add_pod(self) -> str:
        if len(self.pods) >= MOST_PODS:
            return self._delete_pod()
        name, node = f"p{self._born}", self.random.choice(self.nodes)
        self._born += 1
        self.labels[name] = self.random.choice(LABELS)
        self._declare(name, node)
        self.pods[name] = self.services.serving(node.pod(name))
        self._declare(name, node, *self.pods[name].addresses)
        return f"{name} on {node.name}"

    def _declare(self, name: str, node: Node, *addresses: str) -> None:
        self.policies.put(
            "Pod",
            name,
            metadata={"labels": {"app": self.labels[name]}},
            spec={"nodeName": node.name, "containers": [{"name": "main", "image": "none"}]},
            status={"phase": "Running", "podIPs": [{"ip": each} for each in addresses]} if addresses else {},
        )

    def _delete_pod(self) -> str:
        if len(self.pods) <= 4:
            return self._add_pod()
        name = self.random.choice(sorted(self.pods))
        pod = self.pods.pop(name)
        for service, names in self.endpoints.items():
            if name in names:
                self._write_endpoints(service, [each for each in names if each != name])
        pod.cni("DEL")
        self.policies.remove("Pod", name)
        delete_namespace(Path("/run/netns") / name)
        self.cluster.namespaces.remove(name)
        return f"{name} is deleted"

    def _relabel(self) -> str:
        name = self.random.choice(sorted(self.pods))
        self.labels[name] = self.random.choice(LABELS)
        self._declare(name, self.pods[name].node, *self.pods[name].addresses)
        return f"{name} is {self.labels[name]}"

    def _put_policy(self) -> str:
        name = f"np{self.random.randrange(MOST_POLICIES)}"
        selected, peer = self.random.choice(LABELS), self.random.choice(LABELS)
        direction, side = self.random.choice((("ingress", "from"), ("egress", "to")))
        rule: dict[str, object] = {side: [{"podSelector": {"matchLabels": {"app": peer}}}]}
        if self.random.random() < 0.5:
            rule["ports"] = [{"port": 8080, "protocol": self.random.choice(("TCP", "UDP"))}]
        selector = {"matchLabels": {"app": selected}}
        self.policies.policy(
            name, {"podSelector": selector, "policyTypes": [direction.capitalize()], direction: [rule]}
        )
        self._rules.add(name)
        return f"{name}: {direction} of {selected} with {peer}"

    def _delete_policy(self) -> str:
        if not self._rules:
            return self._put_policy()
        name = self.random.choice(sorted(self._rules))
        self._rules.remove(name)
        self.policies.remove("NetworkPolicy", name)
        return f"{name} is deleted"

    def _put_service(self) -> str:
        name = self.random.choice(sorted(VIPS))
        if name not in self.endpoints:
            ports = [
                {"name": each["name"], "port": PORT, "targetPort": 8080, "protocol": each["protocol"]}
                for each in BOTH_PORTS
            ]
            self.services.write(f"service-{name}", builders.service(name, clusterIP=VIPS[name], ports=ports))
        count = self.random.randint(0, min(3, len(self.pods)))
        self._write_endpoints(name, self.random.sample(sorted(self.pods), count))
        return f"{name} has {' '.join(self.endpoints[name]) or 'nobody'}"

    def _write_endpoints(self, service: str, names: list[str]) -> None:
        self.endpoints[service] = names
        self.services.slice(*(self.pods[name] for name in names), service=service)

    def _kill_agent(self) -> str:
        """Of the first node, whose memory is not compared."""
        node = self.nodes[0]
        node.stop(signal.SIGKILL)
        node.start()
        return f"{node.name}'s agent is killed"

    def _delete_table(self) -> str:
        node, table = self.random.choice(self.nodes), self.random.choice(_TABLES)
        node.sh("nft", "delete", "table", *table.split())
        return f"table {table} of {node.name} is deleted"


@contextmanager
def world(seed: int) -> Iterator[World]:
    """What the agents logged is shown when it failed."""
    with TemporaryDirectory(prefix="percale-") as directory:
        cluster = Cluster(Path(directory))
        failed = True
        try:
            cluster.open()
            with services(cluster, 1, 2, 3) as (made, nodes):
                yield World(cluster, made, nodes, seed)
            failed = False
        finally:
            with redirect_stdout(sys.stderr if failed else StringIO()):
                cluster.close()
