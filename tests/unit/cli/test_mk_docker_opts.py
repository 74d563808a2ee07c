"""`percale mk-docker-opts`: the options of flannel's script; tests/cluster compares it with the script itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.cli.conftest import run

ENV = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.17.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
BIP, MASQ, MTU = "--bip=10.1.17.1/24", "--ip-masq=false", "--mtu=1450"
SINGLE = f'DOCKER_OPT_BIP="{BIP}"\nDOCKER_OPT_IPMASQ="{MASQ}"\nDOCKER_OPT_MTU="{MTU}"\n'
COMBINED = f'DOCKER_OPTS=" {BIP} {MASQ} {MTU}"\n'


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_OPTS", raising=False)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ("", SINGLE + COMBINED),
        ("-i", SINGLE),
        ("-c", COMBINED),
        ("-i -c", SINGLE + COMBINED),
        ("-m", f'DOCKER_OPT_BIP="{BIP}"\nDOCKER_OPT_MTU="{MTU}"\nDOCKER_OPTS=" {BIP} {MTU}"\n'),
        ("-c -k DOCKER_NETWORK_OPTIONS", f'DOCKER_NETWORK_OPTIONS=" {BIP} {MASQ} {MTU}"\n'),
    ],
)
def test_flags(here: Path, capsys: pytest.CaptureFixture[str], flags: str, text: str) -> None:
    (here / "subnet.env").write_text(ENV)
    assert run(capsys, "mk-docker-opts", "-f", "subnet.env", "-d", "out", *flags.split()) == (0, [])
    assert (here / "out").read_text() == text


def test_what_the_environment_has_stays(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "subnet.env").write_text(ENV.replace("true", "false"))
    monkeypatch.setenv("DOCKER_OPTS", "--debug")
    monkeypatch.setenv("DOCKER_OPT_ZONE", "--label=zone=a")
    assert run(capsys, "mk-docker-opts", "-c", "-f", "subnet.env", "-d", "out") == (0, [])
    assert (here / "out").read_text() == f'DOCKER_OPTS="--debug  {BIP} --ip-masq=true {MTU} --label=zone=a"\n'


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        (None, "", "subnet.env: no such file; start the agent first: it writes this file once it has a subnet"),
        ("FLANNEL_IPMASQ=maybe", "", 'subnet.env: FLANNEL_IPMASQ is "maybe"; it is true or false'),
        ("FLANNEL_SUBNET=all", "", 'subnet.env: FLANNEL_SUBNET is "all"; it is an address as 10.244.1.1/24'),
        ("what is this", "", "subnet.env:1: expected NAME=VALUE"),
        (ENV, "-k A-B", '-k: "A-B" is no name of a variable'),
        (ENV, "-d /nowhere/out", "/nowhere/out: cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(
    here: Path, capsys: pytest.CaptureFixture[str], text: str | None, flags: str, said: str
) -> None:
    if text is not None:
        (here / "subnet.env").write_text(text)
    arguments = ("mk-docker-opts", "-f", "subnet.env", "-d", "out", *flags.split())
    assert run(capsys, *arguments) == (2, [f"percale: {said}"])
    assert not (here / "out").exists()


def test_masquerading_is_not_asked_for_where_it_is_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "subnet.env").write_text("FLANNEL_IPMASQ=maybe\nFLANNEL_MTU=1450\n")
    assert run(capsys, "mk-docker-opts", "-m", "-c", "-f", "subnet.env", "-d", "out") == (0, [])
    assert (here / "out").read_text() == 'DOCKER_OPTS=" --mtu=1450"\n'
