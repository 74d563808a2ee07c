"""What every driver promises, the real one and the fake: `percale.kernel.protocol.Driver`."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from msgspec.structs import replace

from percale.kernel.netns import NetnsThread, anonymous_namespace
from percale.kernel.plan import matches
from percale.kernel.protocol import (
    Change,
    Delete,
    Driver,
    KernelEvent,
    LinkReset,
    ObjectChanged,
    ObjectRemoved,
    UnderlayChanged,
    Upsert,
)
from percale.kernel.rtnl.driver import KernelDriver
from percale.kernel.rtnl.fake import FakeKernel
from percale.render.link_kinds import Bridge, Ifb, Veth, VethPeer, Vxlan
from percale.render.objects import Address, FdbEntry, KernelObject, Link, Neighbour, Redirect, Route, Shaper, Sysctl

ETH0 = Link("eth0", Veth(VethPeer("far0")))
ETH0_ADDRESS = Address("eth0", ip_interface("192.168.1.1/24"))
VXLAN = Vxlan(7, ip_address("192.168.1.1"), "eth0")
FLANNEL = Link("flannel.7", VXLAN, mtu=1450, mac="02:00:00:00:00:01")
BASE = (ETH0, ETH0_ADDRESS, FLANNEL)

OBJECTS: tuple[KernelObject, ...] = (
    FLANNEL,
    Link("cni0", Bridge(), mtu=1400, mac="02:00:00:00:00:02"),
    Link("pod0", Veth(VethPeer("pod1")), up=False),
    Link("ifb0", Ifb()),
    ETH0_ADDRESS,
    Address("eth0", ip_interface("fd00::1/64")),
    Address("flannel.7", ip_interface("10.244.1.0/32")),
    Neighbour("flannel.7", ip_address("10.244.2.0"), "02:00:00:00:00:09"),
    Neighbour("flannel.7", ip_address("fd00:2::"), "02:00:00:00:00:0A"),
    FdbEntry("flannel.7", "02:00:00:00:00:0A", ip_address("192.168.1.2")),
    Route(ip_network("10.244.2.0/24"), "flannel.7", ip_address("10.244.2.0"), onlink=True),
    Route(ip_network("10.244.3.0/24"), "eth0", ip_address("192.168.1.3")),
    Route(ip_network("10.244.1.9/32"), "eth0", src=ip_address("192.168.1.1"), metric=7),
    Route(ip_network("fd00:2::/64"), "flannel.7", ip_address("fd00:2::"), onlink=True),
    Route(ip_network("fd00:3::/64"), "eth0", metric=9),
    Route(ip_network("10.244.0.0/16"), kind="blackhole"),
    Route(ip_network("fd00:4::/48"), kind="unreachable"),
    Shaper("eth0", 10_000_000, 1_000_000),
)


@dataclass
class World:
    """A driver of an empty namespace, somebody else in the same namespace, and the events that the driver reported."""

    driver: Driver
    somebody: Callable[[Change], None]
    events: list[KernelEvent] = field(default_factory=list)

    def put(self, *objects: KernelObject) -> None:
        assert [error for error in self.driver.apply([Upsert(obj) for obj in objects]) if error is not None] == []

    def has(self, obj: KernelObject) -> bool:
        return matches(obj, self.driver.read().get(obj.key))

    def follow(self) -> None:
        def remember(events: Iterable[KernelEvent]) -> None:
            self.events.extend(events)

        self.driver.follow(remember)

    def sees(self, event: KernelEvent) -> bool:
        end = time.monotonic() + 5
        while event not in self.events and time.monotonic() < end:
            time.sleep(0.005)
        return event in self.events


@pytest.fixture(params=["real", "fake"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "fake":
        fake = FakeKernel()
        yield World(fake, fake.interfere)
        fake.close()
        return
    namespace = anonymous_namespace()
    driver = KernelDriver(NetnsThread(namespace))
    other = KernelDriver(NetnsThread(namespace))

    def interfere(change: Change) -> None:
        assert list(other.apply([change])) == [None]

    try:
        yield World(driver, interfere)
    finally:
        driver.close()
        other.close()
        os.close(namespace)


@pytest.mark.parametrize("obj", OBJECTS, ids=lambda obj: "-".join(map(str, obj.key)))
def test_what_is_put_is_read_back_and_gone_when_removed(world: World, obj: KernelObject) -> None:
    world.put(*(base for base in BASE if base.key != obj.key), obj)
    assert world.has(obj)
    world.put(obj)
    assert world.has(obj)
    assert list(world.driver.apply([Delete(obj)])) == [None]
    assert obj.key not in world.driver.read()
    assert list(world.driver.apply([Delete(obj)])) == [None]


def test_a_redirect_is_read_back_and_gone_when_removed(world: World) -> None:
    redirect = Redirect("eth0", "ifb0")
    world.put(ETH0, Link("ifb0", Ifb()), Shaper("ifb0", 8_000_000, 80_000), redirect)
    assert world.has(redirect)
    world.put(redirect)
    assert list(world.driver.apply([Delete(redirect)])) == [None]
    assert redirect.key not in world.driver.read()


def test_an_empty_namespace_holds_nothing_of_ours_and_a_loopback_device(world: World) -> None:
    assert world.driver.read() == {}
    assert [(interface.name, interface.up) for interface in world.driver.underlay().interfaces] == [("lo", False)]


def test_settings_of_a_device_that_is_not_ours(world: World) -> None:
    world.put(Link("lo", up=True, mtu=9000))
    lo = world.driver.underlay().interfaces[0]
    assert (lo.name, lo.up, lo.mtu) == ("lo", True, 9000)
    assert world.driver.read() == {}
    assert list(world.driver.apply([Delete(Link("lo"))])) == [None]
    assert world.driver.underlay().interfaces[0].name == "lo"


def test_one_result_for_each_change_and_the_others_are_made(world: World) -> None:
    lost = Route(ip_network("10.9.0.0/24"), "nowhere0")
    changes: list[Change] = [
        Upsert(ETH0),
        Upsert(Address("nowhere0", ip_interface("10.0.0.1/32"))),
        Upsert(ETH0_ADDRESS),
        Upsert(lost),
        Delete(lost),
    ]
    results = [error.errno if error is not None else None for error in world.driver.apply(changes)]
    assert results == [None, errno.ENODEV, None, errno.ENODEV, None]
    assert world.has(ETH0_ADDRESS)


def test_a_changed_vxlan_is_a_new_device_with_nothing_on_it(world: World) -> None:
    neighbour = Neighbour("flannel.7", ip_address("10.244.2.0"), "02:00:00:00:00:09")
    world.put(*BASE, neighbour)
    changed = Link("flannel.7", Vxlan(7, ip_address("192.168.1.1"), "eth0", port=4789), mtu=1450)
    world.put(changed)
    assert world.has(changed)
    assert not world.has(neighbour)


@pytest.mark.parametrize(
    "changed",
    [Link("flannel.7", VXLAN, mtu=1300), Link("flannel.7", Vxlan(7, ip_address("192.168.1.1"), "eth0", learning=True))],
    ids=["mtu", "learning"],
)
def test_bug_mtu_and_learning_changes_are_applied_to_an_existing_device(world: World, changed: Link) -> None:
    neighbour = Neighbour("flannel.7", ip_address("10.244.2.0"), "02:00:00:00:00:09")
    world.put(*BASE, neighbour)
    world.put(changed)
    assert world.has(changed)
    assert world.has(neighbour)


def test_a_changed_mac_keeps_the_device_but_drops_its_neighbours(world: World) -> None:
    address = Address("flannel.7", ip_interface("10.244.1.0/32"))
    neighbour = Neighbour("flannel.7", ip_address("10.244.2.0"), "02:00:00:00:00:09")
    world.put(*BASE, address, neighbour)
    changed = Link("flannel.7", VXLAN, mac="02:00:00:00:00:99")
    world.put(changed)
    assert (world.has(changed), world.has(address), world.has(neighbour)) == (True, True, False)


def test_bug_a_changed_destination_replaces_the_forwarding_entry(world: World) -> None:
    mac = "02:00:00:00:00:0a"
    world.put(*BASE, FdbEntry("flannel.7", mac, ip_address("192.168.1.2")))
    world.put(FdbEntry("flannel.7", mac, ip_address("192.168.1.3")))
    entries = [obj for obj in world.driver.read().values() if isinstance(obj, FdbEntry)]
    assert entries == [FdbEntry("flannel.7", mac, ip_address("192.168.1.3"))]


def test_a_changed_route_replaces_the_one_before(world: World) -> None:
    dst = ip_network("10.244.2.0/24")
    world.put(*BASE, Route(dst, "flannel.7", ip_address("10.244.2.0"), onlink=True))
    direct = Route(dst, "eth0", ip_address("192.168.1.2"))
    world.put(direct)
    assert [obj for obj in world.driver.read().values() if isinstance(obj, Route)] == [direct]


def test_a_bridge_port_with_hairpin(world: World) -> None:
    port = Link("pod0", Veth(VethPeer("pod1")), master="cni0", hairpin=True)
    world.put(Link("cni0", Bridge()), port)
    assert world.has(port)
    off = Link("pod0", Veth(), master="cni0", hairpin=False)
    world.put(off)
    assert world.has(off)


def test_a_device_without_arp(world: World) -> None:
    off = Link("pod0", Veth(VethPeer("pod1")), arp=False)
    world.put(off)
    assert world.has(off)
    world.put(Link("pod0", Veth(), arp=True))
    assert not world.has(off)
    neighbour = Neighbour("pod0", ip_address("10.244.1.9"), "02:00:00:00:00:09")
    world.put(neighbour)
    world.put(Link("pod0", Veth(), arp=False))
    assert world.has(off)
    assert not world.has(neighbour)  # they go with it: `disturbs_dependents`


def test_what_a_bridge_learns(world: World) -> None:
    world.put(Link("cni0", Bridge()))
    deaf = Link("cni0", Bridge(snooping=False, reserved=False))
    assert not world.has(deaf)
    world.put(deaf)
    assert world.has(deaf)
    world.put(Link("cni1", Bridge(snooping=True)), Link("cni2", Bridge(reserved=True)))
    assert world.has(Link("cni1", Bridge(snooping=True)))
    assert world.has(Link("cni2", Bridge(reserved=True)))


def test_a_pair_whose_other_end_is_unknown_cannot_be_made(world: World) -> None:
    (error,) = world.driver.apply([Upsert(Link("pod0", Veth()))])
    assert error is not None
    assert error.errno == errno.ENODEV
    assert "other end" in str(error)


def test_a_device_of_another_kind_that_is_not_ours_is_left_alone(world: World) -> None:
    world.put(ETH0)
    on_it = (Sysctl("net/ipv4/conf/lo/accept_local", "1"), Address("lo", ip_interface("10.244.1.1/24")))
    error, *others = world.driver.apply([Upsert(obj) for obj in (Link("lo", Bridge()), *on_it)])
    assert error is not None
    assert error.errno == errno.EEXIST
    assert [other.errno for other in others if other is not None] == [errno.ENODEV, errno.ENODEV]


def test_a_removed_device_takes_what_is_on_it(world: World) -> None:
    world.put(*BASE, Neighbour("flannel.7", ip_address("10.244.2.0"), "02:00:00:00:00:09"))
    assert list(world.driver.apply([Delete(FLANNEL)])) == [None]
    assert not [key for key in world.driver.read() if "flannel.7" in key]


def test_many_devices_are_removed_at_once_and_no_other(world: World) -> None:
    pods = [Link(f"pod{number}", Veth(VethPeer(f"far{number}"))) for number in range(1, 20)]
    world.put(ETH0, *pods)
    missing = Link("nowhere0", Veth())
    assert list(world.driver.apply([Delete(link) for link in (*pods, missing, Link("lo"))])) == [None] * 21
    assert list(world.driver.read()) == [ETH0.key]
    assert "lo" in {interface.name for interface in world.driver.underlay().interfaces}


@pytest.mark.parametrize(
    "obj",
    [
        ETH0_ADDRESS,
        Neighbour("flannel.7", ip_address("10.244.2.0"), "02:00:00:00:00:09"),
        FdbEntry("flannel.7", "02:00:00:00:00:0a", ip_address("192.168.1.2")),
        Link("cni0", Bridge()),
    ],
    ids=lambda obj: str(obj.key[0]),
)
def test_what_somebody_removes_is_reported(world: World, obj: KernelObject) -> None:
    world.put(*BASE, obj)
    world.follow()
    world.somebody(Delete(obj))
    assert world.sees(ObjectRemoved(obj.key))


def test_a_route_that_somebody_removes_is_reported(world: World) -> None:
    route = Route(ip_network("10.244.3.0/24"), "eth0", ip_address("192.168.1.3"))
    world.put(*BASE, route)
    world.follow()
    world.somebody(Delete(route))
    assert world.sees(ObjectRemoved(route.key))


def test_what_somebody_puts_on_our_device_is_reported(world: World) -> None:
    world.put(*BASE)
    world.follow()
    stray = Neighbour("flannel.7", ip_address("10.244.8.0"), "02:00:00:00:00:08")
    world.somebody(Upsert(stray))
    assert world.sees(ObjectChanged(stray))


def test_a_device_that_goes_down_wipes_what_is_on_it(world: World) -> None:
    route = Route(ip_network("10.244.3.0/24"), "eth0", ip_address("192.168.1.3"))
    world.put(*BASE, route)
    world.follow()
    world.somebody(Upsert(Link("eth0", Veth(), up=False)))
    assert world.sees(LinkReset("eth0"))
    assert not world.has(route)


def test_a_change_of_a_device_that_is_not_ours_is_reported(world: World) -> None:
    world.follow()
    world.somebody(Upsert(Link("lo", up=True)))
    assert world.sees(UnderlayChanged())
    assert world.driver.underlay().interfaces[0].up


def test_our_own_changes_are_no_events(world: World) -> None:
    world.put(*BASE)
    world.follow()
    ours = Route(ip_network("10.244.3.0/24"), "eth0", ip_address("192.168.1.3"))
    world.put(ours)
    world.driver.apply([Delete(ours)])
    world.somebody(Upsert(Neighbour("eth0", ip_address("192.168.1.3"), "02:00:00:00:00:03")))
    assert world.sees(ObjectChanged(Neighbour("eth0", ip_address("192.168.1.3"), "02:00:00:00:00:03")))
    told = {event.object.key for event in world.events if isinstance(event, ObjectChanged)}
    told |= {event.key for event in world.events if isinstance(event, ObjectRemoved)}
    assert ours.key not in told


def test_sysctls_are_those_of_the_namespace(world: World) -> None:
    world.put(Link("lo"), Sysctl("net/ipv4/ip_forward", "1"), Sysctl("net/ipv4/conf/lo/forwarding", "1"))
    assert world.driver.read() == {}
    (error,) = world.driver.apply([Upsert(Sysctl("net/ipv4/conf/nowhere0/forwarding", "1"))])
    assert error is not None


def test_sysctls_that_stray(world: World) -> None:
    forwarding, elsewhere = Sysctl("net/ipv4/conf/lo/forwarding", "1"), Sysctl("net/ipv4/conf/nowhere0/forwarding", "1")
    world.put(Link("lo"), forwarding)
    assert list(world.driver.changed_sysctls([forwarding, elsewhere])) == []
    world.somebody(Upsert(replace(forwarding, value="0")))
    assert list(world.driver.changed_sysctls([forwarding, elsewhere])) == [forwarding]
    assert list(world.driver.changed_sysctls([])) == []
