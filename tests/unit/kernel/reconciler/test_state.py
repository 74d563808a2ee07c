"""From any state to any other: whatever was desired before and others change, the kernel reaches the desired state."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from percale.kernel.plan import dependencies_of, matches, order
from percale.kernel.protocol import Change, Delete, KernelEvent, Upsert
from percale.kernel.reconciler.state import ReconcilerState
from percale.kernel.rtnl.fake import FakeKernel
from percale.render.link_kinds import Bridge, Ifb, Veth, VethPeer, Vxlan
from percale.render.objects import (
    Address,
    FdbEntry,
    KernelObject,
    Key,
    Link,
    Neighbour,
    Redirect,
    Route,
    Shaper,
    Sysctl,
)

ETH0 = Link("eth0", Veth(VethPeer("far0")), mtu=1500)
FLANNEL = Link("flannel.1", Vxlan(1, ip_address("192.168.1.1"), "eth0"), mtu=1450)
POD = Link("pod0", Veth(VethPeer("pod1")), mtu=1450, master="cni0")
DST = ip_network("10.244.2.0/24")
VIA = ip_address("10.244.2.0")

VARIANTS: tuple[tuple[KernelObject, ...], ...] = (
    (ETH0, replace(ETH0, mtu=9000)),
    (
        FLANNEL,
        replace(FLANNEL, mtu=1400),
        replace(FLANNEL, mac="02:00:00:00:00:01"),
        replace(FLANNEL, kind=Vxlan(2, ip_address("192.168.1.1"), "eth0")),
        replace(FLANNEL, up=False),
    ),
    (Link("cni0", Bridge(), mtu=1450), Link("cni0", Bridge(snooping=False, reserved=False), mtu=1400)),
    (POD, replace(POD, hairpin=True), replace(POD, arp=False)),
    (Link("ifb0", Ifb()),),
    (Address("flannel.1", ip_interface("10.244.1.0/32")),),
    (Address("flannel.1", ip_interface("10.244.7.0/32")),),
    (Address("eth0", ip_interface("192.168.1.1/24")),),
    (Neighbour("flannel.1", VIA, "02:00:00:00:00:0a"), Neighbour("flannel.1", VIA, "02:00:00:00:00:0b")),
    (FdbEntry("flannel.1", "02:00:00:00:00:0a", ip_address("192.168.1.2")),),
    (FdbEntry("flannel.1", "02:00:00:00:00:0b", ip_address("192.168.1.3")),),
    (Route(DST, "flannel.1", VIA, onlink=True), Route(DST, "eth0", ip_address("192.168.1.2"))),
    (Route(ip_network("10.244.1.5/32"), "pod0"),),
    (Route(ip_network("10.244.0.0/16"), kind="blackhole"),),
    (Shaper("ifb0", 8_000_000, 80_000), Shaper("ifb0", 16_000_000, 80_000)),
    (Redirect("pod0", "ifb0"),),
    (Sysctl("net/ipv4/ip_forward", "1"),),
    (Sysctl("net/ipv6/conf/flannel.1/accept_ra", "0"),),
)


def without_orphans(drawn: Iterable[KernelObject | None]) -> list[KernelObject]:
    """A port outlives its bridge, so a port desired without one is no state of its own."""
    world = [obj for obj in drawn if obj is not None]
    bridged = any(obj.key == ("link", "cni0") for obj in world)
    return [obj for obj in world if bridged or obj.key != POD.key]


worlds = st.tuples(*(st.sampled_from((None, *variants)) for variants in VARIANTS)).map(without_orphans)


def settle(state: ReconcilerState, kernel: FakeKernel) -> list[Change]:
    """Plan and apply until nothing changes; what was planned."""
    planned: list[Change] = []
    for _ in range(8):
        if state.needs_resync:
            state.needs_resync = False
            state.resync(kernel.read())
        changes = state.plan()
        if not changes and not state.needs_resync:
            return planned
        planned += changes
        state.applied(changes, kernel.apply(changes))
    raise AssertionError("never done")


def started(kernel: FakeKernel, *, synced: bool = True) -> ReconcilerState:
    """A state that has read this kernel and receives others' changes."""
    state = ReconcilerState()
    state.resync(kernel.read())

    def observe(events: Iterable[KernelEvent]) -> None:
        state.observe(events)

    kernel.follow(observe)
    if synced:
        state.start_garbage_collection()
    return state


def settled(world: Iterable[KernelObject]) -> tuple[ReconcilerState, FakeKernel]:
    """The source `all` has declared this world, and the kernel has what can be of it."""
    kernel = FakeKernel()
    state = started(kernel)
    state.declare("all", world)
    settle(state, kernel)
    return state, kernel


def possible(world: Iterable[KernelObject]) -> dict[Key, KernelObject]:
    """The possible part of a world: objects whose dependencies are desired."""
    found = {obj.key: obj for obj in world}
    while True:
        missing = [key for key, obj in found.items() if any(lower not in found for lower in dependencies_of(obj))]
        if not missing:
            return found
        for key in missing:
            del found[key]


def assert_holds(kernel: FakeKernel, world: Iterable[KernelObject]) -> None:
    """All of the world that can be; of the rest an older version may still stand there, and of nothing else."""
    refused = {obj.key for obj in world} - possible(world).keys()
    expected = {key: obj for key, obj in possible(world).items() if not isinstance(obj, Sysctl)}
    there = {key: obj for key, obj in kernel.read().items() if key not in refused}
    assert there.keys() == expected.keys()
    assert [obj for key, obj in expected.items() if not matches(obj, there[key])] == []


@given(worlds, worlds)
def test_from_any_world_to_any_other(before: list[KernelObject], after: list[KernelObject]) -> None:
    state, kernel = settled(before)
    assert_holds(kernel, before)
    state.declare("all", after)
    settle(state, kernel)
    assert_holds(kernel, after)


@given(worlds, worlds, st.randoms(use_true_random=False))
def test_a_restart_in_another_order_ends_the_same(
    before: list[KernelObject], after: list[KernelObject], random: object
) -> None:
    _, kernel = settled(before)
    second = started(kernel, synced=False)
    shuffled = list(after)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for number, obj in enumerate(shuffled):
        second.declare(f"source{number}", [obj])
        settle(second, kernel)
    second.start_garbage_collection()
    settle(second, kernel)
    assert_holds(kernel, after)


@given(worlds)
def test_equal_input_writes_nothing(world: list[KernelObject]) -> None:
    state, kernel = settled(world)
    kernel.written.clear()
    state.declare("all", list(reversed(world)))
    assert settle(state, kernel) == []
    restarted = started(kernel, synced=False)
    restarted.declare("all", possible(world).values())
    restarted.start_garbage_collection()
    settle(restarted, kernel)
    assert kernel.written == []


@given(worlds, st.data())
def test_what_somebody_removes_comes_back(world: list[KernelObject], data: st.DataObject) -> None:
    state, kernel = settled(world)
    for _ in range(3):
        there = list(kernel.read().values())
        if there:
            kernel.interfere(Delete(data.draw(st.sampled_from(there))))
            settle(state, kernel)
    assert_holds(kernel, world)


@given(worlds, st.sampled_from([ETH0, FLANNEL, POD]))
def test_a_link_flap_brings_routes_back(world: list[KernelObject], link: Link) -> None:
    state, kernel = settled(world)
    there = kernel.read().get(link.key)
    if isinstance(there, Link):
        kernel.interfere(Upsert(replace(there, up=False)), Upsert(replace(there, up=True)))
    settle(state, kernel)
    assert_holds(kernel, world)


@given(worlds)
def test_no_device_is_removed_before_its_dependents(world: list[KernelObject]) -> None:
    state, kernel = settled(world)
    state.declare("all", ())
    gone: set[Key] = set()
    for change in settle(state, kernel):
        assert isinstance(change, Delete)
        if not isinstance(change.object, Link):
            assert not gone.intersection(dependencies_of(change.object))
        gone.add(change.object.key)
    assert kernel.read() == {}


@given(st.permutations([ETH0, FLANNEL, Link("cni0", Bridge()), POD, Address("eth0", ip_interface("10.0.0.1/32"))]))
def test_everything_comes_after_its_dependencies(objects: list[KernelObject]) -> None:
    placed: set[Key] = set()
    for change in order((), {obj.key: obj for obj in objects}):
        assert placed.issuperset(dependencies_of(change.object))
        placed.add(change.object.key)


def test_no_stale_object_is_removed_before_all_sources_have_synced() -> None:
    kernel = FakeKernel()
    kernel.apply([Upsert(ETH0), Upsert(FLANNEL), Upsert(Route(DST, "flannel.1", VIA, onlink=True))])
    state = started(kernel, synced=False)
    state.declare("node", [ETH0, FLANNEL])
    assert settle(state, kernel) == []
    state.start_garbage_collection()
    assert settle(state, kernel) == [Delete(Route(DST, "flannel.1", VIA, onlink=True))]


def test_what_a_source_withdraws_is_removed_at_once() -> None:
    kernel = FakeKernel()
    state = started(kernel, synced=False)
    state.declare("node", [ETH0])
    settle(state, kernel)
    state.declare("node", [])
    assert [type(change) for change in settle(state, kernel)] == [Delete]
    assert kernel.read() == {}


def test_an_object_stays_as_long_as_one_source_declares_it() -> None:
    kernel = FakeKernel()
    state = started(kernel)
    state.declare("a", [ETH0])
    state.declare("b", [ETH0])
    settle(state, kernel)
    state.declare("a", [])
    assert settle(state, kernel) == []
    state.declare("b", [])
    assert [type(change) for change in settle(state, kernel)] == [Delete]


@pytest.mark.parametrize("sources", [("a", "b"), ("b", "a")])
def test_on_conflict_the_first_source_by_name_wins(sources: tuple[str, str]) -> None:
    kernel = FakeKernel()
    state = started(kernel)
    desired = {"a": replace(ETH0, mtu=1400), "b": replace(ETH0, mtu=1300)}
    for source in sources:
        state.declare(source, [desired[source]])
        settle(state, kernel)
    there = kernel.read()[ETH0.key]
    assert isinstance(there, Link)
    assert there.mtu == 1400
    problem = state.error_of("b")
    assert problem is not None
    assert "b declares it differently from a" in str(problem)
    assert state.error_of("a") is None
    state.declare("a", ())
    settle(state, kernel)
    assert state.conflicts == {}
    assert state.error_of("b") is None


def test_a_refused_object_is_an_error_until_it_is_withdrawn() -> None:
    kernel = FakeKernel()
    kernel.refuse(FLANNEL.key)
    state = started(kernel)
    state.declare("node", [ETH0, FLANNEL, Address("flannel.1", ip_interface("10.244.1.0/32"))])
    settle(state, kernel)
    problem = state.error_of("node")
    assert problem is not None
    assert problem.errno == errno.EOPNOTSUPP
    assert (
        problem.where
        == "ip link add flannel.1 mtu 1450 type vxlan id 1 local 192.168.1.1 dev eth0 dstport 8472 nolearning"
    )
    assert state.blocked_by_dependency(("address", "flannel.1", ip_interface("10.244.1.0/32")))
    assert not state.blocked_by_dependency(FLANNEL.key)
    state.declare("node", [ETH0])
    settle(state, kernel)
    assert state.errors == {}


def test_the_descriptor_of_a_pods_namespace_is_used_once() -> None:
    kernel = FakeKernel()
    state = started(kernel)
    state.declare("pod", [Link("pod0", Veth(VethPeer("eth0", namespace=7)))])
    settle(state, kernel)
    kernel.interfere(Delete(kernel.read()["link", "pod0"]))
    settle(state, kernel)
    assert kernel.read() == {}
    problem = state.error_of("pod")
    assert problem is not None
    assert "other end" in str(problem)


def test_an_adopted_device_brings_what_is_on_it() -> None:
    state = ReconcilerState()
    interface = FakeKernel().underlay().interfaces[0]
    state.read_underlay(type(FakeKernel().underlay())((replace(interface, name="flannel.1"),), ()))
    state.declare("node", [FLANNEL])
    changes = state.plan()
    state.applied(changes, [None] * len(changes))
    assert state.needs_resync
