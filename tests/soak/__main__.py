"""`make soak`: random changes of a cluster for SECONDS, as SEED says; after each, packets do as the evaluator says.

At the end the agents' memory and descriptors are what they were after a quarter of the time.
"""

from __future__ import annotations

import random
import sys
import time

from tests.soak.checker import Usage, check, grown
from tests.soak.world import world


def main(seconds: float, seed: int) -> None:
    """Exits 1 with the step that failed."""
    print(f"seed {seed}: `make soak SECONDS={seconds:.0f} SEED={seed}` repeats it", flush=True)
    steps = flows = 0
    usage: list[Usage] = []
    with world(seed) as made:
        made.begin()
        begin = time.monotonic()
        while (spent := time.monotonic() - begin) < seconds:
            if not usage and spent > seconds / 4:
                usage = [Usage.of(node) for node in made.nodes[1:]]
            done = made.step()
            steps += 1
            try:
                flows += check(made)
            except AssertionError as error:
                sys.exit(f"step {steps}, {done}: {error}")
        end = [Usage.of(node) for node in made.nodes[1:]]
    print(f"{steps} changes, {flows} flows as they must be; {' '.join(f'{each.resident >> 20} MiB' for each in end)}")
    if found := list(grown(usage or end, end)):
        sys.exit("; ".join(found))


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32))
