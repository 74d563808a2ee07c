"""What runtimes and plugins keep about pods: read as they write it, and written as flannel's would."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from percale.agent.migration.cni_cache import CniState, delegate_of
from percale.errors import StateError
from percale.ipam.address_pool import Owner

CACHED: dict[str, Any] = {
    "kind": "cniCacheV1",
    "containerId": "c1",
    "config": "e30=",
    "ifName": "eth0",
    "networkName": "cbr0",
    "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "web-1"]],
    "capabilityArgs": {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
    "result": {
        "cniVersion": "0.3.1",
        "interfaces": [
            {"name": "cni0", "mac": "0a:58:0a:f4:01:01"},
            {"name": "veth1a2b3c4d", "mac": "02:00:00:00:00:01"},
            {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/cni-1"},
        ],
        "ips": [{"version": "4", "interface": 2, "address": "10.244.1.5/24", "gateway": "10.244.1.1"}],
    },
}


@pytest.fixture
def state(tmp_path: Path) -> CniState:
    for name in ("results", "networks/cbr0", "flannel"):
        (tmp_path / name).mkdir(parents=True)
    return CniState(tmp_path, "cbr0")


def test_a_pod_is_all_that_its_add_said(tmp_path: Path, state: CniState) -> None:
    (tmp_path / "results" / "cbr0-c1-eth0").write_text(json.dumps(CACHED))
    (tmp_path / "results" / "cbr0-other-c2-eth0").write_text(json.dumps({**CACHED, "networkName": "cbr0-other"}))
    (pod,) = state.pods("cni0", 1450)
    attachment = pod.attachment
    assert (pod.device, attachment.owner, attachment.netns) == ("veth1a2b3c4d", Owner("c1", "eth0"), "/run/netns/cni-1")
    assert (str(attachment), attachment.network) == ("pod shop/web-1", "percale")
    assert [(each.port, each.container_port) for each in attachment.ports] == [(8080, 80)]
    wires = attachment.wires
    assert (wires.mac, wires.mtu, wires.bridge) == ("02:00:00:00:00:02", 1450, "cni0")
    assert list(map(str, wires.addresses)) == ["10.244.1.5/24"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        json.dumps({**CACHED, "result": {}}),
        json.dumps({**CACHED, "containerId": "../x"}),
        json.dumps({**CACHED, "result": {**CACHED["result"], "ips": [{"address": "all"}]}}),
        json.dumps({**CACHED, "capabilityArgs": {"portMappings": [{"hostPort": -1}]}}),
    ],
)
def test_one_that_cannot_be_read_is_named(tmp_path: Path, state: CniState, content: str) -> None:
    (tmp_path / "results" / "cbr0-c1-eth0").write_text(content)
    with pytest.raises(
        StateError, match=r"results/cbr0-c1-eth0: not a CNI result of bridge and host-local: .*; delete"
    ):
        state.pods("cni0", 1450)


def test_the_records_of_host_local(tmp_path: Path, state: CniState) -> None:
    directory = tmp_path / "networks" / "cbr0"
    for name, text in (
        ("10.244.1.5", "c1\r\neth0"),
        ("fd00::5", "c1\r\nnet1"),
        ("10.244.1.6", "old"),
        ("last_reserved_ip.0", "10.244.1.6"),
        ("lock", ""),
    ):
        (directory / name).write_text(text)
    assert {path.name: owner for path, owner in state.addresses().items()} == {
        "10.244.1.5": Owner("c1", "eth0"),
        "fd00::5": Owner("c1", "net1"),
        "10.244.1.6": Owner("old", "eth0"),
    }


def test_what_is_written_is_read_back(tmp_path: Path, state: CniState) -> None:
    (tmp_path / "results" / "cbr0-c1-eth0").write_text(json.dumps(CACHED))
    (pod,) = state.pods("cni0", 1450)
    pairs = {ip_network("10.244.0.0/16"): ip_network("10.244.1.0/24")}
    delegate = delegate_of({"hairpinMode": True}, "cbr0", pairs, mtu=1450, ip_masq=True)
    state.write(pod.attachment, delegate)
    assert state.addresses() == {state.address_file(ip_address("10.244.1.5")): Owner("c1", "eth0")}
    assert state.address_file(ip_address("10.244.1.5")).read_bytes() == b"c1\r\neth0"
    kept = json.loads(state.handed_over("c1").read_text())
    assert (kept["type"], kept["name"], kept["mtu"], kept["ipMasq"], kept["hairpinMode"]) == (
        "bridge",
        "cbr0",
        1450,
        False,
        True,
    )
    assert kept["ipam"] == {
        "type": "host-local",
        "ranges": [[{"subnet": "10.244.1.0/24"}]],
        "routes": [{"dst": "10.244.0.0/16"}],
    }
