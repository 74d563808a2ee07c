"""The conflist that makes a runtime call us, and flannel's turned into ours."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from percale.cni import conflist
from percale.cni.install import install_plugin
from percale.errors import BadNetworkConfig, StateError

EXAMPLES = Path(__file__).parents[3] / "examples"
FLANNEL = yaml.safe_load((EXAMPLES / "kube-flannel-cfg.yaml").read_text())["data"]["cni-conf.json"]


def runtime(directory: Path, wiring: str = "routed") -> conflist.Runtime:
    settings = SimpleNamespace(
        confDir=str(directory / "net.d"), binDir=str(directory / "bin"), socket="/run/x.sock", wiring=wiring
    )
    return cast("conflist.Runtime", settings)


def test_flannels_chain_becomes_ours_and_the_rest_stays() -> None:
    ours: dict[str, Any] = conflist.from_flannel(FLANNEL, "cni-conf.json")
    assert (ours["name"], ours["cniVersion"]) == ("cbr0", "0.3.1")
    assert [plugin["type"] for plugin in ours["plugins"]] == ["percale-cni", "portmap"]
    assert ours["plugins"][0]["wiring"] == "bridge"
    assert ours["plugins"][1] == {"type": "portmap", "capabilities": {"portMappings": True}}


@pytest.mark.parametrize(
    ("text", "wiring"),
    [
        (FLANNEL, "bridge"),
        ('{"plugins": [{"type": "flannel", "delegate": {"type": "ptp"}}]}', "routed"),
        ('{"type": "flannel"}', "bridge"),
        ('{"plugins": [{"type": "percale-cni"}]}', "routed"),
        ('{"plugins": [{"type": "percale-cni", "wiring": "bridge"}]}', "bridge"),
    ],
)
def test_how_a_cni_conf_wires(text: str, wiring: str) -> None:
    assert conflist.wiring_of(text, "cni-conf.json") == wiring


@pytest.mark.parametrize(
    ("document", "version"),
    [
        ({"cniVersion": "0.3.1"}, "0.3.1"),
        ({"cniVersions": ["0.10.0", "0.9.0"]}, "0.10.0"),
        ({"cniVersion": "1.1.0", "cniVersions": ["1.0.0"]}, "1.1.0"),
        ({}, "0.1.0"),
    ],
)
def test_a_runtime_that_knows_all_versions_takes_the_newest(document: dict[str, Any], version: str) -> None:
    assert conflist.newest_version(document) == version


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cni-conf.json:1: not valid JSON"),
        ("[]", "expected an object with a list of plugins"),
        ('{"plugins": ["flannel"]}', "expected an object with a list of plugins"),
        ('{"plugins": [{"type": "flannel", "delegate": {"type": "macvlan"}}]}', 'delegates to "macvlan"'),
    ],
)
def test_what_is_no_cni_conf(text: str, message: str) -> None:
    with pytest.raises(BadNetworkConfig, match=message):
        conflist.wiring_of(text, "cni-conf.json")


def test_install_and_uninstall_leave_the_directories(tmp_path: Path) -> None:
    place = runtime(tmp_path)
    conflist.install(place)
    document = json.loads((tmp_path / "net.d" / "10-percale.conflist").read_text())
    # What a runtime without "cniVersions" reads, and what one with it chooses; containerd 1.6 refuses a newer one.
    assert document["cniVersion"] == "1.0.0"
    assert conflist.newest_version(document) == "1.1.0"
    assert document["plugins"][0]["capabilities"] == {
        "ips": True,
        "mac": True,
        "bandwidth": True,
        "io.kubernetes.cri.pod-annotations": True,
        "portMappings": True,
    }
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["10-percale.conflist", "percale-cni"]
    assert len(conflist.uninstall(place)) == 2
    assert conflist.uninstall(place) == []
    assert (tmp_path / "net.d").is_dir()


def test_an_equal_plugin_is_left_alone(tmp_path: Path) -> None:
    path = install_plugin(tmp_path, "/run/x.sock")
    before = path.stat().st_ino
    assert install_plugin(tmp_path, "/run/x.sock").stat().st_ino == before
    assert install_plugin(tmp_path, "/run/y.sock").stat().st_ino != before


def test_a_socket_whose_path_is_too_long_is_one_error(tmp_path: Path) -> None:
    assert install_plugin(tmp_path, "/" + "x" * 106).exists()
    with pytest.raises(StateError, match="at most 107 bytes"):
        install_plugin(tmp_path, "/" + "x" * 107)


def test_a_percale_without_the_plugin_says_what_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("percale.cni.install.BINARY", tmp_path / "none")
    with pytest.raises(StateError, match=r"without its CNI plugin.*install a C compiler"):
        install_plugin(tmp_path / "bin", "/run/x.sock")


def test_a_directory_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "bin").write_text("")
    with pytest.raises(StateError, match="the CNI plugin cannot be installed"):
        install_plugin(tmp_path / "bin", "/run/x.sock")
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]
