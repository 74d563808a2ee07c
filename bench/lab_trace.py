"""`percale trace` in a lab of three nodes, exec to exit: through a Service to the pod of another node, and back."""

from __future__ import annotations

from collections.abc import Iterator

from bench.rows import PERCALE, Row, at_most, run, seconds

ROUNDS = 15
_MANIFESTS = "examples/services/by-name.yaml"
_QUESTION = ("by-name/client", "svc/by-name/nginx", "80")


def measure() -> Iterator[Row]:
    """Seconds until the command returns."""
    run(PERCALE, "lab", "up", "--name", "bench", "-f", _MANIFESTS)
    try:
        run(PERCALE, "trace", *_QUESTION, "--lab", "bench")  # what is written once: byte code, neighbours
        samples = [seconds(lambda: run(PERCALE, "trace", *_QUESTION, "--lab", "bench")) for _ in range(ROUNDS)]
    finally:
        run(PERCALE, "lab", "down", "bench")
    yield at_most("trace, through a Service to another node", "s", samples, 0.3)
