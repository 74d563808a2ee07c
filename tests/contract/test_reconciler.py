"""What the reconciler promises, over the real kernel and over the fake: `percale.kernel.reconciler.reconciler.Reconciler`."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_interface, ip_network

import pytest
import pytest_asyncio
from msgspec.structs import replace
from tests.waiting import eventually

from percale.errors import KernelError
from percale.kernel.netns import NetnsThread, anonymous_namespace
from percale.kernel.plan import matches
from percale.kernel.protocol import Change, Delete, Driver, Underlay, Upsert
from percale.kernel.reconciler.reconciler import Reconciler
from percale.kernel.rtnl.driver import KernelDriver
from percale.kernel.rtnl.fake import FakeKernel
from percale.render.link_kinds import Bridge, Veth, VethPeer, Vxlan
from percale.render.objects import Address, FdbEntry, KernelObject, Key, Link, Neighbour, Route, Sysctl

ETH0 = Link("eth0", Veth(VethPeer("far0")))
ETH0_ADDRESS = Address("eth0", ip_interface("192.168.0.1/16"))
FLANNEL = Link("flannel.1", Vxlan(1, ip_address("192.168.0.1"), "eth0"), mtu=1450, mac="02:00:00:00:00:01")
FLANNEL_ADDRESS = Address("flannel.1", ip_interface("10.0.0.0/32"))
NODE = (ETH0, ETH0_ADDRESS, FLANNEL, FLANNEL_ADDRESS, Sysctl("net/ipv4/ip_forward", "1"))


def peer(number: int) -> tuple[Neighbour, FdbEntry, Route]:
    """What the vxlan backend declares for one peer."""
    subnet = IPv4Network((0x0A000000 + (number << 8), 24))
    mac = f"02:01:00:00:{number >> 8:02x}:{number & 255:02x}"
    gateway = subnet.network_address
    return (
        Neighbour("flannel.1", gateway, mac),
        FdbEntry("flannel.1", mac, IPv4Address(0xC0A80001 + number)),
        Route(subnet, "flannel.1", gateway, onlink=True),
    )


@dataclass
class World:
    """A started reconciler, somebody else in the same namespace, and what was reported."""

    driver: Driver
    reconciler: Reconciler
    somebody: Callable[[Change], None]
    problems: list[tuple[str, KernelError]] = field(default_factory=list)
    applied: list[Change] = field(default_factory=list)
    restored: list[KernelObject] = field(default_factory=list)
    look: Callable[[], dict[Key, KernelObject]] = dict

    def holds(self, *objects: KernelObject) -> bool:
        there = self.look()
        return all(matches(obj, there.get(obj.key)) for obj in objects if not isinstance(obj, Sysctl))

    async def comes_to_hold(self, *objects: KernelObject) -> bool:
        return bool(await eventually(lambda: self.holds(*objects)))


class Recording:
    """A driver that notes what it is asked to change."""

    def __init__(self, inner: Driver, applied: list[Change]) -> None:
        self._inner = inner
        self._applied = applied
        self.read = inner.read
        self.underlay = inner.underlay
        self.changed_sysctls = inner.changed_sysctls
        self.follow = inner.follow
        self.close = inner.close

    def apply(self, changes: list[Change]) -> list[OSError | None]:
        self._applied += changes
        return list(self._inner.apply(changes))


@pytest_asyncio.fixture(params=["real", "fake"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    namespace = anonymous_namespace()
    opened: list[Driver] = []

    def in_namespace() -> Driver:
        opened.append(KernelDriver(NetnsThread(namespace)))
        return opened[-1]

    fake = FakeKernel()
    driver, other = (fake, fake) if request.param == "fake" else (in_namespace(), in_namespace())
    applied: list[Change] = []
    problems: list[tuple[str, KernelError]] = []
    restored: list[KernelObject] = []
    reconciler = Reconciler(
        Recording(driver, applied),  # type: ignore[arg-type]
        on_problem=lambda source, error: problems.append((source, error)),
        on_restored=restored.append,
    )

    def interfere(change: Change) -> None:
        if isinstance(other, FakeKernel):
            other.interfere(change)
        else:
            (error,) = other.apply([change])
            assert error is None or error.errno == errno.EEXIST  # we had already put it right

    await reconciler.start()
    yield World(driver, reconciler, interfere, problems, applied, restored, other.read)
    await reconciler.stop()
    if other is not driver:
        other.close()
    os.close(namespace)


async def test_declared_objects_exist_once_applied(world: World) -> None:
    world.reconciler.declare("node", NODE)
    await world.reconciler.wait_applied("node")
    assert world.holds(*NODE)
    world.reconciler.declare("peer/b", peer(1))
    await world.reconciler.wait_applied("peer/b")
    assert world.holds(*peer(1))
    assert world.reconciler.problems == {}


async def test_equal_objects_write_nothing(world: World) -> None:
    world.reconciler.declare("node", NODE)
    world.reconciler.declare("peer/b", peer(1))
    await world.reconciler.wait_idle()
    world.applied.clear()
    world.reconciler.declare("node", NODE)
    world.reconciler.declare("peer/b", peer(1))
    world.reconciler.start_garbage_collection()
    await world.reconciler.wait_idle()
    assert world.applied == []


async def test_bug_a_changed_peer_mac_leaves_no_forwarding_entry_behind(world: World) -> None:
    world.reconciler.declare("node", NODE)
    old, new = peer(1), peer(2)
    world.reconciler.declare("peer/b", old)
    await world.reconciler.wait_applied("peer/b")
    neighbour = replace(old[0], mac=new[0].mac)
    world.reconciler.declare("peer/b", (neighbour, new[1], old[2]))
    await world.reconciler.wait_applied("peer/b")
    assert world.holds(neighbour, new[1], old[2])
    assert old[1].key not in world.look()


async def test_what_a_source_withdraws_is_gone_once_applied(world: World) -> None:
    world.reconciler.declare("node", NODE)
    world.reconciler.declare("peer/b", peer(1))
    await world.reconciler.wait_applied("peer/b")
    world.reconciler.declare("peer/b", ())
    await world.reconciler.wait_applied("peer/b")
    assert not {obj.key for obj in peer(1)} & world.look().keys()
    assert world.holds(*NODE)


async def test_bug_stale_objects_of_a_previous_run_are_collected(world: World) -> None:
    stale = (ETH0, ETH0_ADDRESS, FLANNEL, *peer(1), *peer(2))
    world.driver.apply([Upsert(obj) for obj in stale])
    reconciler = Reconciler(_borrowed(world))
    await reconciler.start()
    reconciler.declare("node", (ETH0, ETH0_ADDRESS, FLANNEL))
    reconciler.declare("peer/1", peer(1))
    await reconciler.wait_idle()
    assert world.holds(*stale)
    reconciler.start_garbage_collection()
    await reconciler.wait_idle()
    await reconciler.stop()
    assert not {obj.key for obj in peer(2)} & world.look().keys()
    assert world.holds(ETH0, ETH0_ADDRESS, FLANNEL, *peer(1))


@pytest.mark.parametrize(
    "removed", [ETH0_ADDRESS, FLANNEL, FLANNEL_ADDRESS, *peer(1)], ids=lambda obj: "-".join(map(str, obj.key[:3]))
)
async def test_what_somebody_removes_comes_back(world: World, removed: KernelObject) -> None:
    everything = (*NODE, *peer(1), *peer(2))
    world.reconciler.declare("all", everything)
    await world.reconciler.wait_applied("all")
    world.applied.clear()
    world.somebody(Delete(removed))
    assert await eventually(lambda: Upsert(removed) in world.applied)
    assert await world.comes_to_hold(*everything)
    await world.reconciler.wait_idle()
    assert world.reconciler.problems == {}
    assert removed.key in {obj.key for obj in world.restored}


async def test_bug_a_device_made_again_gets_its_peers_back(world: World) -> None:
    peers = [obj for number in range(1, 40) for obj in peer(number)]
    world.reconciler.declare("node", NODE)
    world.reconciler.declare("peers", peers)
    await world.reconciler.wait_applied("peers")
    world.somebody(Delete(FLANNEL))
    world.somebody(Upsert(replace(FLANNEL, kind=Vxlan(9, ip_address("192.168.0.1"), "eth0"))))
    assert await world.comes_to_hold(*NODE, *peers)


async def test_routes_survive_a_link_flap(world: World) -> None:
    everything = (*NODE, *peer(1), Route(ip_network("10.0.7.0/24"), "eth0", ip_address("192.168.0.7")))
    world.reconciler.declare("all", everything)
    await world.reconciler.wait_applied("all")
    for link in (Link("eth0", Veth()), FLANNEL):
        world.somebody(Upsert(Link(link.name, link.kind, up=False)))
        assert await eventually(lambda: world.holds(*everything))
    assert {type(obj) for obj in world.restored} == {Link}


async def test_what_somebody_changes_is_set_right(world: World) -> None:
    everything = (*NODE, *peer(1))
    world.reconciler.declare("all", everything)
    await world.reconciler.wait_applied("all")
    world.somebody(Upsert(replace(FLANNEL, mtu=1300)))
    world.somebody(Upsert(replace(peer(1)[0], mac="02:00:00:00:00:99")))
    world.somebody(Upsert(replace(peer(1)[1], dst=ip_address("192.168.3.3"))))
    world.somebody(Upsert(Route(peer(1)[2].dst, "eth0", ip_address("192.168.0.7"))))
    assert await world.comes_to_hold(*everything)


async def test_what_somebody_adds_to_our_device_is_removed_once_garbage_is_collected(world: World) -> None:
    world.reconciler.declare("node", NODE)
    world.reconciler.start_garbage_collection()
    await world.reconciler.wait_idle()
    stray = peer(5)[0]
    world.somebody(Upsert(stray))
    assert await eventually(lambda: Delete(stray) in world.applied and not world.holds(stray))


async def test_a_refused_object_is_reported_once_and_tried_again(world: World) -> None:
    lost = Address("later0", ip_interface("10.1.0.1/32"))
    world.reconciler.declare("pod", (lost,))
    with pytest.raises(KernelError) as caught:
        await world.reconciler.wait_applied("pod")
    assert caught.value.errno == errno.ENODEV
    assert caught.value.where == "ip address replace 10.1.0.1/32 dev later0"
    assert list(world.reconciler.problems) == [lost.key]
    assert await eventually(lambda: world.applied.count(Upsert(lost)) > 2)
    assert [source for source, _ in world.problems] == ["pod"]
    world.reconciler.declare("other", (Link("later0", Bridge()),))
    assert await world.comes_to_hold(lost)
    assert await eventually(lambda: not world.reconciler.problems)


async def test_differing_declarations_are_a_problem_that_names_both(world: World) -> None:
    world.reconciler.declare("a", (Link("cni0", Bridge(), mtu=1400),))
    world.reconciler.declare("b", (Link("cni0", Bridge(), mtu=1300),))
    await world.reconciler.wait_applied("a")
    with pytest.raises(KernelError, match="b declares it differently from a"):
        await world.reconciler.wait_applied("b")
    assert world.holds(Link("cni0", Bridge(), mtu=1400))
    world.reconciler.declare("a", ())
    await world.reconciler.wait_applied("b")
    assert world.holds(Link("cni0", Bridge(), mtu=1300))


async def test_a_changed_underlay_is_reported(world: World) -> None:
    told: list[Underlay] = []
    world.reconciler.on_underlay(told.append)
    assert [interface.name for interface in world.reconciler.underlay.interfaces] == ["lo"]
    world.somebody(Upsert(Link("lo", up=True)))
    assert await eventually(lambda: bool(told) and told[-1].interfaces[0].up)
    assert world.reconciler.underlay == told[-1]


async def test_a_foreign_device_keeps_its_desired_settings(world: World) -> None:
    world.reconciler.declare("node", (Link("lo", up=True),))
    await world.reconciler.wait_applied("node")
    assert await eventually(lambda: world.reconciler.underlay.interfaces[0].up)
    world.somebody(Upsert(Link("lo", up=False)))
    assert await eventually(lambda: world.applied.count(Upsert(Link("lo", up=True))) == 2)
    assert await eventually(lambda: world.driver.underlay().interfaces[0].up)


async def test_a_restart_writes_nothing(world: World) -> None:
    world.reconciler.declare("node", NODE)
    world.reconciler.declare("peer/b", peer(1))
    await world.reconciler.wait_idle()
    before = world.look()
    second: list[Change] = []
    again = Reconciler(Recording(_borrowed(world), second))  # type: ignore[arg-type]
    await again.start()
    again.declare("node", NODE)
    again.declare("peer/b", peer(1))
    again.start_garbage_collection()
    await again.wait_idle()
    await again.stop()
    assert [change for change in second if not isinstance(change.object, Sysctl)] == []
    assert world.look() == before


def _borrowed(world: World) -> Driver:
    """The same kernel for a second reconciler, without its close and follow."""

    class Borrowed:
        read = staticmethod(world.driver.read)
        apply = staticmethod(world.driver.apply)
        underlay = staticmethod(world.driver.underlay)
        changed_sysctls = staticmethod(world.driver.changed_sysctls)
        read_wireguard = staticmethod(world.driver.read_wireguard)

        def follow(self, on_events: object) -> None:
            """Its events stay with the first."""

        def close(self) -> None:
            """It is not ours to close."""

    return Borrowed()


async def test_the_event_loop_is_never_held_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No callback takes more than a small part of the work; in CPU time, of which a slow machine needs more for both."""
    took: list[float] = []
    plain = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        before = time.thread_time()
        plain(handle)
        took.append(time.thread_time() - before)

    monkeypatch.setattr(asyncio.Handle, "_run", timed)
    peers = [peer(number) for number in range(1, 5001)]
    before = time.process_time()
    world.reconciler.declare("node", NODE)
    for number, objects in enumerate(peers):
        world.reconciler.declare(f"peer/{number}", objects)
    await world.reconciler.wait_idle()
    whole = time.process_time() - before
    assert max(took) < whole / 4
    assert len(world.look()) >= 3 * len(peers)
