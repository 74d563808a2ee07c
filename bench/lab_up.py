"""`percale lab up`, exec to exit: 3 nodes with 6 pods, and 10 nodes with 30 pods each."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from bench.rows import PERCALE, Row, at_most, run, seconds

SMALL_ROUNDS = 7
LARGE_ROUNDS = 3

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec: {{containers: [{{name: web, ports: [{{containerPort: 80}}]}}]}}
"""

TEN_NODES = """
---
apiVersion: percale.io/v1alpha1
kind: Lab
metadata: {{name: bench}}
spec:
  nodes: [{}]
""".format(", ".join(f"{{name: node{number}}}" for number in range(1, 11)))


def _up(manifests: str, rounds: int) -> list[float]:
    samples = []
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(manifests)
        file.flush()
        for _ in range(rounds):
            samples.append(seconds(lambda: run(PERCALE, "lab", "up", "--name", "bench", "-f", file.name)))
            run(PERCALE, "lab", "down", "bench")
    return samples


def measure() -> Iterator[Row]:
    """Seconds until the command returns with all pods Ready."""
    small = _up(DEPLOYMENT.format(replicas=6), SMALL_ROUNDS)
    yield at_most("lab up, 3 nodes, 6 pods", "s", small, 1.0)
    large = _up(DEPLOYMENT.format(replicas=300) + TEN_NODES, LARGE_ROUNDS)
    yield at_most("lab up, 10 nodes, 30 pods each", "s", large, 5.0)
