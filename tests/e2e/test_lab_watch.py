"""`percale lab watch`: policies seen to act, and nothing of the watch left behind."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.e2e.conftest import PERCALE, ROOT, Person
from tests.e2e.web_and_clients import PODS
from tests.waiting import until

WORLD = (
    PODS
    + """\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: access-web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {access: "true"}}}]}]
"""
)


@pytest.fixture
def guarded(percale: Person) -> Person:
    """web takes connections of friend only."""
    percale("lab", "up", "-f", "-", stdin=WORLD)
    until(lambda: percale.probe("stranger", "web", "80") == "timeout")
    return percale


def tables(person: Person) -> str:
    return person.out("lab", "node", "node1", "--", "nft", "list", "tables")


@contextmanager
def watching(person: Person, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A watch that is up."""
    process = subprocess.Popen(
        [PERCALE, "lab", "watch", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=person.environment,
    )
    try:
        until(lambda: "percale_watch" in tables(person) or process.poll() is not None)
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


def test_denied_and_allowed_with_their_rules(guarded: Person) -> None:
    with watching(guarded, "--count", "2", "-o", "json") as process:
        assert guarded.probe("friend", "web", "80") == "allowed"
        assert guarded.probe("stranger", "web", "80") == "timeout"
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")
    allowed, denied = map(json.loads, output.splitlines())
    assert (allowed["verdict"], allowed["from"], allowed["to"]) == ("allowed", "default/friend", "default/web")
    assert allowed["rules"] == ["np:default/access-web#ingress[0]"]
    assert (denied["verdict"], denied["from"], denied["to"]) == ("denied", "default/stranger", "default/web")
    assert "np:default/access-web" in denied["rules"][0]
    assert [(each["port"], each["protocol"], each["node"]) for each in (allowed, denied)] == [(80, "tcp", "node1")] * 2


def test_only_what_is_asked_for_is_shown(guarded: Person) -> None:
    with watching(guarded, "--count", "1", "--denied", "--pod", "web") as process:
        assert guarded.probe("friend", "web", "80") == "allowed"
        assert guarded.probe("web", "friend", "9999") == "refused"
        assert guarded.probe("stranger", "web", "81/UDP") == "timeout"
        output = process.communicate(timeout=20)[0]
    (line,) = output.splitlines()
    assert " denied   default/stranger → default/web (" in line
    assert "81/udp  " in line
    assert line.endswith("  node1")


def test_whom_it_shall_show_is_named_as_everywhere(guarded: Person) -> None:
    """A name that is not there would be a watch without a line, for ever."""
    for name, said in (
        ("wbe", "there is no pod default/wbe; did you mean default/web?"),
        ("node/n9", "no node/n9; there"),
    ):
        assert said in guarded.complaint("lab", "watch", "--pod", name, "--for", "0.1")
    with watching(guarded, "--count", "1", "--pod", "external/outside") as process:
        assert guarded.probe("friend", "web", "80") == "allowed"
        assert guarded.probe("external/outside", "web", "80", "--timeout", "0.3") == "timeout"
        (line,) = process.communicate(timeout=20)[0].splitlines()
    assert " denied   external/outside → default/web (" in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_nothing_is_left(guarded: Person, number: signal.Signals) -> None:
    with watching(guarded) as process:
        assert "percale_watch" in tables(guarded)
        process.send_signal(number)
        process.wait(timeout=30)
    assert "percale_watch" not in tables(guarded)


def test_it_ends_by_itself_and_one_at_a_time(guarded: Person) -> None:
    with watching(guarded, "--for", "60"):
        assert "another watch is running" in guarded.complaint("lab", "watch")
    assert guarded.out("lab", "watch", "--for", "0.3") == ""
    assert "percale_watch" not in tables(guarded)


def test_a_lab_that_ends_ends_its_watch(guarded: Person) -> None:
    with watching(guarded) as process:
        guarded("lab", "down")
        errors = process.communicate(timeout=20)[1]
    assert process.returncode == 2
    assert "no lab named lab is running" in errors


EGRESS = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: from-friend}
spec:
  podSelector: {matchLabels: {access: "true"}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]
"""


def test_every_probe_names_the_rule_of_its_source_s_node(guarded: Person) -> None:
    """The destination's node has no policy for it: whichever node's socket is read first, the rule that allowed it is shown."""
    guarded("lab", "delete", "netpol", "access-web")
    guarded("lab", "apply", "-f", "-", stdin=EGRESS)
    with watching(guarded, "--count", "8", "-o", "json") as process:
        for _ in range(8):
            assert guarded.probe("friend", "web", "80") == "allowed"
        output, errors = process.communicate(timeout=20)
    assert errors == ""
    assert [json.loads(line)["rules"] for line in output.splitlines()] == [["np:default/from-friend#egress[0]"]] * 8
