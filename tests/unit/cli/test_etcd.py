"""`percale etcd` as an operator types it, on a real etcd."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.etcd_server import EtcdServer
from tests.unit.cli.conftest import run

NETWORK = '{\n  "Network": "10.5.0.0/16"\n}\n'


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"/{request.node.name}"


@pytest.fixture
def store(etcd: EtcdServer, prefix: str) -> str:
    return f"etcd:{etcd.url}?prefix={prefix}"


def test_write_reserve_and_show(
    here: Path, capsys: pytest.CaptureFixture[str], etcd: EtcdServer, store: str, prefix: str
) -> None:
    (here / "net-conf.json").write_text(NETWORK)
    assert run(capsys, "etcd", "show", "--store", store) == (
        0,
        ["network: none; see percale etcd init", "", "no leases"],
    )
    assert run(capsys, "etcd", "init", "--store", store, "net-conf.json") == (0, ["network configuration written"])
    assert etcd.ctl("get", "--print-value-only", f"{prefix}/config") == f"{NETWORK}\n", "as flannel reads it"
    reserved = run(capsys, "etcd", "reserve", "--store", store, "--public-ip", "192.0.2.7", "10.5.7.0/24")
    assert reserved == (0, ["10.5.7.0/24 reserved for 192.0.2.7"])
    value = etcd.ctl("get", "--print-value-only", f"{prefix}/subnets/10.5.7.0-24")
    assert value == '{"PublicIP":"192.0.2.7","PublicIPv6":null}\n'
    assert '"Lease" : 0' in etcd.ctl("get", "-w", "fields", f"{prefix}/subnets/10.5.7.0-24")
    etcd.ctl("put", f"{prefix}/subnets/10.5.9.0-24", "{")
    code, lines = run(capsys, "etcd", "show", "--store", store)
    assert code == 0
    assert lines[:4] == [
        'network: { "Network": "10.5.0.0/16" }',
        "",
        "SUBNETS       NODE        PUBLIC IPS   BACKEND   RESERVED",
        "10.5.7.0/24   192.0.2.7   192.0.2.7    -         yes",
    ]
    assert lines[4].startswith(f"problem: {prefix}/subnets/10.5.9.0-24: not a lease")
    code, lines = run(capsys, "etcd", "show", "--store", store, "-o", "json")
    assert json.loads("\n".join(lines))["leases"] == [
        {"subnets": ["10.5.7.0/24"], "node": "192.0.2.7", "publicIPs": ["192.0.2.7"], "backend": "", "reserved": True}
    ]


def test_what_is_refused_changes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], etcd: EtcdServer, store: str, prefix: str
) -> None:
    (here / "net-conf.json").write_text(NETWORK)
    (here / "bad.json").write_text('{"Netwerk": "10.5.0.0/16"}')
    assert run(capsys, "etcd", "init", "--store", store, "net-conf.json")[0] == 0
    before = etcd.ctl("get", "--prefix", prefix)
    for arguments, what in (
        (["init", "net-conf.json"], "etcd: it has a configuration already; --replace exchanges it"),
        (["init", "--replace", "bad.json"], "bad.json: "),
        (["init", "none.json"], "none.json: cannot be read: No such file or directory"),
        (["reserve", "--public-ip", "192.0.2.7", "10.6.7.0/24"], "10.6.7.0/24 is no subnet for a node in 10.5.0.0/16"),
        (["reserve", "--public-ip", "192.0.2.7", "10.5.7.0/25"], "10.5.7.0/25 is no subnet for a node in 10.5.0.0/16"),
        (["reserve", "--public-ip", "here", "10.5.7.0/24"], "'here' does not appear to be an IPv4 or IPv6 address"),
        (["reserve", "--public-ip", "192.0.2.7", "10.5.7.0/24", "10.5.8.0/24"], "two of one family"),
    ):
        code, lines = run(capsys, "etcd", arguments[0], "--store", store, *arguments[1:])
        assert code == 2
        assert len(lines) == 1
        assert lines[0].startswith(f"percale: {what}")
    assert etcd.ctl("get", "--prefix", prefix) == before
    assert run(capsys, "etcd", "reserve", "--store", store, "--public-ip", "192.0.2.7", "10.5.7.0/24")[0] == 0
    code, lines = run(capsys, "etcd", "reserve", "--store", store, "--public-ip", "192.0.2.8", "10.5.7.0/24")
    assert (code, lines) == (2, ["percale: 10.5.7.0/24 overlaps 10.5.7.0/24 of node 192.0.2.7; choose another subnet"])
    code, lines = run(capsys, "etcd", "show", "--store", "files:/tmp")
    assert code == 2 and 'store: "files:/tmp" is no etcd' in lines[0]
    assert run(capsys, "etcd", "init", "--store", store, "--replace", "net-conf.json")[0] == 0
