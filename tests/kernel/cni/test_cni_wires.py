"""What a pod's wires carry, and what they do not: real packets in both wirings and both families."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from tests.kernel.cni.conftest import Node, Pod, Refused
from tests.kernel.inside import inside
from tests.waiting import until

NewPod = Callable[[str], Pod]


def test_pods_reach_each_other_and_the_node(node: Node, new_pod: NewPod, wiring: str) -> None:
    node.start()
    one, two = new_pod("one").add(), new_pod("two").add()
    assert one.is_wired()
    assert two.is_wired()
    assert one.reaches(*two.addresses)
    assert one.reaches("127.0.0.1", "::1", *one.addresses)


def test_the_first_packet_to_a_pod_arrives(node: Node, new_pod: NewPod) -> None:
    """The kernel delivers to a new IPv6 address only when a work queue has had its turn: the ADD waits for it."""
    node.start()
    for number in range(10):
        pod = new_pod(f"p{number}")
        with inside(pod.space.path, datagrams) as receiver, inside(node.space.path, datagrams) as sender:
            receiver.bind(("::", 5000))
            receiver.settimeout(1)
            sender.sendto(b"first", (pod.add().addresses[1], 5000))
            assert receiver.recv(16) == b"first"


def datagrams() -> socket.socket:
    return socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)


def test_no_pod_has_the_mac_of_another_or_of_the_bridge(node: Node, new_pod: NewPod) -> None:
    """A bridge sends a MAC's frames to the port that it last heard it from, and a tenant chooses its pod's MAC."""
    node.wiring = "bridge"
    node.start()
    victim, thief = new_pod("victim").add(runtimeConfig={"mac": "02:AA:BB:CC:DD:EE"}), new_pod("thief")
    bridge = json.loads(node.space.run("ip", "-j", "link", "show", "cni0"))[0]["address"]
    node.stop()
    node.start()
    for mac in ("02:aa:bb:cc:dd:ee", bridge):
        with pytest.raises(Refused, match=f"MAC {mac} is in use on bridge cni0; choose another, or none"):
            thief.add(runtimeConfig={"mac": mac})
    until(lambda: len(node.devices()) == 1)
    victim.add(runtimeConfig={"mac": "02:aa:bb:cc:dd:ee"})
    assert victim.is_wired()
    victim.cni("DEL")
    assert thief.add(runtimeConfig={"mac": "02:aa:bb:cc:dd:ee"}).is_wired()


def test_a_routed_pair_needs_no_arp(node: Node, new_pod: NewPod) -> None:
    node.start()
    pod = new_pod("p").add()
    (device,) = node.devices()
    assert pod.is_wired()
    there = (
        pod.space.run("ip", "-4", "neighbour", "show", "dev", "eth0"),
        node.space.run("ip", "-4", "neighbour", "show", "dev", device),
    )
    assert [lines.count("PERMANENT") for lines in there] == [1, 1] == [lines.count("\n") for lines in there]
    assert node.space.run("ip", "-4", "address", "show", "dev", device) == ""


def spoofed(node: Node) -> int:
    counters: list[Any] = json.loads(node.space.run("nft", "-j", "list", "counters"))["nftables"]
    return sum(each["counter"]["packets"] for each in counters if "counter" in each)


@pytest.mark.parametrize(("family", "forged"), [(0, "10.244.1.200"), (1, "fd00:244:1::c8"), (0, "192.0.2.77")])
def test_a_forged_source_gets_nowhere(node: Node, new_pod: NewPod, wiring: str, family: int, forged: str) -> None:
    node.start()
    pod, other = new_pod("p").add(), new_pod("other").add()
    address = f"{forged}/{128 if family else 32} dev eth0"
    pod.space.shell(f"ip address add {address}{' nodad' if family else ''}")
    for target in (other.addresses[family], ("192.0.2.1", "fd00:99::1")[family]):
        before = spoofed(node)
        pod.space.run("ping", "-c2", "-i0.1", "-W1", "-I", forged, target, check=False)
        assert spoofed(node) >= before + (2 if wiring == "routed" else 1)  # on a bridge ARP is asked for once
    pod.space.shell(f"ip address del {address}")  # or the pod itself may choose it as its source
    # A packet that joins a resolution whose last question was forged and dropped fails with it; the next one asks again.
    until(lambda: pod.reaches(*other.addresses, "192.0.2.1", "fd00:99::1"), "an honest packet gets through")


_RECEIVE_BUFFER, _SEND_BUFFER = 33, 32
"""SO_RCVBUFFORCE and SO_SNDBUFFORCE: nothing but the shaper shall lose a datagram."""


def delivered(sender: Pod, receiver: Pod, count: int) -> int:
    """So many datagrams of 1,000 bytes as fast as they go; how many of them came."""

    def endpoint(option: int) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, option, 1 << 24)
        return made

    with (
        inside(receiver.space.path, lambda: endpoint(_RECEIVE_BUFFER)) as sink,
        inside(sender.space.path, lambda: endpoint(_SEND_BUFFER)) as source,
    ):
        sink.bind((receiver.addresses[0], 9))
        for _ in range(count):
            source.sendto(b"x" * 1000, (receiver.addresses[0], 9))
        sink.settimeout(0.5)
        arrived = 0
        with suppress(TimeoutError):
            while sink.recv(2000):
                arrived += 1
    return arrived


LIMIT, BURST = 800_000, 800_000
"""100 packets of 1,000 bytes at once, then as many a second."""


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_a_limit_limits_its_direction_and_no_other(node: Node, new_pod: NewPod, wiring: str, direction: str) -> None:
    node.start()
    limit = {f"{direction}Rate": LIMIT, f"{direction}Burst": BURST}
    limited, free = new_pod("limited").add(runtimeConfig={"bandwidth": limit}), new_pod("free").add()
    to_pod, from_pod = delivered(free, limited, 1000), delivered(limited, free, 1000)
    held, other = (to_pod, from_pod) if direction == "ingress" else (from_pod, to_pod)
    assert 80 <= held <= 400
    assert other == 1000
    assert limited.is_wired()


def test_110_adds_at_once_and_110_dels(node: Node, new_pod: NewPod, wiring: str) -> None:
    node.start()
    pods = [new_pod(f"p{number}") for number in range(110)]
    with ThreadPoolExecutor(110) as threads:
        list(threads.map(Pod.add, pods))
        assert len({address for pod in pods for address in pod.addresses}) == 220
        assert pods[0].reaches(*pods[-1].addresses)
        list(threads.map(lambda pod: pod.cni("DEL"), pods))
    until(lambda: node.devices() == [])


def test_two_interfaces_of_one_container_in_one_namespace(node: Node, new_pod: NewPod) -> None:
    node.start()
    pod = new_pod("p").add()
    variables = {"CNI_CONTAINERID": "container-p", "CNI_IFNAME": "net1", "CNI_NETNS": str(pod.space.path)}
    pod.space.run("ip", "route", "del", "default")
    pod.space.run("ip", "-6", "route", "del", "default")
    node.ask("ADD", variables, pod.space.descriptor)
    assert len(node.devices()) == 2
    node.ask("DEL", variables, pod.space.descriptor)
    until(lambda: len(node.devices()) == 1)
    assert pod.space.run("ip", "-br", "link").count("@") == 1


def test_gc_leaves_other_networks_alone(node: Node, new_pod: NewPod) -> None:
    node.start()
    here, there = new_pod("here").add(), new_pod("there").add(name="another")
    node.ask("GC", {}, None, **{"cni.dev/valid-attachments": []})
    until(lambda: len(node.devices()) == 1)
    assert there.is_wired()
    with pytest.raises(Refused, match="is not known here") as caught:
        here.cni("CHECK", prevResult=here.result)
    assert caught.value.code == 3


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        ("ip -4 route del default", "ip route replace 0.0.0.0/0"),
        ("ip -6 route del default", "ip route replace ::/0"),
        ("ip link set eth0 mtu 1300", "ip link set eth0"),
        ("ip link set lo down", "ip link set lo"),
        ("ip address flush dev eth0 scope global", "ip address replace 10.244.1."),
    ],
)
def test_check_names_what_is_missing(node: Node, new_pod: NewPod, wiring: str, spoil: str, named: str) -> None:
    node.start()
    pod = new_pod("p").add()
    assert pod.cni("CHECK", prevResult=pod.result) is None
    pod.space.shell(spoil)
    with pytest.raises(Refused) as caught:
        pod.cni("CHECK", prevResult=pod.result)
    assert caught.value.code == 102
    assert named in str(caught.value)


def test_check_requires_the_result_of_the_add(node: Node, new_pod: NewPod) -> None:
    node.start()
    pod = new_pod("p").add()
    with pytest.raises(Refused, match="needs the prevResult"):
        pod.cni("CHECK")
    with pytest.raises(Refused, match="prevResult has not"):
        pod.cni("CHECK", prevResult={**pod.result, "ips": []})


def test_after_a_plugin_that_set_up_lo_only_the_pod_is_wired(node: Node, new_pod: NewPod) -> None:
    """`loopback` answers with an interface and an address in the pod; they are not the pod's network."""
    node.start()
    pod = new_pod("p")
    before = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": str(pod.space.path)}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}],
        "dns": {},
    }
    result = pod.cni("ADD", cniVersion="1.0.0", prevResult=before)
    assert [interface["name"] for interface in result["interfaces"]][::2] == ["lo", "eth0"]
    assert [given["interface"] for given in result["ips"]] == [0, 2, 2]
    pod.result = {"ips": result["ips"][1:]}
    assert pod.is_wired()
    assert pod.cni("CHECK", cniVersion="1.0.0", prevResult=result) is None


@pytest.mark.parametrize("wrong", [{"interfaces": "eth0"}, {"ips": [{"address": "x"}], "interfaces": [{}]}])
def test_a_previous_result_that_is_none(node: Node, new_pod: NewPod, wrong: dict[str, Any]) -> None:
    node.start()
    with pytest.raises(Refused, match="prevResult") as caught:
        new_pod("p").add(prevResult=wrong)
    assert caught.value.code == 7
