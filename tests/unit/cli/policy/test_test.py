"""`percale policy test`: which files it takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.cli.conftest import run

CASE = """\
name: c
manifests: [{}]
pods: [{{namespace: default, name: a, ip: 10.0.0.1}}]
probes: [{{from: default/a, to: 1.1.1.1, protocol: TCP, port: 80, allowed: true}}]
"""
POLICY = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n"


@pytest.fixture
def root(here: Path) -> Path:
    for directory in ("a/b/c", "a/k8s", "a/.hidden"):
        Path(directory).mkdir(parents=True)
    Path("a/case.yaml").write_text(CASE.format("k8s/p.yaml"))
    Path("a/b/c/case.yaml").write_text(CASE.format("../../k8s/p.yaml"))
    Path("a/k8s/p.yaml").write_text(POLICY)
    Path("a/.hidden/case.yaml").write_text("not read: at all")
    Path("a/b/loop").symlink_to("..")
    return here


@pytest.mark.usefixtures("root")
def test_directories_with_all_below_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "policy", "test", "a") == (0, ["2 cases, 2 probes: 2 right, 0 wrong by the evaluator"])
    Path("a/k8s/q.yaml").write_text(POLICY)
    code, lines = run(capsys, "policy", "test", "a")
    assert (code, lines) == (
        2,
        [
            "percale: a/k8s/q.yaml:1: NetworkPolicy p: a manifest, and not a case;"
            " keep cases in a directory of their own, or name their files"
        ],
    )


@pytest.mark.usefixtures("root")
def test_without_a_case_what_is_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a/k8s/q.yaml").write_text("# nothing yet")
    said = "percale: no case in a/k8s/p.yaml, a/k8s/q.yaml, but 1 manifest: NetworkPolicy p; docs/policy-tests.md shows one"
    assert run(capsys, "policy", "test", "a/k8s") == (2, [said])


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("/dev/zero", "/dev/zero: cannot be read: not a regular file"),
        ("fifo", "a/fifo: cannot be read: not a regular file"),
        ("-", "a/-: no such file or directory"),
        ("odd", "a/odd/fifo.yaml: cannot be read: not a regular file"),
        ("huge", "a/huge: cannot be read: it has 1024 MiB; 128 MiB are read at most"),
    ],
)
def test_a_case_names_regular_files_only(capsys: pytest.CaptureFixture[str], named: str, told: str) -> None:
    """Who writes a test neither blocks who runs it, nor fills the memory."""
    Path("a/odd").mkdir()
    os.mkfifo("a/fifo")
    os.mkfifo("a/odd/fifo.yaml")
    Path("a/huge").touch()
    os.truncate("a/huge", 1 << 30)
    Path("a/case.yaml").write_text(CASE.format(named))
    assert run(capsys, "policy", "test", "a/case.yaml") == (2, [f"percale: a/case.yaml:2: {told}"])


@pytest.mark.parametrize(
    "command", [("matrix", "-f"), ("policy", "test"), ("preflight", "--config"), ("lab", "up", "-f")]
)
def test_a_device_that_a_user_names_ends(capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    code, lines = run(capsys, *command, "/dev/zero")
    assert (code, lines) == (2, ["percale: /dev/zero: cannot be read: it has more; 128 MiB are read at most"])


@pytest.mark.usefixtures("root")
def test_a_manifest_that_is_not_there_hides_no_other_error(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a/case.yaml").write_text(CASE.format("k8s/gone.yaml").replace("protocol: TCP", "protocol: tcp"))
    Path("a/b/c/case.yaml").write_text(CASE.format("../../k8s/gone.yaml"))
    assert run(capsys, "policy", "test", "a/b/c", "a/case.yaml") == (
        2,
        [
            "percale: a/b/c/case.yaml:2: a/k8s/gone.yaml: no such file or directory",
            "percale: a/case.yaml:4: probes[0].protocol: expected ICMP, SCTP, TCP or UDP, got \"tcp\"; write TCP",
        ],
    )  # fmt: skip
