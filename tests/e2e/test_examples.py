"""All examples in one lab: none disturbs another, and the commands at their tops do what they say."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from tests.e2e.conftest import PERCALE, ROOT, Person
from tests.waiting import until

MACHINES = "examples/policies/except.yaml"
"""It defines hosts; there are more with machines or networks of their own, of which a lab has one."""
OBJECTS = (
    *("examples/nginx.yaml", "examples/busybox.yaml", "examples/access-nginx.yaml", "examples/defaults.yaml"),
    *("examples/test-network-policy.yaml", "examples/kube-flannel-cfg.yaml", "examples/lab/workloads.yaml"),
    *(
        "examples/matrix/shop.yaml",
        "examples/policies/namespace.yaml",
        "examples/services",
        "examples/across-nodes.yaml",
    ),
)
OTHER_LABS = {
    "bgp-mesh.yaml",
    "bgp-reflectors.yaml",
    "dual-stack.yaml",
    "one-segment.yaml",
    "two-racks.yaml",
    "wireguard.yaml",
}
NO_LABS = {"change.yaml", "two-rooms.yaml"}
"""For `matrix --diff`, and an address plan."""


def commands(path: Path) -> list[tuple[list[str], str]]:
    """The commands for a lab in an example's head, each with what is said of it."""
    lines = re.findall(r"^#   percale ((?:lab|why) .*?)(?: +# (.*))?$", path.read_text(), re.MULTILINE)
    return [(shlex.split(text), said) for text, said in lines if not text.startswith("lab up")]


def test_all_examples_in_one_lab(percale: Person) -> None:
    percale("lab", "up", "-f", MACHINES)
    given = [argument for path in OBJECTS for argument in ("-f", path)]
    lines = percale.out("lab", "apply", *given).splitlines()
    again = [line for line in lines if line.endswith(("configured", "unchanged"))]
    assert again == ["namespace/kube-system unchanged"], "each object is of one example"
    assert "configmap/kube-flannel-cfg does not change this lab" in lines[-1]
    percale("lab", "wait", "--for=condition=Ready", "pod", "--all", "-A", "--timeout=60s")
    asked = 0
    files = [Path(MACHINES), *(path for each in OBJECTS for path in (sorted((ROOT / each).glob("*")) or [ROOT / each]))]
    for file in files:
        for command, said in commands(ROOT / file):
            done = subprocess.run(
                [PERCALE, *command], cwd=ROOT, env=percale.environment, capture_output=True, text=True, check=False
            )
            refused = said.startswith(("timeout", "denied"))
            assert done.returncode == (1 if refused else 0), f"{command}: {done.stdout}{done.stderr}"
            assert not refused or done.stdout.startswith(said.partition(",")[0])
            asked += 1
    assert asked > 12
    until(lambda: "not reached" not in percale.out("lab", "status"))


def test_no_example_is_forgotten() -> None:
    named = {MACHINES, *OBJECTS}
    files = {path.relative_to(ROOT) for path in (ROOT / "examples").rglob("*.yaml") if path.parent.name != "broken"}
    left = {path for path in files if not {str(path), str(path.parent)} & named}
    assert {path.name for path in left} == OTHER_LABS | NO_LABS


def test_the_demo(percale: Person) -> None:
    """Nothing that it prints is checked here: it ends at the first command that does not do what it says."""
    percale.shell("scripts/demo")
    assert percale.out("lab", "list").startswith("no lab is running")
