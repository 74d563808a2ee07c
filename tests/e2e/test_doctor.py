"""`percale doctor` and `percale support` of labs: no example alarms, and every node is in the archive."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from docs.answers import documents
from tests.e2e.conftest import Person
from tests.waiting import until


def wrong(person: Person) -> list[str]:
    """What is found on any node of the lab."""
    done = person.shell("percale doctor --lab lab -o json || true")
    document = json.loads(done)
    assert documents("doctor", document)
    return [
        f"{node}: {each['check']}: {each['evidence']}"
        for node, host in document["nodes"].items()
        for each in host["checks"]
        if each["result"] in ("warning", "error")
    ]


@pytest.mark.parametrize(
    "files",
    [
        ("bgp-mesh.yaml",),
        ("bgp-reflectors.yaml",),
        ("dual-stack.yaml", "workloads.yaml"),
        ("one-segment.yaml", "../net-conf-host-gw.json"),
        ("two-racks.yaml", "workloads.yaml"),
    ],
    ids="-".join,
)
def test_no_example_alarms(percale: Person, files: tuple[str, ...]) -> None:
    percale("lab", "up", *(word for file in files for word in ("-f", f"examples/lab/{file}")))
    until(lambda: "not reached" not in percale.out("lab", "status"))
    until(lambda: wrong(percale) == [], str(wrong(percale)))
    assert percale("doctor", "--lab", "lab").stderr == ""


def test_an_archive_of_a_lab_has_every_node(percale: Person, tmp_path: Path) -> None:
    percale("lab", "up")
    file = tmp_path / "support.tar.gz"
    assert percale.out("support", "--lab", "lab", str(file)).startswith(f"{file}: ")
    with tarfile.open(file) as archive:
        names = archive.getnames()
        status = archive.extractfile("node2/status.json")
        assert status is not None
        assert json.load(status)["node"] == "node2"
    assert {"lab/log", "lab/status.json"} <= set(names)
    for node in ("node1", "node2", "node3"):
        assert {f"{node}/{name}" for name in ("doctor.json", "agent.log", "nft/ruleset.txt", "config.json")} <= set(
            names
        )
