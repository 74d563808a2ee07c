"""The documented commands of BGP, in labs of its examples."""

from __future__ import annotations

import json

from docs.answers import documents
from tests.e2e.conftest import Person
from tests.waiting import until


def test_a_mesh_as_the_page_shows_it(percale: Person) -> None:
    percale("lab", "up", "--name", "mesh", "-f", "examples/lab/bgp-mesh.yaml")
    percale.shell("until percale bgp status --lab mesh; do sleep 0.2; done")
    table = percale.out("bgp", "status", "--lab", "mesh", "n1").splitlines()
    assert table[0] == "n1: IPv4 BGP status"
    assert table[2].split("|")[1:-1] == [
        " PEER ADDRESS ",
        " PEER TYPE         ",
        " STATE ",
        " SINCE               ",
        " INFO        ",
    ]
    assert [line.split("|")[5].strip() for line in table[4:6]] == ["Established"] * 2
    until(lambda: percale.out("bgp", "routes", "--lab", "mesh").count(" eth0") == 6)
    for command in ("status", "routes"):
        document = json.loads(percale.out("bgp", command, "--lab", "mesh", "-o", "json"))
        assert documents(f"bgp {command}", document)
        assert set(document["nodes"]) == {"n1", "n2", "n3"}
    assert "no node n9" in percale.complaint("bgp", "status", "--lab", "mesh", "n9")
    percale("lab", "down", "mesh")


def test_reflectors(percale: Person) -> None:
    percale("lab", "up", "-f", "examples/lab/bgp-reflectors.yaml", "-f", "examples/nginx.yaml")
    until(lambda: percale.out("bgp", "routes", "--lab", "lab", "n1").count(" eth0") == 3)
    percale.shell("until percale bgp status --lab lab; do sleep 0.2; done")
    assert percale.out("bgp", "status", "--lab", "lab", "n1").count("node specific") == 2
    status = json.loads(percale.out("lab", "status", "-o", "json"))
    assert all(
        peer["reached"] and peer["path"] == "direct" for each in status["machines"] for peer in each["peers"] or ()
    )


def test_another_backend_has_no_bgp(percale: Person) -> None:
    percale("lab", "up", "-f", "examples/lab/one-segment.yaml")
    assert "not bgp; see Backend.Type" in percale.complaint("bgp", "status", "--lab", "lab")
