"""subnet.env beside a running agent, and `percale mk-docker-opts` on the node."""

from __future__ import annotations

from tests.kernel.agent.cluster import DUAL, Cluster
from tests.waiting import until


def test_it_follows_the_node_and_goes_with_cleanup(cluster: Cluster) -> None:
    node = cluster.node(1).start()
    file, gateway = node.directory / "subnet.env", node.subnet.replace(".0/24", ".1/24")
    text = f"FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET={gateway}\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    assert file.read_text() == text
    node.ip("link", "set", "eth0", "mtu", "1400")
    until(lambda: file.read_text() == text.replace("1450", "1350"), "another MTU")
    node.stop()
    assert file.exists(), "docker may start again before the agent does"
    assert f"removed {file}" in node.percale("agent", "--cleanup", "--config", str(node.write_config())).stdout
    assert not file.exists()


def test_both_families_and_what_docker_gets(cluster: Cluster) -> None:
    node = cluster.node(1, ipv6=True, network=DUAL, ipMasq=False).start()
    names = [line.partition("=")[0] for line in (node.directory / "subnet.env").read_text().splitlines()]
    dual = ("FLANNEL_NETWORK", "FLANNEL_SUBNET", "FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET")
    assert names == [*dual, "FLANNEL_MTU", "FLANNEL_IPMASQ"]
    gateway = node.subnet.replace(".0/24", ".1/24")
    output = node.directory / "docker_opts.env"
    command = ("mk-docker-opts", "-c", "-f", str(node.directory / "subnet.env"), "-d", str(output))
    assert node.percale(*command).returncode == 0
    assert output.read_text() == f'DOCKER_OPTS=" --bip={gateway} --ip-masq=true --mtu=1430"\n', "of an IPv6 underlay"

    output.unlink()
    node.ip("route", "add", node.subnet, "via", "192.168.0.254")
    refused = node.percale(*command)
    assert refused.returncode == 2
    assert f"there is a route to this node's subnet: {node.subnet} via 192.168.0.254 dev eth0" in refused.stderr
    assert not output.exists()


def test_a_path_that_cannot_be_written_is_a_problem_and_pods_are_served(cluster: Cluster) -> None:
    node = cluster.node(1, subnetFile="/proc/no/subnet.env").start()
    (problem,) = node.status.problems
    assert "/proc/no/subnet.env: cannot be written" in problem.error
    assert node.pod("a").addresses
