"""The driver and the machine's own tools: printed commands have the same effect, and the tools' changes are read."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.kernel.inside import inside

from percale.errors import KernelError
from percale.kernel.cleanup import owned_removals
from percale.kernel.commands import to_commands
from percale.kernel.errors import apply_or_raise
from percale.kernel.netlink import link
from percale.kernel.netlink import socket as netlink
from percale.kernel.plan import matches
from percale.kernel.protocol import Delete, KernelEvent, ObjectChanged, ObjectRemoved, Upsert
from percale.render.link_kinds import Bridge, Ifb, Veth, VethPeer, Vxlan
from percale.render.objects import (
    Address,
    FdbEntry,
    KernelObject,
    Link,
    Neighbour,
    Redirect,
    Route,
    Shaper,
    Sysctl,
    neighbour_key,
)

ETH0 = Link("eth0", Veth(VethPeer("far0", mac="02:00:00:00:00:02", mtu=1480)), mtu=1480, mac="02:00:00:00:00:01")
FLANNEL = Link("flannel.1", Vxlan(1, ip_address("192.168.1.1"), "eth0"), mtu=1400)
DST = ip_network("10.244.2.0/24")
SPELLED: tuple[KernelObject, ...] = (
    ETH0,
    Address("eth0", ip_interface("192.168.1.1/24")),
    Address("eth0", ip_interface("fd00::1/64")),
    FLANNEL,
    Link("flannel-v6.1", Vxlan(1, ip_address("fd00::1"), "eth0", port=4789, learning=True, gbp=True)),
    Link("cni0", Bridge(snooping=False, reserved=False)),
    Link("pod0", Veth(VethPeer("pod1")), master="cni0", hairpin=True, arp=False),
    Link("ifb0", Ifb()),
    Link("lo"),
    Neighbour("flannel.1", ip_address("10.244.2.0"), "02:00:00:00:00:09"),
    Neighbour("flannel.1", ip_address("fd00:2::"), "02:00:00:00:00:09"),
    FdbEntry("flannel.1", "02:00:00:00:00:09", ip_address("192.168.1.2")),
    Route(DST, "flannel.1", ip_address("10.244.2.0"), onlink=True),
    Route(ip_network("10.244.3.0/24"), "eth0", ip_address("192.168.1.3"), src=ip_address("192.168.1.1"), metric=5),
    Route(ip_network("10.244.1.9/32"), "pod0"),
    Route(ip_network("fd00:2::/64"), "flannel.1", ip_address("fd00:2::"), onlink=True),
    Route(ip_network("10.244.0.0/16"), kind="blackhole"),
    Route(ip_network("10.8.0.0/16"), "eth0", ip_address("fd00::8")),
    Shaper("ifb0", 8_000_000, 800_000),
    Redirect("pod0", "ifb0"),
    Sysctl("net/ipv4/ip_forward", "1"),
)


def test_the_logged_commands_make_what_we_make(new_space: Callable[[], Any]) -> None:
    ours, theirs = new_space(), new_space()
    lines: list[str] = []
    apply_or_raise(ours.driver(lines.append), [Upsert(obj) for obj in SPELLED])
    assert lines == [line for obj in SPELLED for line in to_commands(Upsert(obj))]
    for line in lines:
        theirs.shell(line)
    made, spelled = ours.driver().read(), theirs.driver().read()
    assert made.keys() == spelled.keys()
    for obj in SPELLED:
        if obj.key in made:
            assert matches(obj, made[obj.key]), obj
            assert matches(obj, spelled[obj.key]), obj
    for space in (ours, theirs):
        assert space.run("cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
    for obj in reversed(SPELLED):
        for line in to_commands(Delete(obj)):
            theirs.shell(line)
    assert theirs.driver().read() == {}


def test_a_pods_pair_is_created_in_its_namespace_in_one_message(new_space: Callable[[], Any]) -> None:
    node, pod = new_space(), new_space()
    desired = Link("pod0", Veth(VethPeer("eth0", pod.descriptor, "02:00:00:00:00:05", 1450)), mtu=1450)
    apply_or_raise(node.driver(), [Upsert(desired), Upsert(Route(ip_network("10.244.1.5/32"), "pod0"))])
    (eth0,) = (interface for interface in pod.driver().underlay().interfaces if interface.name == "eth0")
    assert (eth0.mac, eth0.mtu, eth0.up) == ("02:00:00:00:00:05", 1450, False)
    apply_or_raise(pod.driver(), [Upsert(Link("eth0")), Upsert(Address("eth0", ip_interface("10.244.1.5/32")))])
    assert ip_interface("10.244.1.5/32") in {key[2] for key in pod.driver().read()}
    (line,) = (line for line in to_commands(Upsert(desired)) if "link add" in line)
    theirs = new_space()
    pod.run("ip", "link", "delete", "eth0")
    theirs.shell(line, (pod.descriptor,))
    assert "eth0" in pod.run("ip", "link", "show", "dev", "eth0")


def test_packets_cross_two_nodes_through_the_tunnel(new_space: Callable[[], Any]) -> None:
    left, right = new_space(), new_space()
    ends = ((left, 1, 2), (right, 2, 1))
    wire = Link("eth0", Veth(VethPeer("eth0", right.descriptor)))
    apply_or_raise(left.driver(), [Upsert(wire)])
    for space, mine, other in ends:
        mac, peer_mac = f"02:00:00:00:00:0{mine}", f"02:00:00:00:00:0{other}"
        gateway = ip_address(f"10.244.{other}.0")
        apply_or_raise(
            space.driver(),
            [
                Upsert(Link("eth0")),
                Upsert(Address("eth0", ip_interface(f"192.168.1.{mine}/24"))),
                Upsert(Link("flannel.1", Vxlan(1, ip_address(f"192.168.1.{mine}"), "eth0"), mac=mac)),
                Upsert(Address("flannel.1", ip_interface(f"10.244.{mine}.0/32"))),
                Upsert(Neighbour("flannel.1", gateway, peer_mac)),
                Upsert(FdbEntry("flannel.1", peer_mac, ip_address(f"192.168.1.{other}"))),
                Upsert(Route(ip_network(f"10.244.{other}.0/24"), "flannel.1", gateway, onlink=True)),
            ],
        )
    server = inside(right, lambda: socket.create_server(("10.244.2.0", 8080)))
    client = inside(left, lambda: socket.create_connection(("10.244.2.0", 8080), timeout=5))
    with server, client:
        connection, address = server.accept()
        with connection:
            assert address[0] == "10.244.1.0"


def test_all_of_ours_is_removed_and_nothing_else(space: Any) -> None:
    foreign = [
        "ip link add eth0 type veth peer name far0",
        "ip link set eth0 up",
        "ip link set far0 up",
        "ip link set lo up",
        "ip address add 192.168.1.1/24 dev eth0",
        "ip route add 172.16.0.0/16 via 192.168.1.9 dev eth0",
        "ip route add 172.17.0.0/16 via 192.168.1.9 dev eth0 proto static",
        "ip neighbour add 192.168.1.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",
        "ip link add vx9 type vxlan id 9 local 192.168.1.1 dev eth0 dstport 4789",
        "bridge fdb append 02:00:00:00:00:07 dev vx9 dst 192.168.1.7 self permanent",
        "nft add table ip other",
        "nft 'add set ip other nets { type ipv4_addr; }'",
        "nft 'add element ip other nets { 10.0.0.1 }'",
    ]
    looks = [
        "ip -o link",
        "ip -o -4 address",
        "ip route",
        "ip neighbour show nud permanent",
        "bridge fdb show dev vx9",
        "nft list ruleset",
    ]
    for line in foreign:
        space.shell(line)
    before = [_without_counters(space.shell(look)) for look in looks]
    driver = space.driver()
    apply_or_raise(
        driver,
        [
            Upsert(Address("eth0", ip_interface("10.9.9.9/32"))),
            Upsert(FLANNEL),
            Upsert(Route(DST, "eth0", ip_address("192.168.1.9"))),
            Upsert(Neighbour("eth0", ip_address("192.168.1.77"), "02:00:00:00:00:77")),
            Upsert(Neighbour("flannel.1", ip_address("10.244.2.0"), "02:00:00:00:00:77")),
        ],
    )
    assert "flannel.1" in space.run("ip", "link")
    removals = owned_removals(driver)
    assert {change.object.key[0] for change in removals} >= {"link", "route", "neighbour", "address"}
    apply_or_raise(driver, removals)
    assert driver.read() == {}
    assert [_without_counters(space.shell(look)) for look in looks] == before


def test_a_device_that_somebody_makes_before_us_stays_theirs(space: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between our look and our request: all messages go out at once, and those after one that fails are worked off too."""
    driver = space.driver()
    encode = link.create

    def late(*expected: Any) -> list[netlink.Request]:
        space.shell("ip link add flannel.1 type ifb")
        return encode(*expected)

    monkeypatch.setattr(link, "create", late)
    (error,) = driver.apply([Upsert(Link("flannel.1", Bridge()))])
    assert isinstance(error, FileExistsError)
    assert driver.read() == {}
    assert "alias" not in space.run("ip", "link", "show", "dev", "flannel.1")


def _without_counters(text: str) -> list[str]:
    """IPv6 link-local addresses and their state come and go by themselves."""
    return sorted(line.split(" state ")[0] for line in text.splitlines())


def test_a_device_of_flannels_is_adopted_with_what_is_on_it(space: Any) -> None:
    driver = space.driver()
    apply_or_raise(driver, [Upsert(ETH0), Upsert(Address("eth0", ip_interface("192.168.1.1/24")))])
    for line in [
        "ip link add flannel.1 mtu 1400 type vxlan id 1 local 192.168.1.1 dev eth0 dstport 8472 nolearning",
        "ip link set flannel.1 up",
        "ip route add 10.244.9.0/24 via 10.244.9.0 dev flannel.1 onlink",
        "ip neighbour add 10.244.9.0 lladdr 02:00:00:00:00:09 dev flannel.1 nud permanent",
        "bridge fdb append 02:00:00:00:00:09 dev flannel.1 dst 192.168.1.9 self permanent",
    ]:
        space.shell(line)
    index = _index(space, "flannel.1")
    assert FLANNEL.key not in driver.read()
    apply_or_raise(driver, [Upsert(FLANNEL)])
    assert _index(space, "flannel.1") == index
    there = driver.read()
    assert there[FLANNEL.key].key == FLANNEL.key
    stale: list[KernelObject] = [
        Route(ip_network("10.244.9.0/24"), "flannel.1", ip_address("10.244.9.0"), onlink=True),
        Neighbour("flannel.1", ip_address("10.244.9.0"), "02:00:00:00:00:09"),
        FdbEntry("flannel.1", "02:00:00:00:00:09", ip_address("192.168.1.9")),
    ]
    assert [there.get(obj.key) for obj in stale] == stale
    apply_or_raise(driver, [Delete(obj) for obj in stale])
    assert not {obj.key for obj in stale} & driver.read().keys()


def _index(space: Any, name: str) -> str:
    return str(space.run("ip", "-o", "link", "show", "dev", name)).split(":", 1)[0]


def test_the_kernels_message_reaches_the_user(space: Any) -> None:
    driver = space.driver()
    with pytest.raises(KernelError) as caught:
        apply_or_raise(driver, [Upsert(ETH0), Upsert(Route(DST, "eth0", ip_address("10.99.0.1")))])
    assert caught.value.errno == errno.ENETUNREACH
    assert str(caught.value).startswith(
        "ip route replace 10.244.2.0/24 via 10.99.0.1 dev eth0 proto 112: Nexthop has invalid gateway"
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ip route delete 10.244.2.0/24", ObjectRemoved(Route(DST).key)),
        ("ip link set lo up; ip route replace 10.244.2.0/24 dev lo", ObjectRemoved(Route(DST).key)),
        ("ip neighbour delete 10.244.2.0 dev flannel.1", ObjectRemoved(neighbour_key("flannel.1", ip_address("10.244.2.0")))),
        ("ip neighbour replace 10.244.2.0 lladdr 02:00:00:00:00:09 dev flannel.1 nud stale",
         ObjectRemoved(neighbour_key("flannel.1", ip_address("10.244.2.0")))),
        ("bridge fdb delete 02:00:00:00:00:09 dev flannel.1 self", ObjectRemoved(("fdb", "flannel.1", "02:00:00:00:00:09"))),
        ("ip link delete flannel.1", ObjectRemoved(FLANNEL.key)),
        ("ip link set flannel.1 down; ip link set flannel.1 name other0", ObjectRemoved(FLANNEL.key)),
        ("ip link set eth0 alias ''", ObjectChanged(replace(ETH0, alias="", kind=Veth(), arp=True))),
        ("tc qdisc delete dev eth0 root", ObjectRemoved(("shaper", "eth0"))),
        ("tc qdisc delete dev eth0 ingress", ObjectRemoved(("redirect", "eth0"))),
    ],
)  # fmt: skip
def test_what_the_tools_do_is_seen(space: Any, line: str, expected: KernelEvent) -> None:
    driver = space.driver()
    apply_or_raise(
        driver,
        [
            Upsert(ETH0),
            Upsert(Address("eth0", ip_interface("192.168.1.1/24"))),
            Upsert(FLANNEL),
            Upsert(Neighbour("flannel.1", ip_address("10.244.2.0"), "02:00:00:00:00:09")),
            Upsert(FdbEntry("flannel.1", "02:00:00:00:00:09", ip_address("192.168.1.9"))),
            Upsert(Route(DST, "flannel.1", ip_address("10.244.2.0"), onlink=True)),
            Upsert(Link("ifb0", Ifb())),
            Upsert(Shaper("eth0", 8_000_000, 80_000)),
            Upsert(Redirect("eth0", "ifb0")),
        ],
    )
    seen: list[KernelEvent] = []

    def remember(events: Iterable[KernelEvent]) -> None:
        seen.extend(events)

    driver.follow(remember)
    space.shell(line)
    end = time.monotonic() + 5
    while expected not in seen and time.monotonic() < end:
        time.sleep(0.005)
    assert expected in seen


def test_a_closed_driver_leaves_the_kernel_and_no_descriptor(space: Any) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    driver = space.driver()
    apply_or_raise(driver, [Upsert(ETH0)])
    driver.follow(lambda events: None)
    driver.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    space._drivers.remove(driver)
    assert "eth0" in space.run("ip", "link")


@pytest.mark.parametrize("made", [ETH0, Link("cni0", Bridge())], ids=str)
def test_a_driver_killed_after_any_send_leaves_no_device_without_its_mark(
    space: Any, made: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next agent takes it for somebody else's, and it stays for ever."""
    driver = space.driver()
    exchange = netlink.Socket._exchange

    def killed(*arguments: Any) -> None:
        exchange(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(netlink.Socket, "_exchange", killed)
    with pytest.raises(KeyboardInterrupt):
        driver.apply([Upsert(made)])
    assert "alias percale" in space.run("ip", "link", "show", made.name)
