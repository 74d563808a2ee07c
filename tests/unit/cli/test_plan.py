"""`percale plan`: its commands on a file."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from tests import answers
from tests.unit.cli.conftest import run

from percale.model.ip_pool import IPPool
from percale.model.manifest.decode import decode_manifest
from percale.model.netconf import parse_network_config

EXAMPLE = Path("examples/plan/two-rooms.yaml").resolve()


@pytest.fixture
def example(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example as the plan, in a directory of its own."""
    monkeypatch.setenv("PERCALE_PLAN", str(EXAMPLE))
    return here


def test_the_example_has_no_fault(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "plan", "check", "--strict") == (0, ["3 ranges: 0 errors, 0 warnings"])


def test_faults_have_their_lines(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "plan.yaml").write_text(EXAMPLE.read_text().replace("{room:0-15}", "{room}").replace("7: shop", "8: shop"))
    code, lines = run(capsys, "plan", "check", "plan.yaml")
    assert (code, lines[-1]) == (1, "3 ranges: 2 errors, 0 warnings")
    assert lines[0] == "plan.yaml:8: shop-prod does not fit into pods: there env is 0 to 7"
    assert lines[1].startswith("plan.yaml:12: services overlaps nodes: 10.96.0.1 is nodes: room 96, env 0, host 1, and")
    assert run(capsys, "plan", "check", "plan.yaml", "-o", "json")[0] == 1


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        (
            "host:1-32}",
            'host:1-32}", bytes: "',
            "plan.yaml:10: spec.ranges[0].bytes: unknown field; did you mean bits?",
        ),
        ("form:", "from:", "plan.yaml:10: spec.ranges[0]: expected `form` or `bits`"),
        ("{env:0-15}.{host", "{env.{host", "plan.yaml:10: spec.ranges[0]: "),
        ("kind: AddressPlan", "kind: AdressPlan", "plan.yaml: no AddressPlan of percale.io/v1alpha1 is in it"),
        ("  ranges:", "  ranges: []\n  reserved:", "plan.yaml:10: spec.reserved: unknown field; did you mean reserve?"),
        ("  ranges:", "  ranges: []\n  names:", "plan.yaml:10: "),
        ("room: {4: berlin", "romm: {4: berlin", "plan.yaml:7: no range has a field romm; did you mean room?"),
    ],
)
def test_a_plan_that_cannot_be_used(
    here: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, error: str
) -> None:
    text = EXAMPLE.read_text()
    assert old in text
    (here / "plan.yaml").write_text(text.replace(old, new))
    code, [line, *_] = run(capsys, "plan", "name", "--plan", "plan.yaml", "10.4.7.21")
    assert (code, line[: len(error) + 9]) == (2, f"percale: {error}")


def test_names(example: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told = "10.4.7.21: nodes: room 4 (berlin), env 7 (shop-prod), host 21"
    assert run(capsys, "plan", "name", "10.4.7.21", "8.8.8.8") == (1, [told, "8.8.8.8: not of the plan"])
    assert run(capsys, "plan", "name", "10.4.7")[0] == 2
    monkeypatch.setattr(
        "sys.stdin", io.StringIO("web 10.4.7.21:80 → ::1, 10.4.7.210\nversion 1.2.3.4.5 10.96.7.1/24\n")
    )
    assert run(capsys, "plan", "name", "-") == (
        0,
        [
            "web 10.4.7.21:80 → ::1, 10.4.7.210   # 10.4.7.21 nodes: room 4 (berlin), env 7 (shop-prod), host 21",
            "version 1.2.3.4.5 10.96.7.1/24   # 10.96.7.1/24 services: env 7 (shop-prod)",
        ],
    )


def test_json_has_the_words_of_the_plan(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, lines = run(capsys, "plan", "name", "10.4.7.21", "-o", "json")
    assert json.loads("".join(lines))[0]["meaning"]["for"] == "nodes"


def test_next(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example / "world.yaml").write_text(answers.FILES["world.yaml"] + NODE)
    berlin = ("--room", "berlin", "--env=7", "-f", "world.yaml")
    assert run(capsys, "plan", "next", *berlin, "--taken", "10.4.7.2") == (
        0,
        ["10.4.7.3   # nodes: room 4 (berlin), env 7 (shop-prod), host 3"],
    )
    assert run(capsys, "plan", "next", "pods", *berlin)[1][0].split()[0] == "172.20.225.0/24"
    assert run(capsys, "plan", "next", *berlin, "--taken", "10.4.0.0/16") == (1, ["all are in use"])
    for wrong in (("--rom", "4"), ("pods", "nodes"), ("--room",), ("--taken", "x"), ("pod",)):
        assert run(capsys, "plan", "next", *wrong)[0] == 2


NODE = """\
---
apiVersion: v1
kind: Node
metadata: {name: rack7}
spec: {podCIDR: 172.20.224.0/24}
status: {addresses: [{type: InternalIP, address: 10.4.7.1}]}
"""


def test_rendered(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example / "world.yaml").write_text(NODE)
    code, lines = run(capsys, "plan", "render", "net-conf")
    assert code == 0
    assert parse_network_config("\n".join(lines), "rendered").networks[0].prefixlen == 12
    labels = "kubectl label node rack7 topology.kubernetes.io/zone=berlin env=shop-prod"
    assert run(capsys, "plan", "render", "labels", "-f", "world.yaml") == (0, [labels])
    code, lines = run(capsys, "plan", "render", "ippools")
    pools = decode_manifest("\n".join(lines).encode(), "rendered").objects
    assert (code, len(pools), {type(each) for each in pools}) == (0, 4, {IPPool})
    assert pools[0].metadata.name == "pods-berlin-shop-test"


def test_json(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capsys, "plan", "next", "--room", "4", "--env", "7", "-o", "json")
    assert (code, json.loads("\n".join(lines))["address"]) == (0, "10.4.7.1")
    code, lines = run(capsys, "plan", "name", "8.8.8.8", "-o", "json")
    assert (code, json.loads("\n".join(lines))) == (1, [{"address": "8.8.8.8", "meaning": None}])
