"""`kubectl percale …`, as kubectl starts the plugin: which cluster is asked, and whose options are whose."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from percale.cli.kubectl_plugin import main, store_address

CLUSTERS = ("test", "staging")


@pytest.fixture
def kubeconfig(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a context for each cluster; nobody listens there."""
    path = here / "kubeconfig"
    servers = {name: f"http://127.0.0.1:{number}" for number, name in enumerate(CLUSTERS, 1)}
    document = {
        "current-context": CLUSTERS[0],
        "clusters": [{"name": name, "cluster": {"server": server}} for name, server in servers.items()],
        "contexts": [{"name": name, "context": {"cluster": name}} for name in CLUSTERS],
    }
    path.write_text(json.dumps(document))
    monkeypatch.setenv("KUBECONFIG", f"{here}/missing:{path}")
    monkeypatch.setenv("PERCALE_STORE", "files:/nonexistent")
    return path


def plugin(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code and both outputs of `kubectl percale ARGUMENTS`."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    told = capsys.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, told.out + told.err


@pytest.mark.parametrize(
    ("options", "server"),
    [
        ((), "127.0.0.1:1"),
        (("--context", "staging"), "127.0.0.1:2"),
        (("--context=staging", "--kubeconfig=kubeconfig"), "127.0.0.1:2"),
    ],
)
def test_the_store_is_the_cluster_that_kubectl_means(
    kubeconfig: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], server: str
) -> None:
    code, told = plugin(capsys, "get", *options, "networkpolicies", "-A")
    assert code == 2
    assert server in told


def test_a_store_that_is_given_is_taken(kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (kubeconfig.parent / "store").mkdir()
    assert plugin(capsys, "get", "pods", "-A", "--store", f"files:{kubeconfig.parent}/store")[0] == 0


def test_commands_without_a_store_are_the_same(kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pods = "\n---\n".join(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name},
                "spec": {"containers": [{"name": "c", "image": "x"}]},
            }
        )
        for name in ("one", "two")
    )
    Path("pods.yaml").write_text(pods)
    code, told = plugin(capsys, "why", "one", "two", "80", "-f", "pods.yaml", "--context", "staging")
    assert (code, "allowed" in told) == (0, True), told


@pytest.mark.parametrize(
    ("given", "environ", "address"),
    [
        ({}, {}, None),
        ({}, {"KUBECONFIG": "/a:/b"}, None),
        ({"--kubeconfig": "/a"}, {"KUBECONFIG": "/b"}, "kubernetes:/a"),
        ({"--kubeconfig": "/a", "--context": "me@it & co"}, {}, "kubernetes:/a?context=me%40it%20%26%20co"),
    ],
)
def test_the_address(
    given: dict[str, str], environ: dict[str, str], address: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store_address(given, environ) == address


def test_home_has_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube/config").touch()
    assert store_address({}, {}) == f"kubernetes:{tmp_path}/.kube/config"


def test_what_is_behind_dashes_is_another_program_s(kubeconfig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = plugin(capsys, "lab", "--lab", "none", "exec", "web", "--", "true", "--context", "staging")
    assert (code, "staging" in told) == (2, False)


def test_the_package_installs_it() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["kubectl-percale"] == f"{main.__module__}:{main.__name__}"
