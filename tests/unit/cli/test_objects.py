"""`percale apply`, `get` and `delete` as an operator types them, over files and a real etcd."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.etcd_server import EtcdServer
from tests.unit.cli.conftest import percale, run
from tests.unit.objects.test_in_store import SHOP
from tests.waiting import until


@pytest.fixture(params=["files", "etcd"])
def store(request: pytest.FixtureRequest, here: Path, etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> str:
    (here / "objects").mkdir()
    (here / "shop.yaml").write_text(SHOP)
    address = f"files:{here}/objects" if request.param == "files" else f"etcd:{etcd.url}?prefix=/{request.node.name}"
    monkeypatch.setenv("PERCALE_STORE", address)
    return address


def test_from_nothing_to_nothing(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["namespace/shop created", "service/web created", "networkpolicy.networking.k8s.io/web created"]
    assert run(capsys, "apply", "-f", "shop.yaml", "--service-cidr", "10.7.0.0/16") == (0, lines)
    assert run(capsys, "get", "svc", "-n", "shop", "-o", "jsonpath={.items[*].spec.clusterIP}") == (0, ["10.7.1.1"])
    code, lines = run(capsys, "get", "netpol", "-A")
    assert code == 0
    assert lines[0].split() == ["NAMESPACE", "NAME", "POD-SELECTOR", "AGE"]
    assert lines[1].split()[:3] == ["shop", "web", "app=web"]
    code, lines = run(capsys, "get", "netpol/web", "-n", "shop", "-o", "json")
    assert json.loads("\n".join(lines))["spec"]["podSelector"] == {"matchLabels": {"app": "web"}}
    for wide in ((), ("-o", "wide")):
        assert run(capsys, "get", "pods", *wide) == (0, ["no pods in namespace default"])
    missing = (2, ["percale: there is no service web in namespace default; did you mean -n shop?"])
    assert run(capsys, "get", "svc", "web") == missing
    assert run(capsys, "delete", "svc", "web") == missing
    assert run(capsys, "delete", "svc/web", "-n", "shop") == (0, ["service/web deleted"])
    assert run(capsys, "delete", "ns", "shop") == (0, ["namespace/shop deleted"])
    assert run(capsys, "get", "ns,svc,netpol", "-A", "-o", "name") == (0, [""])


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ("get podz", "percale: there is no kind 'podz'; did you mean pod"),
        ("get svc -l a,", "percale: -l: '' is no label selector; write app=web, app!=web, app in (web,api)"),
        ("delete", "percale delete: name what to delete"),
        ("apply -f none.yaml", "percale: none.yaml: no such file or directory"),
        ("apply -f /dev/null", "percale: /dev/null: no objects in there"),
        ("apply -f shop.yaml --service-cidr here", "'here' is not a network"),
        ("get pods --store etcd:http://127.0.0.1:1", "percale: http://127.0.0.1:1: "),
        ("get pods --store kubernetes:/nosuch", "percale: /nosuch: cannot be read: No such file or directory"),
        ("get pods --store files:/nosuch", "percale: /nosuch: cannot be watched: No such file or directory"),
        ("get pods --store nosuch:", 'percale: store: no store "nosuch:"; write files:/DIRECTORY or '),
    ],
)
def test_errors_are_one_line(store: str, arguments: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capsys, *arguments.split())
    assert code == 2
    text = lines[-1].removeprefix("Error: ")
    assert what.removeprefix("percale delete: ") in text


def test_without_an_address_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capsys, "get", "pods")
    assert code == 2
    assert "Give --store or set PERCALE_STORE; of a lab: percale lab get" in lines[-1]


def test_what_cannot_be_read_is_on_stderr(
    store: str, here: Path, etcd: EtcdServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "apply", "-f", "shop.yaml")[0] == 0
    if store.startswith("files"):
        (here / "objects" / "odd.yaml").write_text("kind: [")
    else:
        etcd.ctl("put", f"{store.partition('=')[2]}/percale/objects/NetworkPolicy/shop/odd", "{")
    assert percale("get", "netpol", "-n", "shop", "-o", "name") == 0
    output = capsys.readouterr()
    assert output.out == "networkpolicy.networking.k8s.io/web\n"
    assert "odd" in output.err
    assert len(output.err.splitlines()) == 1


def test_watching_shows_each_change_until_it_is_interrupted(
    store: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "apply", "-f", "shop.yaml")[0] == 0
    with (here / "out").open("w") as out:
        code = "from percale.cli.main import main; main()"
        command = [sys.executable, "-c", code, "get", "netpol", "-n", "shop", "-w"]
        watcher = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
    try:
        until(lambda: "app=web" in (here / "out").read_text(), "the policy is shown")
        (here / "shop.yaml").write_text(SHOP.replace("app: web", "app: other"))
        assert run(capsys, "apply", "-f", "shop.yaml")[0] == 0
        until(lambda: "app=other" in (here / "out").read_text(), "its change is shown")
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait(20) == 130
        assert len((here / "out").read_text().splitlines()) == 3
    finally:
        watcher.kill()
        watcher.wait()
