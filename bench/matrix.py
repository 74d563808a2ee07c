"""The reachability matrix of a large cluster, all ports, from decoded objects; and single verdicts.

The matrix is measured in a process of its own, for its peak of memory: `python -m bench.matrix` prints seconds and MiB.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from collections.abc import Iterator

from bench.policy_world import policy_world
from bench.rows import Row, at_most, run
from percale.explain.flow_ends import outside
from percale.explain.matrix.groups import by_workload, outside_groups
from percale.explain.matrix.matrix import Matrix
from percale.explain.matrix.port_space import port_space_of
from percale.explain.matrix.reachability import Reachability
from percale.explain.pod_owners import owners
from percale.model.meta import Object
from percale.policy.evaluator import Evaluator
from percale.policy.verdict import Flow, FlowEnd

PODS = 10_000
POLICIES = 1_000
ROUNDS = 3
VERDICTS = 20_000


def measure() -> Iterator[Row]:
    """The goals of the rows `matrix` and `verdict`."""
    found = [json.loads(run(sys.executable, "-m", "bench.matrix")) for _ in range(ROUNDS)]
    what = f"matrix, {PODS:,} single pods, {POLICIES:,} policies, all ports"
    yield at_most(what, "s", [each["seconds"] for each in found], 2)
    yield at_most("the same, peak RSS of the process", "MiB", [each["peak"] for each in found], 500)
    evaluator = Evaluator(policy_world(PODS, POLICIES))
    yield at_most("a single verdict in that world", "µs", [_verdicts(evaluator, seed) for seed in range(ROUNDS)], 50)


def matrix_of(objects: list[Object]) -> Matrix:
    """As `percale matrix` computes it, every pod a workload of its own."""
    evaluator = Evaluator(objects)
    ranges = outside([evaluator])
    space = port_space_of([evaluator])
    reach = Reachability(evaluator, space, ranges)
    grouping = by_workload(reach, owners(objects), outside_groups(ranges, [evaluator], [reach]))
    return Matrix(reach, grouping, space.all)


def _verdicts(evaluator: Evaluator, seed: int) -> float:
    """Mean microseconds of a verdict, over random pairs of pods and ports."""
    rng = random.Random(seed)
    pods = [pod for pod in evaluator.selector_index.pods if pod is not None]
    ends = [FlowEnd(pod.addresses[0], pod) for pod in rng.choices(pods, k=2 * VERDICTS)]
    ports = rng.choices((22, 53, 80, 443, 5432, 8000, 8080, 9090), k=VERDICTS)
    flows = [
        Flow(source, destination, "TCP", port)
        for source, destination, port in zip(ends[::2], ends[1::2], ports, strict=True)
    ]
    start = time.perf_counter()
    for flow in flows:
        evaluator.evaluate(flow)
    return (time.perf_counter() - start) / VERDICTS * 1e6


def _alone() -> None:
    objects = policy_world(PODS, POLICIES)
    start = time.perf_counter()
    matrix = matrix_of(objects)
    seconds = time.perf_counter() - start
    assert len(matrix.groups) == PODS + 2
    print(json.dumps({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    _alone()
