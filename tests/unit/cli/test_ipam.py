"""`percale ipam` on a directory of objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from docs.answers import documents
from tests.unit.cli.conftest import percale

OBJECTS = """
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: blue}
spec: {cidr: 10.245.0.0/24, blockSize: 28}
---
apiVersion: percale.io/v1alpha1
kind: AddressBlock
metadata: {name: 10.245.0.16-28}
spec: {cidr: 10.245.0.16/28, node: n1}
---
apiVersion: percale.io/v1alpha1
kind: AddressBlock
metadata: {name: 10.245.0.32-28}
spec: {cidr: 10.245.0.32/28, node: gone}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: shop}
spec: {nodeName: n1, containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 10.245.0.17, podIPs: [{ip: 10.245.0.17}]}
"""


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Command:
    """`percale ipam …` on the store."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Done:
        code = percale("ipam", *arguments, "--store", f"files:{self.directory}")
        output = self._capsys.readouterr()
        return Done(code, output.out, output.err)


@pytest.fixture
def ipam(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    (tmp_path / "objects.yaml").write_text(OBJECTS)
    return Command(tmp_path, capsys)


def test_show(ipam: Command) -> None:
    done = ipam("show", "--show-blocks")
    assert [line.split() for line in done.out.splitlines()] == [
        ["GROUPING", "NAME", "CIDR", "IPS", "TOTAL", "IN", "USE", "RESERVED", "FREE"],
        ["IP", "Pool", "blue", "10.245.0.0/24", "256", "1", "0", "255"],
        ["Block", "n1", "10.245.0.16/28", "16", "1", "0", "15"],
        ["Block", "gone", "10.245.0.32/28", "16", "0", "0", "16"],
    ]
    document = json.loads(ipam("show", "-o", "json").out)
    assert documents("ipam show", document)
    assert [each["name"] for each in document["usage"]] == ["blue"]


def test_check_and_release(ipam: Command) -> None:
    done = ipam("check")
    told = "block 10.245.0.32/28 is of node gone, which is gone; type: percale ipam release 10.245.0.32/28\n"
    assert (done.code, done.out) == (1, told)
    document = json.loads(ipam("check", "-o", "json").out)
    assert documents("ipam check", document)
    done = ipam("release", "10.245.0.32/28", "10.245.0.16/28")
    assert done.code == 2
    assert "block 10.245.0.16/28 is of node n1, which is there" in done.err
    assert ipam("check").code == 1, "nothing was released"
    assert ipam("release", "10.245.0.32/28").out == "gave back 10.245.0.32/28\n"
    done = ipam("check")
    assert (done.code, done.err) == (0, "nothing is wrong\n")
    assert "there is no block 10.245.0.32/28" in ipam("release", "10.245.0.32/28").err


def test_a_block_in_use_is_not_released(ipam: Command) -> None:
    (ipam.directory / "pod.yaml").write_text(
        OBJECTS.rsplit("---", maxsplit=1)[-1]
        .replace("name: a,", "name: b,")
        .replace("0.17", "0.33")
        .replace("n1", "gone")
    )
    done = ipam("release", "10.245.0.32/28")
    assert (done.code, "pod shop/b has 10.245.0.33" in done.err) == (2, True), done.err
