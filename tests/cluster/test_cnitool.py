"""The conflist and the plugin by libcni's own tool: what every runtime does, with the cache and the versions of real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.cnitool import STATE, cnitool
from tests.kernel.agent.cluster import Cluster, Node, sh
from tests.waiting import until

PORT = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]


class Runtime:
    """libcni on a node; `code` is its exit code, and what it says is checked by the test."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.conflist = node.directory / "net.d" / "10-percale.conflist"

    def __call__(self, verb: str, pod: str, *, code: int = 0, **capabilities: Any) -> str:
        plugins = [Path(self.node.settings["cni"]["binDir"])]
        done = cnitool(self.node, verb, self.network, pod, plugins, capabilities)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def network(self) -> str:
        return str(json.loads(self.conflist.read_text())["name"])

    def add(self, pod: str, **capabilities: Any) -> dict[str, Any]:
        """The plugin's result, in the pod's new namespace."""
        self.node.cluster.namespace(pod)
        return dict(json.loads(self("add", pod, **capabilities)))

    def wait_devices(self, count: int) -> None:
        """Of pods, on the node; a DEL does not wait for the kernel."""
        until(lambda: self.node.ip("-br", "link").count("pcl") == count, f"{count} devices of pods")


@pytest.fixture
def runtime(cluster: Cluster, cni_state: None) -> Runtime:
    return Runtime(cluster.node(1).start())


def test_a_pod_is_added_checked_and_deleted(runtime: Runtime) -> None:
    result = runtime.add("a", portMappings=PORT)
    (address,) = (each["address"].partition("/")[0] for each in result["ips"])
    assert address in sh("a", "ip", "address", "show", "dev", "eth0")
    runtime("status", "a")
    runtime("check", "a", portMappings=PORT)
    runtime("del", "a", portMappings=PORT)
    runtime.wait_devices(0)
    runtime("del", "a", portMappings=PORT)  # as a runtime does that lost the answer


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_each_version_of_the_specification(runtime: Runtime, version: str) -> None:
    conflist = json.loads(runtime.conflist.read_text())
    conflist.pop("cniVersions", None)
    (runtime.conflist.parent / "09-older.conflist").write_text(
        json.dumps({**conflist, "name": "older", "cniVersion": version})
    )
    runtime.conflist = runtime.conflist.parent / "09-older.conflist"
    result = runtime.add("a")
    assert result["cniVersion"] == version
    assert [each.get("version") for each in result["ips"]] == (["4"] if version < "1" else [None])
    runtime("check", "a", code=int(version < "0.4"))
    runtime("del", "a")
    runtime.wait_devices(0)


def test_check_names_what_is_wrong(runtime: Runtime) -> None:
    runtime.add("a")
    sh("a", "ip", "route", "del", "default")
    assert "default" in runtime("check", "a", code=1)


def test_a_collection_without_a_list_of_the_valid_ones_deletes_only_what_libcni_knows(runtime: Runtime) -> None:
    runtime.add("a")
    runtime.add("forgotten")
    (kept,) = (path for path in (STATE / "results").iterdir() if "forgotten" in path.read_text())
    kept.unlink()
    runtime.wait_devices(2)
    assert "GC needs cni.dev/valid-attachments" in runtime("gc", "a", code=1)  # cnitool has no option for one
    runtime.wait_devices(1)


def test_without_an_agent_the_node_is_not_ready(runtime: Runtime) -> None:
    runtime.node.stop()
    assert "the percale agent does not answer on this node" in runtime("status", "a", code=1)
    runtime.node.cluster.namespace("a")
    assert "the percale agent does not answer on this node" in runtime("add", "a", code=1)
    runtime.node.start()
    runtime("status", "a")
    assert json.loads(runtime("add", "a"))["ips"]
