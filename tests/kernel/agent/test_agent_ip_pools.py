"""Addresses of IP pools: claimed by nodes in blocks, routed between them, and given back. Real agents, real packets."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from tests.kernel.agent.cluster import DUAL, Cluster, Node, Pod
from tests.kernel.agent.test_agent_bgp import calico
from tests.waiting import until

NETWORK = {**DUAL, "SubnetMax": "10.244.127.0", "IPv6SubnetMax": "fd00:244:0:7fff::"}
BLUE, BLUE6, RED = "10.244.128.0/24", "fd00:244:0:8000::/112", "10.244.200.0/28"
BACKENDS = ("vxlan", "host-gw", "bgp")


def pool(name: str, cidr: str, **spec: Any) -> dict[str, Any]:
    return calico("IPPool", name, cidr=cidr, natOutgoing=True, **spec)


def of(pod: Pod, cidr: str) -> bool:
    """The pod has an address of this network."""
    return any(ip_address(each) in ip_network(cidr) for each in pod.addresses)


def annotated(cluster: Cluster, node: Node, name: str, **annotations: str) -> Pod:
    """A pod whose object has Calico's annotations."""
    metadata = {
        "name": name,
        "namespace": "default",
        "annotations": {f"cni.projectcalico.org/{key}": text for key, text in annotations.items()},
    }
    spec = {"nodeName": node.name, "containers": [{"name": "c", "image": "none"}]}
    cluster.write(f"pod-{name}", {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    return node.pod(name)


@pytest.fixture(params=BACKENDS)
def nodes(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[list[Node]]:
    cluster.network = {**NETWORK, "Backend": {"Type": request.param}}
    made = [cluster.node(number, ipv6=True, ipPools=True) for number in (1, 2)]
    cluster.write("pools", pool("blue", BLUE, blockSize=28), pool("blue6", BLUE6, blockSize=124))
    for node in made:
        node.launch()
    for node in made:
        node.wait_ready()
    yield made


def test_pods_of_pools_reach_each_other(nodes: list[Node], cluster: Cluster) -> None:
    one, two = nodes
    a, b = one.pod("a"), two.pod("b")
    assert of(a, BLUE)
    assert of(a, BLUE6)
    assert of(b, BLUE)
    for source, target in ((a, b), (b, a)):
        for address in target.addresses:
            until(lambda source=source, address=address: source.reaches(address), f"{source.name} reaches {address}")  # type: ignore[misc]
    # The 14 others of the block, and one of the next.
    more = [one.pod(f"a{number}") for number in range(16)]
    assert len({each.addresses for each in more}) == 16
    assert all(of(each, BLUE) for each in more)
    until(lambda: all(map(b.reaches, more[-1].addresses)))
    assert one.status.problems == ()
    blocks = [each.subnet for each in one.status.addresses if ip_network(each.subnet).prefixlen == 28]
    assert len(blocks) == 2
    one.stop()
    one.start()
    assert all(b.reaches(address) for address in (*a.addresses, *more[-1].addresses))
    assert of(one.pod("later"), BLUE)


def test_pods_name_pools_and_addresses(nodes: list[Node], cluster: Cluster) -> None:
    one, two = nodes
    cluster.write("reserved", calico("IPReservation", "first", reservedCIDRs=["10.244.200.0/29"]))
    # The last one is told as a problem: then all are known.
    red_pool = pool("red", RED, blockSize=29, nodeSelector="!all()")
    cluster.write("red", red_pool, pool("unusable", "192.0.2.0/24"))
    until(lambda: all("IPPool unusable" in str(node.status.problems) for node in nodes))

    def red(name: str) -> Pod:
        return annotated(cluster, one, name, ipv4pools='["red"]')

    a = red("a")
    assert of(a, RED)
    assert not of(a, "10.244.200.0/29"), "an address that is reserved"
    assert of(one.pod("plain"), BLUE), "a pool that does not select the node is for pods that name it"
    wanted = annotated(cluster, two, "wanted", ipAddrs='["10.244.128.77"]')
    assert wanted.addresses[0] == "10.244.128.77"
    until(lambda: a.reaches("10.244.128.77"))
    with pytest.raises(AssertionError, match=r"block 10\.244\.128\.64/28 is node n2's"):
        annotated(cluster, one, "thief", ipAddrs='["10.244.128.78"]')
    with pytest.raises(AssertionError, match="no IP pool green"):
        annotated(cluster, one, "lost", ipv4pools='["green"]')


def test_a_disabled_pool_that_is_in_use(nodes: list[Node], cluster: Cluster) -> None:
    """Its pods stay; new ones have an address of the node's subnet."""
    one, two = nodes
    a, b = one.pod("a"), two.pod("b")
    until(lambda: all(map(a.reaches, b.addresses)))
    cluster.write("pools", pool("blue", BLUE, blockSize=28, disabled=True))

    def next_pod() -> bool:
        pod = one.pod(f"pod{len(cluster.namespaces)}")
        return of(pod, one.status.subnets[0]) and of(pod, one.status.subnets[1])

    until(next_pod)
    assert all(a.reaches(address) for address in b.addresses)
    one.stop()
    one.start()
    assert all(a.reaches(address) for address in b.addresses)


@pytest.mark.parametrize("nodes", ["vxlan"], indirect=True)
def test_a_pod_that_names_an_address_takes_no_pool_from_others(nodes: list[Node], cluster: Cluster) -> None:
    """Neither one that gives pods no addresses, a load balancer's for example, nor by one block after the other."""
    one, _ = nodes
    closed = pool("old", "10.244.201.0/24", disabled=True), pool("vips", "10.244.202.0/24", allowedUses=["Tunnel"])
    cluster.write("closed", *closed, pool("small", "10.244.203.0/24", blockSize=29), pool("unusable", "192.0.2.0/24"))
    until(lambda: "IPPool unusable" in str(one.status.problems))
    for name, address in (("old", "10.244.201.5"), ("vips", "10.244.202.5")):
        with pytest.raises(AssertionError, match=f"IP pool {name} is disabled, or not for workloads"):
            annotated(cluster, one, f"in-{name}", ipAddrs=f'["{address}"]')

    def asking_for(block: int) -> None:
        annotated(cluster, one, f"pod{block}", ipAddrs=f'["10.244.203.{8 * block + 3}"]').cni("DEL")

    with pytest.raises(AssertionError, match="this node has 8 blocks of IP pools without a pod already"):
        for block in range(32):
            asking_for(block)
    assert of(annotated(cluster, one, "other", ipv4pools='["small"]'), "10.244.203.0/24")


def test_a_block_that_somebody_deletes_is_there_again(nodes: list[Node], cluster: Cluster) -> None:
    one, two = nodes
    a, b = one.pod("a"), two.pod("b")
    until(lambda: a.reaches(b.addresses[0]))
    done = two.percale("get", "addressblocks", "--store", f"files:{cluster.store}", "-o", "name")
    names = [line.partition("/")[2] for line in done.stdout.split()]
    assert len(names) == 4, done
    done = two.percale("delete", "addressblocks", *names, "--store", f"files:{cluster.store}")
    assert done.returncode == 0, done.stderr

    def there() -> bool:
        listed = two.percale("get", "addressblocks", "--store", f"files:{cluster.store}", "-o", "name").stdout
        return all(name in listed for name in names)

    until(there)
    until(lambda: all(a.reaches(address) for address in b.addresses))


def test_what_is_used_is_shown_and_a_block_of_a_node_that_is_gone_is_given_back(
    nodes: list[Node], cluster: Cluster
) -> None:
    one, two = nodes
    store = f"files:{cluster.store}"
    one.pod("a"), two.pod("b")
    shown = one.percale("ipam", "show", "--show-blocks", "--store", store).stdout.splitlines()
    assert [line.split()[:3] for line in shown if "IP Pool" in line] == [
        ["IP", "Pool", "blue"],
        ["IP", "Pool", "blue6"],
    ]
    assert sum(line.startswith("Block") for line in shown) == 4
    assert one.percale("ipam", "check", "--store", store).returncode == 0
    two.stop()
    done = two.percale("agent", "--cleanup", "--config", str(two.write_config()))
    assert "gave back 10.244.128." in done.stdout
    shown = one.percale("ipam", "show", "--show-blocks", "--store", store).stdout.splitlines()
    assert sum(line.startswith("Block") for line in shown) == 2
    one.stop()
    lease = one.percale("get", "subnetleases", "--store", store, "-o", "name").stdout.strip().partition("/")[2]
    assert one.percale("delete", "subnetleases", lease, "--store", store).returncode == 0
    checked = one.percale("ipam", "check", "--store", store)
    assert checked.returncode == 1
    commands = [line.partition("type: percale ")[2] for line in checked.stdout.splitlines()]
    assert len(commands) == 2
    for command in commands:
        assert one.percale(*command.split(), "--store", store).returncode == 0
    assert one.percale("ipam", "check", "--store", store).returncode == 0
