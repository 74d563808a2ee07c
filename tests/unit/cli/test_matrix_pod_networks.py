"""`percale matrix` of pods without an address: of their network where it is known; what depends on them is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.cli.conftest import run
from tests.unit.cli.test_why_pod_networks import FLANNEL, FROM, LAB, NODES, PODS

NET_CONF = '{"Network": "10.42.0.0/16"}'
DOUBT = "note: whom these rules mean depends on the addresses of "
UNKNOWN = "note: here they mean none of them, if that can be; --pod-cidr says the pods' network"


def reaches(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[bool, list[str]]:
    """Whether the client reaches the server, and what is noted."""
    code, lines = run(capsys, "matrix", "-f", "m.yaml", "-o", "csv", "--port", "80", *options)
    assert code == 0
    return "default/client,default/server,TCP 80,false" in lines, [each for each in lines if each.startswith("note:")]


@pytest.mark.parametrize("fact", [NODES, FLANNEL, LAB, "net-conf.json", "--pod-cidr"])
@pytest.mark.parametrize(
    ("block", "reached"),
    [
        ("{cidr: 10.42.0.0/16}", True),
        ("{cidr: 10.244.0.0/14}", False),
        ("{cidr: 0.0.0.0/0, except: [10.42.0.0/16]}", False),
        ("{cidr: 0.0.0.0/0, except: [10.244.0.0/14]}", True),
    ],
)
def test_a_known_network(here: Path, capsys: pytest.CaptureFixture[str], fact: str, block: str, reached: bool) -> None:
    manifests = fact if "kind" in fact else ""
    (here / "m.yaml").write_text(manifests + PODS + FROM % block)
    (here / "net-conf.json").write_text(NET_CONF)
    options = {"net-conf.json": ["-f", fact], "--pod-cidr": [fact, "10.42.0.0/16"]}.get(fact, [])
    found, notes = reaches(capsys, *options)
    assert found is reached
    assert not any(each.startswith(DOUBT) for each in notes)
    code, lines = run(capsys, "why", "client", "server", "80", "-f", "m.yaml", *options)
    assert (code, lines[0][:6]) == ((0, "allowe") if reached else (1, "denied"))


@pytest.mark.parametrize("block", ["10.244.0.0/14", "10.0.0.0/8", "172.16.0.0/12", "10.42.0.0/16"])
def test_of_an_unknown_network_no_block_means_a_pod_by_accident(
    here: Path, capsys: pytest.CaptureFixture[str], block: str
) -> None:
    (here / "m.yaml").write_text(PODS + FROM % f"{{cidr: {block}}}")
    found, notes = reaches(capsys)
    assert not found
    assert [f"{DOUBT}3 pods, which have none yet: np:default/p#ingress[0]", UNKNOWN] == notes[-2:]
    code, lines = run(capsys, "why", "client", "server", "80", "-f", "m.yaml")
    assert (code, lines[0].startswith("cannot tell")) == (2, True)


@pytest.mark.parametrize(
    ("options", "noted"), [([], True), (["--pod-cidr", "10.42.0.0/16"], False), (["--pod-cidr", "fd00::/64"], False)]
)
def test_ipv6_blocks_are_not_passed_over_in_silence(
    here: Path, capsys: pytest.CaptureFixture[str], options: list[str], noted: bool
) -> None:
    (here / "m.yaml").write_text(PODS)
    (here / "change.yaml").write_text(FROM % '{cidr: "2001:db8::/32"}')
    for command in (["-f", "m.yaml", "--diff", "change.yaml"], ["-f", "m.yaml", "-f", "change.yaml"]):
        _, lines = run(capsys, "matrix", *command, *options)
        assert (
            any("nothing is said of the IPv6 blocks of these rules: np:default/p#ingress[0]" in each for each in lines)
            is noted
        )


def test_that_no_flow_flips_is_not_said_where_it_cannot_be_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closed = FROM.replace("Ingress", "Egress").replace("ingress", "egress").replace("from", "to")
    (here / "m.yaml").write_text(PODS + closed % "{cidr: 203.0.113.0/24}")
    (here / "change.yaml").write_text(closed % '{cidr: 203.0.113.0/24}}, {ipBlock: {cidr: "::/0"}')
    diff = ("matrix", "-f", "m.yaml", "--diff", "change.yaml")
    code, lines = run(capsys, *diff)
    assert (code, len(lines)) == (2, 1)
    assert "the IPv6 blocks of np:default/p#egress[0] cannot be compared" in lines[0]
    assert run(capsys, *diff, "--pod-cidr", "10.42.0.0/16")[0] == 0
    assert run(capsys, *diff, "--pod-cidr", "10.42.0.0/16,fd00:42::/56")[0] == 1


def test_a_block_that_divides_the_network_is_noted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "m.yaml").write_text(FLANNEL + PODS + FROM % "{cidr: 10.42.7.0/24}")
    found, notes = reaches(capsys)
    assert (found, notes[-1]) == (False, f"{DOUBT}3 pods, which have none yet: np:default/p#ingress[0]")


def test_a_new_pod_moves_no_other(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its placeholder is another's no more when the manifests change, and no flow of theirs flips."""
    policy = "---" + FROM % "{cidr: 10.42.0.0/28}"
    (here / "m.yaml").write_text(FLANNEL + PODS.rstrip("-") + policy)
    more = "".join(
        f"apiVersion: v1\nkind: Pod\nmetadata: {{name: a{n}}}\nspec: {{containers: []}}\n---\n" for n in range(20)
    )
    (here / "more.yaml").write_text(more + "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n")
    code, lines = run(capsys, "matrix", "-f", "m.yaml", "--diff", "more.yaml")
    assert (code, lines[0]) == (0, "no flow flips")


@pytest.mark.parametrize("command", [("matrix",), ("why", "client", "server", "80")])
def test_a_pod_cidr_that_is_none(here: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    (here / "m.yaml").write_text(PODS + FROM % "{cidr: 10.0.0.0/8}")
    code, lines = run(capsys, *command, "-f", "m.yaml", "--pod-cidr", "10.42.0.0/33")
    assert code == 2
    assert "'10.42.0.0/33' is not a network" in lines[-1]
