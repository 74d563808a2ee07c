"""`percale lab break`: each fault is seen, found within two commands, and mended by what these say to type."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.e2e.conftest import Person
from tests.waiting import until

from percale.lab.faults.registry import FAULTS
from percale.lab.faults.world import POLICY, SERVICE

FOUND_BY_DOCTOR = {
    1: ("node2", "pod-filter"),
    2: ("node3", "tunnel-filter"),
    5: ("node3", "agent"),
    6: ("node1", "address-ranges"),
    7: ("node1", "large-packets"),
    8: ("node1", "peers"),
    9: ("node1", "rp-filter"),
}
MENDED_BY_OBJECTS = {3: POLICY, 4: SERVICE}


@pytest.fixture
def game(percale: Person) -> Person:
    percale("lab", "up")
    return percale


def doctor(person: Person, node: str, check: str) -> dict[str, Any]:
    """What it finds there."""
    done = person("doctor", "--lab", "lab", "-o", "json", code=1)
    checks = json.loads(done.stdout)["nodes"][node]["checks"]
    return next(dict(each) for each in checks if each["check"] == check)


def mended(person: Person, number: int) -> bool:
    return person.shell(f"percale lab break {number} --check || true").startswith(f"{number} is mended")


def mend(person: Person, number: int) -> None:
    """As one who has read what the commands say."""
    if number in FOUND_BY_DOCTOR:
        node, check = FOUND_BY_DOCTOR[number]
        found = doctor(person, node, check)
        assert found["result"] != "ok", found
        for command in found["type"]:
            assert command.startswith("percale "), "nothing that is typed is the machine's own"
            for each in ("node1", "node2", "node3") if "all nodes" in command else (node,):
                person.shell(command.replace(f" {node} ", f" {each} "))
    elif number in MENDED_BY_OBJECTS:
        person("lab", "apply", "-f", "-", stdin=MENDED_BY_OBJECTS[number])
    else:
        assert "egress" in person("why", "game/client1", "svc/kube-system/kube-dns", "53/udp", code=1).stdout
        person("lab", "delete", "networkpolicy", "client", "-n", "game")


def test_each_fault_is_found_and_mended(game: Person) -> None:
    assert json.loads(game.out("doctor", "--lab", "lab", "-o", "json"))["nodes"].keys() == {"node1", "node2", "node3"}
    for fault in FAULTS:
        number = fault.number
        assert game.out("lab", "break", str(number)).startswith(fault.seen)
        assert game("lab", "break", str(number), "--check", code=1).stdout.startswith("not mended: ")
        mend(game, number)
        until(lambda number=number: mended(game, number), f"{number} is mended")  # type: ignore[misc]
        game("lab", "break", str(number), "--undo")


def test_what_is_seen_tells_no_cause_and_hints_have_addresses(game: Person) -> None:
    listed = game.out("lab", "break")
    assert len(listed.splitlines()) == 1 + len(FAULTS) == 11
    assert not any(fault.cause in listed for fault in FAULTS)
    assert "192.168." in game.out("lab", "break", "9", "--hint")
    assert game.out("lab", "break", "4", "--tell").strip() == FAULTS[3].cause
    assert "there is no fault 11" in game("lab", "break", "11", code=2).stderr


def test_a_lab_of_another_kind_is_refused(percale: Person) -> None:
    percale("lab", "up", "-f", "examples/lab/one-segment.yaml", "-f", "examples/net-conf-host-gw.json")
    assert "the faults are those of a default lab" in percale.complaint("lab", "break", "1")
