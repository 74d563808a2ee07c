"""The agent's own life: start, end, restart, a second one, what it says, what it leaves, what it takes along."""

from __future__ import annotations

import json
import signal
import socket
import subprocess

import pytest
from tests.kernel.agent.cluster import Cluster
from tests.waiting import until

from percale.kernel import syscalls


def test_pods_of_two_nodes_reach_each_other(cluster: Cluster) -> None:
    a, b = cluster.two_pods()
    one = a.node
    assert b.reaches(a.addresses[0])
    status = one.status
    assert [(peer.node, peer.problem) for peer in status.peers] == [("n2", None)]
    assert [(pod.pod, pod.addresses) for pod in status.pods] == [("default/a", a.addresses)]
    assert (status.backend, status.mtu, status.interface) == ("vxlan", 1450, "eth0")
    assert (status.addresses[0].used, status.addresses[0].free) == (1, 252)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_disturbs_no_packet_and_forgets_no_pod(cluster: Cluster, number: signal.Signals) -> None:
    a, b = cluster.two_pods()
    one = a.node
    with a.pinging(b.addresses[0]) as counts:
        assert one.stop(number) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        one.start()
    assert counts.lost <= 1
    assert counts.answered > 20
    assert [pod.pod for pod in one.status.pods] == ["default/a"]
    assert one.pod("c").addresses != a.addresses


def test_a_second_agent_is_refused_with_the_pid_of_the_first(cluster: Cluster) -> None:
    one = cluster.node(1).start()
    assert one.process is not None
    second = one.percale("agent", "--config", str(one.directory / "agent.yaml"))
    assert second.returncode == 2
    pid = one.process.pid
    where = f"{one.directory}/run/agent.pid"
    assert second.stderr == (
        f"percale: {where}: another agent already serves this node (pid {pid}); stop it first: kill {pid}\n"
    )
    assert one.status.ready


def test_systemd_is_notified_when_the_conflist_is_installed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    one = cluster.node(1)
    path = cluster.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(15)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        one.launch()
        lines = receiver.recv(1000).decode().splitlines()
        assert lines == ["READY=1", "STATUS=10.244.1.0/24, 0 peers, 0 pods"]
        assert [path.name for path in (one.directory / "net.d").iterdir()] == ["10-percale.conflist"]
        one.stop()
        assert receiver.recv(1000) == b"STOPPING=1"
    assert (one.directory / "net.d" / "10-percale.conflist").exists(), "pods are asked for again when the agent is back"


def test_an_unwritable_state_directory_is_reported_at_the_start(cluster: Cluster) -> None:
    one = cluster.node(1)
    state = one.directory / "state"
    state.mkdir()
    syscalls.mount("tmpfs", str(state), "tmpfs", syscalls.MS_RDONLY)
    try:
        ended = one.percale("agent", "--config", str(one.write_config()))
    finally:
        syscalls.umount(str(state))
    assert ended.returncode == 2
    assert "Read-only file system; choose another directory with --state-dir" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(cluster.store.iterdir()), "no subnet was claimed"


def test_a_socket_path_that_is_too_long_is_reported_at_the_start(cluster: Cluster) -> None:
    node = cluster.node(1)
    node.settings["cni"]["socket"] = f"{node.directory}/{'s' * 120}"
    node.launch()
    assert node.process is not None
    assert node.process.wait(30) == 2
    assert "cannot listen: a socket's path has at most 107 bytes" in node.log.splitlines()[-1]


def test_a_full_disk_is_reported_at_the_start(cluster: Cluster) -> None:
    one = cluster.node(1)
    state = one.directory / "state"
    state.mkdir()
    syscalls.mount("tmpfs", str(state), "tmpfs", options="size=4096")
    try:
        (state / "filler").write_bytes(b"x" * 4096)
        ended = one.percale("agent", "--config", str(one.write_config()))
        assert [path.name for path in state.iterdir()] == ["filler"]
    finally:
        syscalls.umount(str(state))
    assert ended.returncode == 2
    assert "No space left on device" in ended.stderr


def test_a_stale_state_file_of_another_network_is_no_obstacle(cluster: Cluster) -> None:
    one = cluster.node(1).start()
    one.stop()
    one.settings["network"] = {"Network": "10.99.0.0/16"}
    one.start()
    assert one.subnet == "10.99.1.0/24"
    assert one.pod("a").addresses[0].startswith("10.99.1.")


def test_pods_outside_the_nodes_subnet_are_reported(cluster: Cluster) -> None:
    one = cluster.node(1).start()
    old = one.pod("old")
    one.stop()
    one.settings["network"] = {"Network": "10.99.0.0/16"}
    one.start()
    (problem,) = one.status.problems
    assert problem.error == (
        "pod default/old has an address of another network than the node's, where no peer reaches it; "
        "delete and recreate the pod"
    )
    old.cni("DEL")
    until(lambda: not one.status.problems)


def test_a_pod_network_with_the_nodes_own_address_is_reported(cluster: Cluster) -> None:
    cluster.network = {"Network": "192.168.0.0/16"}
    one = cluster.node(1).start()
    words = "the pod network 192.168.0.0/16 holds this node's own address 192.168.0.1"
    until(lambda: [each.error.startswith(words) for each in one.status.problems] == [True])


def test_stale_objects_of_peers_that_left_meanwhile_are_collected(cluster: Cluster) -> None:
    one, two = cluster.node(1).start(), cluster.node(2).start()
    until(lambda: "10.244.2.0" in one.ip("route"))
    one.stop()
    two.stop()
    assert two.percale("agent", "--cleanup", "--config", str(two.directory / "agent.yaml")).returncode == 0
    assert "10.244.2.0" in one.ip("route"), "nobody was there to see it"
    one.start()
    until(lambda: "10.244.2.0" not in one.ip("route"))
    assert one.sh("bridge", "fdb", "show", "dev", "flannel.1").count("dst 192.168.0.2") == 0


def test_the_backend_is_switched_at_a_restart(cluster: Cluster) -> None:
    a, b = cluster.two_pods()
    one, two = a.node, b.node
    for node in (one, two):
        node.stop()
        node.settings["network"] = {"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}}
    one.start()
    until(lambda: one.status.peers[0].problem)
    assert "vxlan" in (one.status.peers[0].problem or "")
    two.start()
    until(lambda: a.reaches(b.addresses[0]))
    assert "10.244.2.0/24 via 192.168.0.2 dev eth0" in one.ip("route")
    assert "flannel.1" not in one.ip("link")
    assert one.subnet == "10.244.1.0/24"


def test_cleanup_takes_what_is_ours_and_nothing_else(cluster: Cluster) -> None:
    one = cluster.node(1)
    one.ip("link", "add", "foreign0", "type", "bridge")
    one.ip("route", "add", "10.77.0.0/16", "via", "192.168.0.254")
    one.ip("neighbour", "add", "192.168.0.77", "lladdr", "02:00:00:00:00:77", "dev", "eth0")
    one.sh("nft", "add table ip foreign")
    links, routes, neighbours = (one.ip("-br", kind) for kind in ("link", "route", "neighbour"))
    tables = one.sh("nft", "list", "ruleset")
    one.start()
    cluster.node(2).start()
    one.pod("a")
    until(lambda: "10.244.2.0" in one.ip("route"))
    (one.directory / "state" / "foreign").touch()
    (one.directory / "net.d" / "99-foreign.conflist").touch()
    arguments = ("agent", "--cleanup", "--config", str(one.directory / "agent.yaml"))
    refused = one.percale(*arguments)
    assert (refused.returncode, "another agent already serves this node" in refused.stderr) == (2, True)
    one.stop()
    done = one.percale(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    for line in (
        "gave back 10.244.1.0-24",
        "ip link delete flannel.1",
        "nft 'delete table ip percale'",
        "10-percale.conflist",
    ):
        assert line in done.stdout
    assert _names(one.ip("-br", "link")) == _names(links)
    assert one.ip("-br", "route") == routes
    assert "192.168.0.77 dev eth0 lladdr 02:00:00:00:00:77 PERMANENT" in one.ip("neighbour") + neighbours
    assert one.sh("nft", "list", "ruleset") == tables
    assert [path.name for path in (one.directory / "state").iterdir()] == ["foreign"]
    assert [path.name for path in (one.directory / "net.d").iterdir()] == ["99-foreign.conflist"]
    again = one.percale(*arguments)
    assert (again.returncode, again.stdout) == (0, "")


def _names(brief: str) -> list[str]:
    return [line.split()[0] for line in brief.splitlines()]


def test_verbose_prints_each_change_as_a_command_line_first(cluster: Cluster) -> None:
    one = cluster.node(1).start("-v")
    lines = [line for line in one.log.splitlines() if line.startswith("+ ")]
    assert any(line.startswith("+ ip link add flannel.1 ") and " type vxlan id 1 " in line for line in lines)
    assert any(line.startswith("+ nft ") for line in lines)


def test_health_over_tcp_and_the_status_command(cluster: Cluster) -> None:
    one = cluster.node(1, http="127.0.0.1:9099")
    process = one.launch().process
    until(lambda: "ready" in one.log, one.log)
    code = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9099/readyz').status)"
    until(lambda: one.sh("python3", "-c", code, check=False) == "200\n")
    shown = one.percale("status")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "n1, ready" in shown.stdout and "subnet 10.244.1.0/24" in shown.stdout
    document = json.loads(one.percale("status", "-o", "json").stdout)
    assert process is not None
    assert (document["node"], document["ready"], document["pid"]) == ("n1", True, process.pid)
    one.stop()
    gone = one.percale("status")
    assert gone.returncode == 2
    assert gone.stderr == (
        "percale: 127.0.0.1:9099: no agent answers: Connection refused; "
        "start one with percale agent, or name its address with --http\n"
    )


def test_the_log_is_one_line_for_each_thing(cluster: Cluster) -> None:
    one = cluster.node(1, logFormat="json").start()
    events = [json.loads(line)["event"] for line in one.log.splitlines()]
    assert events == ["starting", "subnet claimed", "peers known", "ready"]
    one.stop()
    assert json.loads(one.log.splitlines()[-1])["event"] == "stopping"


def test_the_agent_works_in_a_user_namespace(cluster: Cluster) -> None:
    """Without root: own user, network and mount namespace, an underlay of its own."""
    script = """
set -e
mount -t tmpfs none /run
ip link set lo up
ip link add eth0 type veth peer name other
ip address add 192.168.0.1/24 dev eth0
ip link set eth0 up
ip link set other up
ip route add default via 192.168.0.254
exec "$@"
"""
    one = cluster.node(1)
    command = [
        "unshare",
        "-Urnm",
        "sh",
        "-c",
        script,
        "sh",
        *one.command("agent", "--config", str(one.write_config()))[2:],
    ]
    with (one.directory / "log").open("ab") as log:
        one.process = subprocess.Popen(command, stdout=log, stderr=log)
    one.wait_ready()
    assert one.status.interface == "eth0"
    assert one.stop() == 0
