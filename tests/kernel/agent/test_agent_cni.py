"""Every verb and capability of the plugin, executed as a runtime executes it, against a real agent."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests import builders
from tests.kernel.agent.cluster import DUAL, NETNS, Cluster, Node, Pod, sh
from tests.waiting import until

from percale.cni.conflist import newest_version
from percale.kernel.netns import create_namespace

REFERENCE = Path("/usr/lib/cni")


@pytest.fixture(params=["routed", "bridge"])
def wiring(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return cluster.node(1).start()


class Runtime:
    """Executes a plugin with a container's environment, in the node's namespace."""

    def __init__(self, node: Node, name: str, *, namespace: bool = True) -> None:
        self.node = node
        self.name = name
        if namespace:
            create_namespace(NETNS / name)
            node.cluster.namespaces.append(name)

    def __call__(self, verb: str, *, plugin: Path | None = None, code: int = 0, **configuration: Any) -> Any:
        """The answer as JSON; `configuration` is added to the conflist's."""
        conflist = json.loads((self.node.directory / "net.d" / "10-percale.conflist").read_text())
        base = {"name": conflist["name"], "cniVersion": newest_version(conflist), **conflist["plugins"][0]}
        done = subprocess.run(
            ["nsenter", f"--net={NETNS / self.node.name}", plugin or self.node.directory / "bin" / "percale-cni"],
            input=json.dumps({**base, **configuration}),
            capture_output=True,
            text=True,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "CNI_COMMAND": verb,
                "CNI_CONTAINERID": f"container-{self.name}",
                "CNI_NETNS": str(NETNS / self.name),
                "CNI_IFNAME": "eth0",
                "CNI_PATH": str(REFERENCE),
                "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={self.name}",
            },
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout) if done.stdout else None


def addresses(result: Any) -> list[str]:
    return [entry["address"] for entry in result["ips"]]


def devices(node: Node) -> list[str]:
    """The pods' devices on the node."""
    return [line.split()[0].partition("@")[0] for line in node.ip("-br", "link").splitlines() if line.startswith("pcl")]


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_the_result_is_of_the_version_that_was_asked_for(node: Node, version: str) -> None:
    result = Runtime(node, "p")("ADD", cniVersion=version)
    assert result["cniVersion"] == version
    assert ("version" in result["ips"][0]) == (version < "1.0.0")
    inside = next(each for each in result["interfaces"] if each.get("sandbox"))
    assert inside["name"] == "eth0"
    assert inside["sandbox"] == str(NETNS / "p")


def test_an_unknown_version_is_incompatible(node: Node) -> None:
    assert Runtime(node, "p")("ADD", cniVersion="0.1.0", code=1)["code"] == 1
    assert Runtime(node, "p", namespace=False)("VERSION")["supportedVersions"] == ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]


def test_wrong_configurations_are_one_error_each(node: Node) -> None:
    runtime = Runtime(node, "p")
    answer = runtime("ADD", wiring="tunnel", code=1)
    assert answer["code"] == 7
    assert "wiring" in answer["msg"]
    assert runtime("ADD", runtimeConfig={"ips": ["not an address"]}, code=1)["code"] == 7
    assert runtime("ADD", runtimeConfig={"mac": "ff:ff:ff:ff:ff:ff"}, code=1)["code"] == 7
    assert runtime("ADD", runtimeConfig={"bandwidth": {"ingressRate": -1}}, code=1)["code"] == 7
    assert devices(node) == []


def test_del_works_twice_and_without_its_namespace(node: Node) -> None:
    runtime = Runtime(node, "p")
    first = addresses(runtime("ADD"))
    sh("p", "ip", "link", "show", "eth0")
    runtime("DEL")
    runtime("DEL")
    until(lambda: devices(node) == [])
    again = Runtime(node, "q", namespace=False)
    again("DEL")  # never added, no namespace
    later = Runtime(node, "r")
    assert addresses(later("ADD")) != first  # a released address is used again last


def test_capabilities_ips_and_mac(cluster: Cluster, wiring: str) -> None:
    cluster.network = DUAL
    node = cluster.node(1, ipv6=True)
    node.settings["cni"]["wiring"] = wiring
    node.start()
    subnet = node.status.subnets[0].removesuffix(".0/24")
    wanted = {"ips": [f"{subnet}.77"], "mac": "02:aa:bb:cc:dd:ee"}
    runtime = Runtime(node, "p")
    result = runtime("ADD", runtimeConfig=wanted)
    assert addresses(result)[0].partition("/")[0] == f"{subnet}.77"
    assert len(addresses(result)) == 2  # the other family from the pool
    assert "02:aa:bb:cc:dd:ee" in sh("p", "ip", "link", "show", "eth0")
    taken = Runtime(node, "q")("ADD", runtimeConfig=wanted, code=1)
    assert "default/p" in taken["msg"]
    outside = Runtime(node, "r")("ADD", runtimeConfig={"ips": ["10.99.0.1"]}, code=1)
    assert "10.99.0.1" in outside["msg"]
    for address in (entry.partition("/")[0] for entry in addresses(result)):
        node.sh("ping", "-c1", "-W2", address)


def test_the_annotation_asks_for_an_address(cluster: Cluster) -> None:
    node = cluster.node(1).start()
    subnet = node.subnet.removesuffix(".0/24")
    cluster.write("pod", builders.pod("p", meta={"annotations": {"percale.io/ips": f"{subnet}.99"}}))
    assert addresses(Runtime(node, "p")("ADD"))[0].partition("/")[0] == f"{subnet}.99"


def test_bandwidth_is_two_buckets(node: Node, wiring: str) -> None:
    limits = {"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 4_000_000, "egressBurst": 400_000}
    runtime = Runtime(node, "p")
    runtime("ADD", wiring=wiring, runtimeConfig={"bandwidth": limits})
    (device,) = devices(node)
    assert "tbf" in node.sh("tc", "qdisc", "show", "dev", device)
    assert "rate 8Mbit" in node.sh("tc", "qdisc", "show", "dev", device)
    assert "rate 4Mbit" in node.sh("tc", "qdisc", "show")
    assert "mirred" in node.sh("tc", "filter", "show", "dev", device, "ingress")
    runtime("DEL")
    until(lambda: "tbf" not in node.sh("tc", "qdisc", "show"))


def test_check_names_what_is_missing(node: Node, wiring: str) -> None:
    runtime = Runtime(node, "p")
    result = runtime("ADD", wiring=wiring)
    runtime("CHECK", wiring=wiring, prevResult=result)
    sh("p", "ip", "route", "del", "default")
    answer = runtime("CHECK", wiring=wiring, prevResult=result, code=1)
    assert "route" in answer["msg"] + answer.get("details", "")


def test_gc_removes_what_the_runtime_does_not_know(node: Node) -> None:
    kept, lost = Runtime(node, "kept"), Runtime(node, "lost")
    kept("ADD")
    lost("ADD")
    assert len(devices(node)) == 2
    valid: dict[str, Any] = {"cni.dev/valid-attachments": [{"containerID": "container-kept", "ifname": "eth0"}]}
    kept("GC", **valid)
    until(lambda: len(devices(node)) == 1)
    assert node.status.pods


def test_forged_sources_are_dropped_and_counted(cluster: Cluster, wiring: str) -> None:
    node = cluster.node(1)
    node.settings["cni"]["wiring"] = wiring
    node.start()
    pod, other = node.pod("p"), node.pod("q")
    assert pod.reaches(other.addresses[0])
    forged = other.addresses[0].rpartition(".")[0] + ".200"
    sh("p", "ip", "address", "add", f"{forged}/32", "dev", "eth0")
    sh("p", "ping", "-c2", "-i0.2", "-W1", "-I", forged, other.addresses[0], check=False)
    family = "ip" if wiring == "routed" else "bridge"
    counters = json.loads(node.sh("nft", "-j", "list", "counters", "table", family, "percale"))["nftables"]
    assert next(each["counter"]["packets"] for each in counters if "counter" in each) > 0
    assert pod.reaches(other.addresses[0])


def test_a_bridged_pod_reaches_itself_through_the_hairpin(cluster: Cluster) -> None:
    node = cluster.node(1)
    node.settings["cni"]["wiring"] = "bridge"
    node.start()
    node.pod("p")
    (device,) = devices(node)
    assert "hairpin on" in node.sh("bridge", "-d", "link", "show", "dev", device)
    assert node.ip("-4", "-o", "address", "show", "dev", "cni0").split()[3].endswith(".1/24")


def test_110_adds_at_once_succeed(node: Node) -> None:
    runtimes = [Runtime(node, f"p{number}") for number in range(110)]
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda runtime: runtime("ADD"), runtimes))
        assert len({addresses(result)[0] for result in results}) == 110
        assert len(devices(node)) == 110
        list(pool.map(lambda runtime: runtime("DEL"), runtimes))
    until(lambda: devices(node) == [])


def test_a_full_subnet_says_so(cluster: Cluster) -> None:
    cluster.network = {"Network": "10.244.0.0/24", "SubnetLen": 29}
    node = cluster.node(1).start()
    for number in range(5):
        Runtime(node, f"p{number}")("ADD")
    answer = Runtime(node, "late")("ADD", code=1)
    assert "is full (5 of 5)" in answer["msg"]
    assert len(devices(node)) == 5


def test_without_an_agent_the_runtime_is_asked_to_retry(node: Node) -> None:
    runtime = Runtime(node, "p")
    runtime("STATUS")
    node.stop()
    assert runtime("STATUS", code=1)["code"] == 50
    assert runtime("DEL", code=1)["code"] == 11


def test_del_waits_while_the_agent_restarts(node: Node) -> None:
    pod = node.pod("p")
    node.stop(signal.SIGKILL)
    node.launch()

    def deleted() -> bool:
        began, waiting = time.monotonic(), pod.launch("DEL")
        output = waiting.communicate(timeout=30)[0]
        assert waiting.returncode == 0 or time.monotonic() - began >= 5, output
        return waiting.returncode == 0

    until(deleted)  # as the runtime does, where a busy machine takes longer to start an agent than the plugin waits
    node.wait_ready()
    until(lambda: devices(node) == [])


def test_a_deleted_pod_device_is_restored(node: Node) -> None:
    pod, other = node.pod("p"), node.pod("q")
    device = node.ip("route", "get", pod.addresses[0]).split()[2]
    node.ip("link", "delete", device)
    until(lambda: pod.reaches(other.addresses[0]))


def test_chained_after_another_plugin_the_result_passes_through(node: Node) -> None:
    runtime = Runtime(node, "p")
    ipam = {"type": "host-local", "subnet": "10.99.0.0/24", "dataDir": str(node.directory / "host-local")}
    bridge: dict[str, Any] = {"name": "percale", "type": "bridge", "bridge": "br9", "cniVersion": "1.0.0", "ipam": ipam}
    before = runtime("ADD", plugin=REFERENCE / "bridge", **bridge)
    after = runtime("ADD", cniVersion="1.0.0", prevResult=before)
    assert (after["ips"], after["interfaces"]) == (before["ips"], before["interfaces"])
    runtime("DEL", cniVersion="1.0.0", prevResult=before)
    sh("p", "ip", "link", "show", "eth0")  # the other plugin's to take away


def test_other_plugins_can_follow(node: Node) -> None:
    runtime = Runtime(node, "p")
    result = runtime("ADD", cniVersion="1.0.0")
    limits = {"ingressRate": 1_000_000, "ingressBurst": 1_000_000}
    bandwidth: dict[str, Any] = {
        "type": "bandwidth",
        "cniVersion": "1.0.0",
        "prevResult": result,
        "runtimeConfig": {"bandwidth": limits},
    }
    final = runtime("ADD", plugin=REFERENCE / "bandwidth", **bandwidth)
    assert addresses(final) == addresses(result)
    runtime("DEL", plugin=REFERENCE / "bandwidth", **bandwidth)
    runtime("DEL", cniVersion="1.0.0", prevResult=result)


def test_the_socket_is_for_its_owner_and_refuses_nonsense(node: Node) -> None:
    path = node.directory / "cni.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for nonsense in (
        (1 << 31).to_bytes(4, "big") * 2,
        b"GET / HTTP/1.1\r\n\r\n",
        (4).to_bytes(4, "big") * 2 + b"xxxxyyyy",
    ):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(path))
            client.sendall(nonsense)
            answer = client.recv(65536)
            assert b'"code"' in answer or b'"code"' in client.recv(65536)
    assert Runtime(node, "p")("ADD")["ips"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_is_one_error_and_wires_nothing(cluster: Cluster, small_disk: Path) -> None:
    node = cluster.node(1, stateDir=str(small_disk / "state")).start()
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    answer = Runtime(node, "p")("ADD", code=1)
    assert "No space left" in answer["msg"] + answer.get("details", "")
    until(lambda: devices(node) == [])
    filler.unlink()
    assert Pod(node, "q").add().addresses
