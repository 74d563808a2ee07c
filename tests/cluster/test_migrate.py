"""`percale migrate`: a node goes from flanneld to an agent and back, while its pods' packets are counted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.cluster.cnitool import STATE
from tests.cluster.flannel import PLUGINS, Flannel, World
from tests.cluster.tcp_stream import streaming
from tests.cluster.test_beside_flannel import wait_reached
from tests.kernel.agent.cluster import NETNS, Node, Pod
from tests.waiting import until

WORLDS = ("etcd-ipv4-vxlan", "etcd-dual-vxlan", "etcd-ipv4-host-gw", "kubernetes-ipv4-vxlan")
PORT = {"portMappings": [{"hostPort": 8080, "containerPort": 7007, "protocol": "tcp"}]}


def migrate(node: Node, options: str = "") -> subprocess.CompletedProcess[str]:
    config = ("--config", str(node.write_config()))
    places = ("--cni-state-dir", str(STATE), "--cni-bin-dir", str(PLUGINS))
    return node.percale("migrate", *options.split(), *config, *places)


def migrated(node: Node, options: str) -> list[str]:
    done = migrate(node, options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def prepared(world: World) -> tuple[Flannel, Pod, Pod]:
    """flanneld on n1 and n2, and a pod on each; the agent of n1 is not started."""
    one, two = world.flannel(1), world.flannel(2)
    one.node.settings["cni"]["wiring"] = "bridge"
    pods = []
    for each, name in ((one, "a"), (two, "b")):
        each.install()
        each.start()
        pods.append(each.pod(name))
    wait_reached((pods[0], pods[1]), (pods[1], pods[0]))
    return one, pods[0], pods[1]


@contextmanager
def nothing_lost(a: Pod, b: Pod) -> Iterator[None]:
    """Between the pods, in each family and direction: at most one retransmission."""
    with ExitStack() as stack:
        counts = [
            stack.enter_context(one.pinging(address)) for one, other in ((a, b), (b, a)) for address in other.addresses
        ]
        streams = [stack.enter_context(streaming(a, b, address)) for address in b.addresses]
        yield
    for sent, answered in (each() for each in counts):
        assert sent - answered <= 1, (sent, answered)
    for stream in streams:
        assert stream.failed is None
        assert stream.echoes > 10
        assert stream.retransmissions <= 1, stream


def rules(node: Node) -> str:
    """Those of flannel and of portmap."""
    families = ("iptables-save", "ip6tables-save")
    found = "\n".join(node.sh(program, check=False) for program in families)
    return "\n".join(line for line in found.splitlines() if "FLANNEL" in line or "CNI-" in line)


def files(directory: Path) -> set[str]:
    return {
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file() and path.name != "agent.yaml"
    }


@pytest.mark.parametrize("world", WORLDS, indirect=True)
def test_there_and_back_with_no_packet_lost(world: World) -> None:
    one, a, b = prepared(world)
    node = one.node
    before = world.leases()["192.168.0.1"]
    assert "FLANNEL-POSTRTG" in rules(node)
    assert "FLANNEL-FWD" in rules(node)

    refused = migrate(node, "--from flannel")
    assert refused.returncode == 2
    assert "flanneld runs on this node (pid" in refused.stderr

    with nothing_lost(a, b):
        one.stop()
        known = files(node.directory)
        planned = migrated(node, "--from flannel --dry-run")
        assert files(node.directory) - known <= {"run/agent.pid"}
        assert any(f"take over pod default/a ({' '.join(a.addresses)})" in line for line in planned)
        done = migrated(node, "--from flannel")
        assert done[:-1] == planned[:-1]
        assert done[-1].startswith("done; next: start the agent")
        assert migrated(node, "--from flannel")[:-1] == [], "all is done"
        node.start()
        wait_reached((a, b), (b, a))
        assert any("FLANNEL-POSTRTG" in line for line in migrated(node, "--from flannel"))
    assert rules(node) == ""
    assert migrated(node, "--from flannel") == ["nothing to do; next: nothing"]
    assert world.leases()["192.168.0.1"] == before, "subnet and MAC are those of before"
    status = node.status
    assert status.problems == ()
    assert [each.addresses for each in status.pods] == [a.addresses]
    c = node.pod("c")
    assert not set(c.addresses) & set(a.addresses)
    wait_reached((c, a), (a, c), (c, b), (b, c))
    one.cnitool("del", "a", network="percale")
    assert [each.addresses for each in node.status.pods] == [c.addresses]

    with nothing_lost(c, b):
        node.stop()
        planned = migrated(node, "--to flannel --dry-run")
        assert any(f"give back pod default/c ({' '.join(c.addresses)})" in line for line in planned)
        assert migrated(node, "--to flannel")[:-1] == planned[:-1]
        assert migrated(node, "--to flannel")[:-1] == []
        one.start()
        assert "inet percale" in node.sh("nft", "list", "tables")
        migrated(node, "--to flannel")
        wait_reached((c, b), (b, c))
    assert "percale" not in node.sh("nft", "list", "tables")
    assert migrated(node, "--to flannel") == ["nothing to do; next: nothing"]
    assert world.leases()["192.168.0.1"] == before
    d = one.pod("d")
    assert not set(d.addresses) & set(c.addresses)
    wait_reached((d, c), (c, d), (d, b))


@pytest.mark.parametrize("world", ["etcd-ipv4-vxlan"], indirect=True)
def test_host_ports_and_masquerading_go_on_beside_flannels_rules_and_without_them(world: World) -> None:
    one = world.flannel(1)
    one.node.settings["cni"]["wiring"] = "bridge"
    one.install()
    one.start()
    a, two = one.pod("a", **PORT), world.percale(2)

    def works() -> bool:
        """The switch has no route to pods, and so answers to the node alone."""
        http = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "2", "http://192.168.0.1:8080/")
        return two.sh(*http, check=False) == "200" and a.reaches("192.168.0.254")

    command = ["nsenter", f"--net={NETNS / 'a'}", sys.executable, "-m", "http.server", "7007"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            until(works, "by flannel and portmap")
            one.stop()
            migrated(one.node, "--from flannel")
            assert works(), "by their rules, with no agent"
            one.node.start()
            assert "CNI-HOSTPORT-DNAT" in rules(one.node)
            until(works, "by both")
            assert any("portmap's rules of pod default/a" in line for line in migrated(one.node, "--from flannel"))
            assert "CNI-DN-" not in rules(one.node)
            assert "FLANNEL" not in rules(one.node)
            until(works, "by Percale")
        finally:
            server.kill()
    one.node.stop()
    refused = migrate(one.node, "--to flannel")
    assert "pod default/a has host port 8080, which portmap would not know" in refused.stderr


@pytest.mark.parametrize("world", ["etcd-ipv4-vxlan"], indirect=True)
def test_where_others_drop_what_is_forwarded_flannels_acceptance_stays(world: World) -> None:
    one, a, b = prepared(world)
    one.node.sh("iptables", "-P", "FORWARD", "DROP")
    one.stop()
    migrated(one.node, "--from flannel")
    one.node.start()
    migrated(one.node, "--from flannel")
    assert "FLANNEL-FWD" in rules(one.node)
    assert "FLANNEL-POSTRTG" not in rules(one.node)
    wait_reached((a, b), (b, a))


@pytest.mark.parametrize("world", ["etcd-ipv4-vxlan"], indirect=True)
def test_what_does_not_fit_is_one_error_and_nothing_is_changed(world: World) -> None:
    one, _, _ = prepared(world)
    node = one.node
    one.stop()
    known, devices = files(node.directory), node.ip("-br", "link")

    def refused(said: str) -> None:
        done = migrate(node, "--from flannel")
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert files(node.directory) - known <= {"run/agent.pid"}
        assert node.ip("-br", "link") == devices

    node.settings["cni"]["wiring"] = "routed"
    refused("the bridge cni0 has 1 pod, and the agent's cni.wiring is routed; set cni.wiring to bridge")
    node.settings["cni"]["wiring"] = "bridge"
    subnet_env = one.subnet_file.read_text()
    one.subnet_file.unlink()
    known = files(node.directory)
    refused("subnet.env: no such file")
    one.subnet_file.write_text(subnet_env)
    known = files(node.directory)
    conflist = node.directory / "net.d" / "10-flannel.conflist"
    text = conflist.read_text()
    conflist.write_text(text.replace('"portmap"', '"tuning"'))
    refused("its chain has tuning, which Percale does not take over")
    conflist.write_text(text.replace('"hairpinMode"', '"type": "ipvlan", "hairpinMode"'))
    refused('flannel delegates to "ipvlan" here')
    conflist.write_text(text)
    (entry,) = (STATE / "results").glob(f"{one.network}-*")
    kept = entry.read_text()
    entry.write_text("{")
    refused("not a CNI result of bridge and host-local")
    entry.unlink()
    refused("is on cni0, and no CNI result in /var/lib/cni/results names it")
    entry.write_text(kept)
    node.ip("tuntap", "add", "flannel0", "mode", "tun")
    devices = node.ip("-br", "link")
    refused("flannel's backend here is udp; nodes with vxlan or host-gw are taken over")
    node.ip("link", "delete", "flannel0")
    assert migrated(node, "--from flannel --dry-run")[-1].startswith("planned")
    usage = migrate(node)
    assert (usage.returncode, "either --from flannel or --to flannel" in usage.stderr) == (2, True)
