"""A lab with a client on one node and a server on another. Used by `datapath` and `service_paths`."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.rows import PERCALE, run
from percale.lab.run_dir import locate

NODES = ("node1", "node2")
LAB = """
apiVersion: percale.io/v1alpha1
kind: Lab
metadata: {{name: bench}}
spec:
  network: {{Network: 10.244.0.0/16, Backend: {{Type: {backend}}}}}
  segments: [{{name: a}}]
  nodes: [{{name: node1, segment: a}}, {{name: node2, segment: a}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec: {{nodeName: node1, containers: [{{name: c}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: server, labels: {{app: server}}}}
spec: {{nodeName: node2, containers: [{{name: c}}]}}
"""


@dataclass(frozen=True, slots=True)
class LabPair:
    """A running lab; `address` is the server's."""

    name: str
    address: str

    def inside(self, pod: str) -> tuple[str, ...]:
        """The prefix of a command run in the client or the server."""
        return PERCALE, "lab", "exec", "--lab", self.name, pod, "--"

    def wait_for_shortcut(self) -> None:
        """Until it has the pods; on a busy machine that is seconds after they are ready. A kernel may have none."""
        nft = ("nft", "list", "chains", "netdev")
        deadline = time.monotonic() + 60
        for node in NODES:
            while time.monotonic() < deadline:
                if "chain in-pcl" in run(PERCALE, "lab", "node", "--lab", self.name, node, "--", *nft):
                    break
                time.sleep(0.2)

    def without_shortcut(self) -> None:
        """Disable the shortcut and restart the agents."""
        for node in NODES:
            with locate(self.name).node(node).config.open("a") as config:
                config.write('shortcut: "off"\n')
            run(PERCALE, "lab", "restart-agent", "--lab", self.name, node)


@contextlib.contextmanager
def lab_pair(name: str, *, backend: str = "vxlan", more: str = "") -> Iterator[LabPair]:
    """A lab with the pods client and server, and `more` manifests."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as manifest:
        manifest.write(LAB.format(backend=backend) + more)
        manifest.flush()
        run(PERCALE, "lab", "up", "--name", name, "-f", manifest.name)
    try:
        pods = run(PERCALE, "lab", "get", "pods", "--lab", name, "-o", "json")
        found = re.search(r'"name": "server".*?"podIP": "([\d.]+)"', pods, re.DOTALL)
        assert found is not None, pods
        lab = LabPair(name, found[1])
        lab.wait_for_shortcut()
        yield lab
    finally:
        run(PERCALE, "lab", "down", name)
