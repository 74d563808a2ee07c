"""10,000 pods from JSON to typed objects."""

from __future__ import annotations

import json
from collections.abc import Iterator

from bench.rows import Row, at_most, seconds
from percale.model.manifest.decode import decode_manifest

PODS = 10_000
ROUNDS = 7


def pod(number: int) -> dict[str, object]:
    """A pod as the API server returns it, with some fields that are not read."""
    app = f"app{number % 500}"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{app}-7d4b9c6f5-{number:05d}",
            "namespace": f"team{number % 50}",
            "uid": f"00000000-0000-4000-8000-{number:012d}",
            "labels": {"app": app, "tier": "backend", "pod-template-hash": "7d4b9c6f5"},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{app}-7d4b9c6f5", "uid": "x"}
            ],
        },
        "spec": {
            "nodeName": f"node{number % 100}",
            "containers": [
                {
                    "name": "main",
                    "image": "registry/app:1",
                    "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                    "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
                }
            ],
            "dnsPolicy": "ClusterFirst",
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}],
        },
        "status": {
            "phase": "Running",
            "podIP": f"10.{number >> 14}.{number >> 7 & 127}.{number & 127}",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def measure() -> Iterator[Row]:
    """Decoding from memory."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": [pod(number) for number in range(PODS)]}).encode()
    samples = [seconds(lambda: decode_manifest(text, "pods.json")) * 1000 for _ in range(ROUNDS)]
    yield at_most("10,000 pods from JSON", "ms", samples, 100)
