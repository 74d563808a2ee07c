"""`percale support` of a node: what a bug report needs is in the archive, and no secret of the node."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from tests.kernel.agent.cluster import Cluster, Node

PLANTED = ("pl4nted-bgp-password", "pl4nted-etcd-password", "pl4nted-in-the-ruleset", "pl4nted-in-the-log")


@pytest.fixture
def node(cluster: Cluster) -> Node:
    made = cluster.node(1)
    secrets = made.directory / "secrets" / "bgp"
    secrets.mkdir(parents=True)
    (secrets / "password").write_text(f"{PLANTED[0]}\n")
    made.settings["secretsDir"] = str(made.directory / "secrets")
    return made.start()


def written(node: Node, *arguments: str) -> tuple[Path, dict[str, str]]:
    path = node.directory / "support.tar.gz"
    done = node.percale("support", "--config", str(node.write_config()), *arguments, str(path))
    assert done.returncode == 0, done.stderr
    with tarfile.open(path) as archive:
        texts = {}
        for each in archive:
            file = archive.extractfile(each)
            assert file is not None
            texts[each.name] = file.read().decode()
    return path, texts


def test_what_a_bug_report_needs(node: Node) -> None:
    node.pod("a")
    path, texts = written(node)
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(texts["status.json"])["node"] == "n1"
    assert json.loads(texts["doctor.json"])["ok"] > 10
    assert json.loads(texts["config.json"])["node"] == "n1"
    assert "table inet percale" in texts["nft/ruleset.txt"]
    assert "proto 112" in texts["net/routes.txt"]
    assert "alias percale" in texts["net/links.txt"]
    assert "net/ipv4/ip_forward = 1" in texts["net/sysctl.txt"]
    assert "nftables v" in texts["versions.txt"]
    assert "SubnetLease" in texts["leases.json"]
    assert "node.json" in texts["state.txt"]
    assert "InReceives" in texts["net/snmp.txt"]


def test_no_secret_is_in_it(node: Node) -> None:
    node.sh("nft", f'add table ip mine {{ comment "{PLANTED[0]} password={PLANTED[2]}"; }}')
    node.settings["store"] = f"files:{node.cluster.store}"
    node.settings["network"] = {**node.cluster.network, "Backend": {"Type": "vxlan"}}
    _, texts = written(node)
    assert "table ip mine" in texts["nft/ruleset.txt"]
    everything = "\n".join(texts.values())
    assert [each for each in PLANTED if each in everything] == []


def test_a_file_that_is_there_is_kept(node: Node) -> None:
    path, _ = written(node)
    before = path.read_bytes()
    done = node.percale("support", "--config", str(node.write_config()), str(path))
    assert (done.returncode, done.stderr) == (
        2,
        f"percale: {path}: cannot be written: File exists; choose another name\n",
    )
    assert path.read_bytes() == before
