"""Every check of a host: none alarms on a healthy one; each sees what was broken, and what it says to type mends it."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.api_server import write_kubeconfig
from tests.kernel.conftest import Space
from tests.kernel.host_checks import CheckedNode
from tests.kernel.inside import inside
from tests.waiting import until

from percale.agent.pid_file import single_agent
from percale.checks import clock, kernel_features
from percale.checks.registry import NODE
from percale.checks.scratch import Scratch
from percale.errors import KernelError

DUAL = {"Network": "10.244.0.0/16", "IPv6Network": "fd00:10:244::/48", "EnableIPv6": True}
OLD_NFT = """\
#!/bin/sh
[ "$1" = --version ] && echo "nftables v0.7 (Scrooge McDuck)" && exit
echo "Error: syntax error, unexpected comment" >&2
exit 1
"""


@pytest.fixture
def node(new_space: Callable[[], Space], tmp_path: Path) -> CheckedNode:
    return CheckedNode(new_space(), new_space(), tmp_path)


UNCONCERNED = {"ipip", "tun", "wireguard", "bird", "loopback-plugin", "xtables-lock"}
"""Checks of what vxlan does not need, of runtimes and of iptables: none runs here."""


def test_a_healthy_node_is_not_alarmed(node: CheckedNode) -> None:
    found = node.all()
    assert {name for name, each in found.items() if each is None} == {
        "bridge",
        "ipv6",
        "bridge-netfilter",
        "address-ranges",
        *UNCONCERNED,
    }
    wrong = {name: each for name, each in found.items() if each is not None and each.result != "ok" and name != "clock"}
    assert wrong == {}


def test_nor_with_both_families_and_pods_on_a_bridge(node: CheckedNode) -> None:
    node.space.shell("ip addr add fd00:7::1/64 dev eth0 nodad; ip -6 route add default via fd00:7::2")
    node.space.shell("sysctl -qw net.ipv6.conf.all.forwarding=1; sysctl -qw net.bridge.bridge-nf-call-ip6tables=1")
    bridged: dict[str, Any] = {"cni.wiring": "bridge"}
    found = node.all(DUAL, **bridged)
    assert {name for name, each in found.items() if each is None} == UNCONCERNED
    wrong = {name: each for name, each in found.items() if each is not None and each.result != "ok" and name != "clock"}
    assert wrong == {}


def test_nor_beside_a_network_whose_policies_we_enforce(node: CheckedNode) -> None:
    (node.conflists / "10-flannel.conflist").touch()
    with node.process("flanneld"), node.process("kube-proxy"):
        found = node.all(backend="none")
    wrong = {name: each for name, each in found.items() if each is not None and each.result != "ok" and name != "clock"}
    assert wrong == {}
    assert found["vxlan"] is found["tunnel-filter"] is found["kube-proxy"] is None


# The kernel


@pytest.mark.parametrize(("release", "result"), [("5.10.0-21-amd64", "error"), ("5.15.0", "ok"), ("odd", "unknown")])
def test_the_kernel_s_version(node: CheckedNode, release: str, result: str) -> None:
    host = node.host()
    object.__setattr__(host, "release", release)
    assert kernel_features.version(host).result == result


@pytest.mark.parametrize(
    ("name", "module", "settings"),
    [("veth", "veth", {}), ("vxlan", "vxlan", {}), ("bridge", "bridge", {"cni.wiring": "bridge"})],
)
def test_a_kind_of_device_that_the_kernel_has_not(
    node: CheckedNode, name: str, module: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No kernel forgets one for a test: its answer is put in."""
    assert node.look(name, **settings).result == "ok"

    def refused(*_: object) -> None:
        raise KernelError("Operation not supported", errno=errno.EOPNOTSUPP, where=f"ip link add … type {module}")

    monkeypatch.setattr(Scratch, "apply", refused)
    found = node.look(name, **settings)
    assert (found.result, found.type[0]) == ("error", f"modprobe {module}")
    assert found.evidence == f"ip link add … type {module}: Operation not supported"


def test_without_rights_features_are_unknown(node: CheckedNode) -> None:
    code = "from tests.kernel.host_checks import LOOKS; import sys; print(LOOKS[sys.argv[1]](None).result)"
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", code]
    for name in ("veth", "conntrack"):
        done = subprocess.run([*command, name], capture_output=True, text=True, check=False)
        assert done.stdout == "unknown\n", done.stderr


@pytest.mark.parametrize(
    ("says", "result"),
    [
        ("BIRD version 2.0.12", "ok"),
        ("BIRD version 1.6.8", "error"),
        ("BIRD version 3.0.0", "error"),
        ("what?", "error"),
        (None, "error"),
    ],
)
def test_bird_that_is_not_there_or_another(
    node: CheckedNode, says: str | None, result: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bird"
    if says is not None:
        program.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
        program.chmod(0o755)
    monkeypatch.setattr(kernel_features, "find_bird", lambda: str(program) if says is not None else None)
    found = node.look("bird", {"Network": "10.244.0.0/16", "Backend": {"Type": "bgp"}})
    assert found.result == result, found
    assert found.type == (() if result == "ok" else ("apt-get install bird2",))


def test_nft_that_is_not_there_or_too_old(node: CheckedNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert node.look("nftables").evidence.startswith("nftables v")
    path = os.environ["PATH"]
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    found = node.look("nftables")
    assert (found.result, found.type) == ("error", ("apt-get install nftables",))
    old = tmp_path / "bin" / "nft"
    old.write_text(OLD_NFT)
    old.chmod(0o755)
    found = node.look("nftables")
    assert (found.result, found.type[-1]) == ("error", "apt-get install --only-upgrade nftables")
    assert "syntax error" in found.evidence
    monkeypatch.setenv("PATH", path)
    assert node.look("nftables").result == "ok"


def test_ipv6_that_is_off(node: CheckedNode) -> None:
    node.space.shell("sysctl -qw net.ipv6.conf.all.disable_ipv6=1")
    found = node.look("ipv6", DUAL)
    assert found.result == "error"
    node.mend(found)
    assert node.look("ipv6", DUAL).result == "ok"


# Settings


@pytest.mark.parametrize(
    ("check", "line", "arguments"),
    [
        ("forwarding", "sysctl -qw net.ipv4.ip_forward=0", {}),
        ("forwarding", "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0", {"network": DUAL}),
        ("bridge-netfilter", "sysctl -qw net.bridge.bridge-nf-call-iptables=0", {"cni.wiring": "bridge"}),
        ("bridge-netfilter", "sysctl -qw net.bridge.bridge-nf-call-iptables=0", {"backend": "none"}),
        (
            "rp-filter",
            "ip link add eth1 type veth peer name eth2; ip addr add 10.9.9.9/24 dev eth1; ip link set eth1 up;"
            " sysctl -qw net.ipv4.conf.eth0.rp_filter=1",
            {},
        ),
    ],
)
def test_settings_that_are_off(node: CheckedNode, check: str, line: str, arguments: dict[str, Any]) -> None:
    node.space.shell(line)
    found = node.look(check, **arguments)
    assert found.result == "warning", found
    node.mend(found)
    assert node.look(check, **arguments).result == "ok"


def test_strict_reverse_path_filtering_is_fine_with_one_way(node: CheckedNode) -> None:
    node.space.shell("sysctl -qw net.ipv4.conf.all.rp_filter=1")
    found = node.look("rp-filter")
    assert (found.result, found.evidence) == ("ok", "rp_filter of eth0 is 1")


# The interface


def test_no_default_route_no_interface(node: CheckedNode) -> None:
    node.space.shell("ip route del default")
    found = node.look("interface")
    assert found.result == "error"
    assert "there is no IPv4 default route" in found.evidence
    assert any("eth0 (192.168.7.1" in command for command in found.type), found
    assert node.look("interface", iface=("eth0",)).result == "ok"


def test_an_mtu_that_leaves_no_room(node: CheckedNode) -> None:
    node.space.shell("ip link set eth0 mtu 1400")
    assert node.look("mtu").evidence == "eth0 has 1400, pods get 1350"
    found = node.look("mtu", network_of("vxlan", MTU=1450))
    assert (found.result, found.evidence) == ("error", "Backend.MTU is 1450, that of eth0 is 1400")
    node.mend(found)
    assert node.look("mtu", network_of("vxlan", MTU=1450)).result == "ok"
    node.space.shell("ip link set eth0 mtu 600")
    found = node.look("mtu")
    assert found.result == "error"
    node.mend(found)
    assert node.look("mtu").result == "ok"


def network_of(backend: str, **options: Any) -> dict[str, Any]:
    return {"Network": "10.244.0.0/16", "Backend": {"Type": backend, **options}}


@pytest.mark.parametrize(("backend", "overhead"), [("ipip", 20), ("udp", 28), ("wireguard", 80), ("bgp", 0)])
def test_each_backend_leaves_its_own_mtu(node: CheckedNode, backend: str, overhead: int) -> None:
    network = network_of(backend)
    assert node.look("mtu", network).evidence == f"eth0 has 1500, pods get {1500 - overhead}"
    node.space.shell("ip link set eth0 mtu 570")
    found = node.look("mtu", network)
    assert found.result == "error"
    assert found.evidence == f"eth0 has an MTU of 570: {570 - overhead} are left for pods, who need 576"
    node.mend(found)
    assert node.look("mtu", network).result == "ok"


def test_a_backend_s_mtu_that_leaves_no_room(node: CheckedNode) -> None:
    found = node.look("mtu", network_of("wireguard", MTU=600))
    assert found.type == ("ip link set eth0 mtu 1500   # and Backend.MTU 656 in the net-conf.json",)
    assert node.look("mtu", network_of("wireguard", MTU=656)).result == "ok"


@pytest.mark.parametrize(
    ("network", "port"),
    [(network_of("udp"), 8285), (network_of("wireguard"), 51820), (network_of("wireguard", ListenPort=8472), 8472)],
    ids=["udp", "wireguard", "another"],
)
def test_each_backend_has_its_own_port(node: CheckedNode, network: dict[str, Any], port: int) -> None:
    assert node.look("tunnel-port", network).evidence == f"UDP {port} is free"
    taken = inside(node.space, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    taken.bind(("", port))
    assert node.look("tunnel-port", network).evidence == f"a program has UDP {port}"
    node.space.shell("ip tuntap add flannel0 mode tun")  # as the program behind it has the port
    assert node.look("tunnel-port", network).evidence == f"UDP {port} is flannel0's"
    taken.close()
    node.space.shell(f"ip link add other type vxlan id 7 remote 192.168.7.2 dev eth0 dstport {port}")
    assert node.look("tunnel-port", network).evidence == f"the device other has UDP {port}"


def test_a_backend_without_a_tunnel_has_no_port(node: CheckedNode) -> None:
    assert [node.all(network_of(backend))["tunnel-port"] for backend in ("ipip", "host-gw", "bgp")] == [None] * 3


def test_a_port_of_the_tunnel_that_is_taken(node: CheckedNode) -> None:
    node.space.shell("ip link add other type vxlan external dstport 8472")
    found = node.look("tunnel-port")
    assert (found.result, found.evidence) == ("error", "the device other has UDP 8472")
    node.mend(found)
    assert node.look("tunnel-port").result == "ok"
    taken = inside(node.space, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    taken.bind(("", 8472))
    found = node.look("tunnel-port")
    assert (found.result, found.evidence) == ("error", "a program has UDP 8472")
    assert "8472" in node.space.shell(found.type[0])
    taken.close()
    assert node.look("tunnel-port").result == "ok"
    node.space.shell("ip link add flannel.1 type vxlan id 1 dev eth0 dstport 8472 nolearning")
    assert node.look("tunnel-port").evidence == "UDP 8472 is flannel.1's"


# Other tables

FIREWALLD = """
table inet firewalld {{
    chain filter_INPUT {{
        type filter hook input priority filter + 10; policy accept;
        ct state established,related accept
        iifname "lo" accept
        {opened}
        reject with icmpx admin-prohibited
    }}
}}
"""
HAND_WRITTEN = (
    "table inet filter { chain in { type filter hook input priority 0; policy drop; tcp dport 22 accept; }; }"
)
FORWARDING = "table ip mine { chain passing { type filter hook forward priority 0; policy drop; }; }"


def received(node: CheckedNode) -> bool:
    """A real packet from the peer to the tunnel's port."""

    def opened(space: Space) -> socket.socket:
        return inside(space, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    with opened(node.space) as receiver, opened(node.peer) as sender:
        receiver.bind(("", 8472))
        receiver.settimeout(0.3)
        for _ in range(3):
            sender.sendto(b"x", ("192.168.7.1", 8472))
            try:
                return bool(receiver.recv(9))
            except TimeoutError:
                continue
    return False


@pytest.mark.parametrize(
    ("line", "table"),
    [
        (f"echo '{HAND_WRITTEN}' | nft -f -", "inet filter"),
        ("iptables -P INPUT DROP; iptables -A INPUT -p tcp --dport 22 -j ACCEPT", "ip filter"),
        ("iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; iptables -A INPUT -j REJECT", "ip filter"),
    ],
)
def test_a_table_that_drops_the_tunnel_s_packets(node: CheckedNode, line: str, table: str) -> None:
    assert received(node)
    node.space.shell(line)
    assert not received(node), "it is broken"
    found = node.look("tunnel-filter")
    assert (found.result, found.evidence) == ("error", f"table {table} drops UDP 8472")
    node.mend(found)
    assert received(node), "and mended"
    assert node.look("tunnel-filter").result == "ok"


def test_firewalld_is_told_in_its_own_words(node: CheckedNode) -> None:
    node.space.shell(f"echo '{FIREWALLD.format(opened='')}' | nft -f -")
    found = node.look("tunnel-filter")
    assert found.type == ("firewall-cmd --permanent --add-port=8472/udp", "firewall-cmd --reload")
    opened = FIREWALLD.format(opened="udp dport 8472 accept")
    node.space.shell(f"nft delete table inet firewalld; echo '{opened}' | nft -f -")
    assert node.look("tunnel-filter").result == "ok"


@pytest.mark.parametrize(
    ("line", "table"), [("iptables -P FORWARD DROP", "ip filter"), (f"echo '{FORWARDING}' | nft -f -", "ip mine")]
)
def test_a_table_that_drops_pods_packets(node: CheckedNode, line: str, table: str) -> None:
    node.space.shell(line)
    found = node.look("pod-filter")
    assert (found.result, found.evidence) == ("error", f"table {table} drops packets of pods")
    assert all("10.244.0.0/16" in command for command in found.type)
    node.mend(found)
    assert node.look("pod-filter").result == "ok"
    assert node.look("tunnel-filter").result == "ok"


def test_tables_of_ours_and_of_nobody_are_not_looked_at(node: CheckedNode) -> None:
    node.space.shell("nft add table ip percale; nft add table bridge odd")
    assert node.look("tunnel-filter").evidence == "there are no tables of others"


def test_a_table_that_cannot_be_copied_is_unknown(node: CheckedNode) -> None:
    chain = "chain in { type filter hook input priority 0; iif wlan9 accept; }"
    node.space.shell(f"ip link add wlan9 type veth peer name wlan8; echo 'table ip fast {{ {chain}; }}' | nft -f -")
    found = node.look("tunnel-filter")
    assert (found.result, found.evidence) == ("unknown", "not known of: ip fast")


# Others


def test_another_plugin_that_comes_first(node: CheckedNode) -> None:
    for name in ("10-flannel.conflist", "99-loopback.conf", "100-crio-bridge.conflist", "00-notes.txt"):
        (node.conflists / name).touch()
    found = node.look("cni-configuration")
    assert found.result == "error"
    assert found.evidence.startswith("10-flannel.conflist in ")
    node.mend(found)
    assert node.look("cni-configuration").result == "ok"
    assert (node.conflists / "10-flannel.conflist.before-percale").exists(), "nothing is lost"


def test_a_runtime_without_the_plugin_for_loopback(node: CheckedNode) -> None:
    plugins: dict[str, Any] = {"cni.binDir": str(node.directory / "plugins")}
    assert node.all(**plugins)["loopback-plugin"] is None, "no runtime is here"
    with node.process("containerd") as running:
        until(lambda: Path(f"/proc/{running.pid}/comm").read_text().strip() == "containerd", "it runs")
        found = node.look("loopback-plugin", **plugins)
        assert (found.result, "which containerd starts for each pod" in found.evidence) == ("warning", True)
        node.mend(found)
        assert node.look("loopback-plugin", **plugins).result == "ok"
        assert node.all(backend="none")["loopback-plugin"] is None


@pytest.mark.parametrize(
    ("name", "check"), [("flanneld", "networks"), ("calico-node", "networks"), ("kube-proxy", "kube-proxy")]
)
def test_another_agent(node: CheckedNode, name: str, check: str) -> None:
    with node.process(name, node.peer) as elsewhere:
        until(lambda: Path(f"/proc/{elsewhere.pid}/comm").read_text().strip() == name, "it runs")
        assert node.look(check).result == "ok", "it has another network"
    with node.process(name) as running:
        until(lambda: Path(f"/proc/{running.pid}/comm").read_text().strip() == name, "it runs")
        found = node.look(check)
        assert found.result == "error"
        assert f"pid {running.pid}" in found.evidence
        assert found.type[0].startswith("kubectl -n ")
        if check == "kube-proxy":
            assert "services.enabled" in found.type[0]
            off: dict[str, Any] = {"services.enabled": False}
            assert node.all(**off)[check] is None
    assert node.look(check).result == "ok"


def test_a_program_on_the_agent_s_port(node: CheckedNode) -> None:
    taken = inside(node.space, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    taken.bind(("127.0.0.1", 10256))
    taken.listen()
    found = node.look("ports")
    assert (found.result, found.evidence) == ("error", "another program has TCP 10256 (services.healthz)")
    assert "PERCALE_SERVICES_HEALTHZ=none" in found.type[0]
    assert "10256" in node.space.shell(found.type[0])
    without: dict[str, Any] = {"services.healthz": "none"}
    assert node.look("ports", **without).result == "ok"
    with single_agent(node.directory / "run"):
        assert node.look("ports").evidence == f"the agent that runs has them (pid {os.getpid()})"
    taken.close()
    assert node.look("ports").result == "ok"


class _Late(BaseHTTPRequestHandler):
    seconds = 0

    def do_GET(self) -> None:
        self.send_response(403)
        self.end_headers()

    def date_time_string(self, timestamp: float | None = None) -> str:
        import time

        return super().date_time_string(time.time() + self.seconds)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(loopback: None) -> Iterator[str]:
    httpd = HTTPServer(("127.0.0.1", 0), _Late)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


@pytest.mark.parametrize("scheme", ["etcd", "kubernetes"])
def test_a_clock_that_is_not_the_store_s(
    node: CheckedNode, server: str, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = server if scheme == "etcd" else write_kubeconfig(tmp_path, server)
    host = node.host(store=f"{scheme}:{address}")
    assert clock.clock(host).result == "ok"
    for seconds, words in ((3600, "behind"), (-3600, "ahead of")):
        monkeypatch.setattr(_Late, "seconds", seconds)
        found = clock.clock(host)
        assert found.result == "error"
        assert words in found.evidence
        assert found.type == ("timedatectl set-ntp true",)


def test_user_namespaces_that_are_forbidden() -> None:
    """In a user namespace of its own: the limit is one for each."""
    code = (
        "from percale.checks.lab import user_namespaces as look\n"
        "import subprocess\n"
        "from pathlib import Path\n"
        "print(look(None).result)\n"
        "Path('/proc/sys/user/max_user_namespaces').write_text('0')\n"
        "found = look(None)\n"
        "print(found.result, found.evidence)\n"
        "subprocess.run(found.type[0].removeprefix('sudo '), shell=True, check=True, stdout=subprocess.DEVNULL)\n"
        "print(look(None).result)\n"
    )
    done = subprocess.run(["unshare", "-Ur", sys.executable, "-c", code], capture_output=True, text=True, check=False)
    words = "this machine forbids user namespaces: user.max_user_namespaces is 0"
    assert done.stdout.splitlines() == ["ok", f"error {words}", "ok"], done.stderr


def test_each_check_has_a_name_of_its_own_and_says_what_fails() -> None:
    assert len({check.name for check in NODE}) == len(NODE)
    assert all(check.symptom for check in NODE)
