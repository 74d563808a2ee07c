"""Pod addresses: handed out once, reused last, and remembered whatever happens to the process or the disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from percale.errors import AddressRefused, StateError, SubnetFull
from percale.ipam.address_pool import AddressPool, Owner
from percale.model.addresses import IPAddress
from percale.model.subnet_lease import NodeSubnets

V4 = NodeSubnets(IPv4Network("10.244.2.0/24"))
TINY = NodeSubnets(IPv4Network("10.244.2.0/29"))  # .2 to .6
DUAL = NodeSubnets(IPv4Network("10.244.2.0/24"), IPv6Network("fd00:0:0:2::/64"))


def owner(number: int, ifname: str = "eth0") -> Owner:
    return Owner(f"c{number}", ifname)


def addresses(*texts: str) -> tuple[IPAddress, ...]:
    return tuple(ip_address(text) for text in texts)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "addresses"


class Pools:
    """Opens pools over one file, as one agent's life after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: list[AddressPool] = []

    def __call__(self, subnets: NodeSubnets = TINY) -> AddressPool:
        self.close()
        self._open.append(AddressPool(self.path, "n2", subnets))
        return self._open[-1]

    def close(self) -> None:
        while self._open:
            self._open.pop().close()


@pytest.fixture
def pools(path: Path) -> Iterator[Pools]:
    made = Pools(path)
    yield made
    made.close()


# What is handed out


def test_addresses_come_in_order_and_gateway_and_broadcast_never(pools: Pools) -> None:
    pool = pools(TINY)
    given = [str(pool.allocate(owner(number))[0]) for number in range(5)]
    assert given == [f"10.244.2.{last}" for last in (2, 3, 4, 5, 6)]


def test_a_full_subnet_says_so_and_what_to_do(pools: Pools) -> None:
    pool = pools(V4)
    for number in range(253):
        pool.allocate(owner(number))
    with pytest.raises(SubnetFull) as caught:
        pool.allocate(owner(999))
    assert str(caught.value) == (
        "node n2: 10.244.2.0/24 is full (253 of 253); "
        "delete pods of this node, or give nodes larger subnets (a smaller SubnetLen in net-conf.json)"
    )
    assert pool.capacity(IPv4Network("10.244.2.0/24")) == 253


def test_both_families(pools: Pools) -> None:
    pool = pools(DUAL)
    assert pool.allocate(owner(1)) == addresses("10.244.2.2", "fd00:0:0:2::2")
    assert pool.allocate(owner(2)) == addresses("10.244.2.3", "fd00:0:0:2::3")


def test_when_one_family_is_full_nothing_is_taken_of_the_other(pools: Pools) -> None:
    subnets = NodeSubnets(IPv4Network("10.244.2.0/24"), IPv6Network("fd00::/126"))  # ::2 and ::3
    pool = pools(subnets)
    pool.allocate(owner(1))
    pool.allocate(owner(2))
    with pytest.raises(SubnetFull, match=r"fd00::/126 is full \(2 of 2\)"):
        pool.allocate(owner(3))
    assert len(pool.allocations) == 2
    pool.release(owner(1))
    assert pool.allocate(owner(3)) == addresses("10.244.2.4", "fd00::2")


def test_an_owner_gets_the_same_again(pools: Pools) -> None:
    pool = pools()
    first = pool.allocate(owner(1))
    assert pool.allocate(owner(1)) == first
    assert pools().allocate(owner(1)) == first
    assert pools().allocate(owner(1, "net1")) != first


def test_a_released_address_is_reused_last(pools: Pools) -> None:
    pool = pools(TINY)
    for number in range(3):
        pool.allocate(owner(number))
    pool.release(owner(1))
    pool.release(owner(0))
    given = [str(pool.allocate(owner(number))[0]) for number in (10, 11, 12, 13)]
    assert given == ["10.244.2.5", "10.244.2.6", "10.244.2.3", "10.244.2.2"]


def test_the_order_of_release_survives_a_restart(pools: Pools) -> None:
    pool = pools(TINY)
    for number in range(5):
        pool.allocate(owner(number))
    for number in (3, 0, 4):
        pool.release(owner(number))
    pools(TINY)  # reads what was appended
    pool = pools(TINY)  # reads what the previous one has rewritten
    assert [str(pool.allocate(owner(number))[0]) for number in (10, 11, 12)] == [
        "10.244.2.5",
        "10.244.2.2",
        "10.244.2.6",
    ]


def test_release_is_idempotent(pools: Pools) -> None:
    pool = pools()
    given = pool.allocate(owner(1))
    assert pool.release(owner(1)) == given
    assert pool.release(owner(1)) == ()


def test_gc_releases_all_but_the_kept(pools: Pools) -> None:
    pool = pools()
    for number in range(4):
        pool.allocate(owner(number), pod=f"default/p{number}")
    released = pool.gc([owner(1), owner(3), owner(77)])
    assert [allocation.owner for allocation in released] == [owner(0), owner(2)]
    assert set(pools().allocations) == {owner(1), owner(3)}


def test_large_ipv6_subnets_are_not_enumerated(pools: Pools) -> None:
    subnets = NodeSubnets(IPv6Network("fd00::/64"))
    pool = pools(subnets)
    far = addresses("fd00::ffff:ffff:ffff:ffff")
    assert pool.allocate(owner(1), wanted=far) == far
    assert pool.allocate(owner(2)) == addresses("fd00::2")
    assert pool.capacity(IPv6Network("fd00::/64")) == 65536
    pool.release(owner(1))
    assert pools(subnets).allocate(owner(3), wanted=far) == far


# What is asked for


def test_wanted_addresses_are_given_and_the_other_family_comes_from_the_pool(pools: Pools) -> None:
    pool = pools(DUAL)
    assert pool.allocate(owner(1), wanted=addresses("10.244.2.77")) == addresses("10.244.2.77", "fd00:0:0:2::2")
    assert pool.allocate(owner(2), wanted=addresses("fd00:0:0:2::1:0:0")) == addresses(
        "10.244.2.2", "fd00:0:0:2::1:0:0"
    )


def test_a_wanted_address_is_not_handed_out_again(pools: Pools) -> None:
    pool = pools(TINY)
    pool.allocate(owner(1), wanted=addresses("10.244.2.3"))
    assert [str(pool.allocate(owner(number))[0])[-1] for number in (2, 3)] == ["2", "4"]


def test_a_resting_address_can_be_wanted(pools: Pools) -> None:
    pool = pools(TINY)
    given = pool.allocate(owner(1))
    pool.release(owner(1))
    assert pool.allocate(owner(2), wanted=given) == given
    assert [str(pool.allocate(owner(number))[0])[-1] for number in (3, 4, 5, 6)] == ["3", "4", "5", "6"]


def test_an_address_that_a_pods_object_still_has_is_not_handed_out(pools: Pools) -> None:
    """Neither one that was released nor one that this pool never had (its journal may be new)."""
    pool = pools(TINY)
    objects = dict.fromkeys(addresses("10.244.2.2", "10.244.2.4"), "default/old")
    pool.allocate(owner(1))
    pool.release(owner(1))
    given = [str(pool.allocate(owner(number), pod_of=objects.get)[0])[-1] for number in (2, 3, 4)]
    assert given == ["3", "5", "6"]
    with pytest.raises(SubnetFull, match=r"is full \(5 of 5, 2 of them by objects of pods that are gone\)"):
        pool.allocate(owner(5), pod_of=objects.get)
    with pytest.raises(AddressRefused, match=r"10.244.2.4 was asked for, but the object of pod default/old has it"):
        pool.allocate(owner(5), wanted=addresses("10.244.2.4"), pod_of=objects.get)
    assert pool.allocate(owner(2), pod_of=lambda _: "default/old") == addresses("10.244.2.3")
    objects.clear()
    assert [str(pool.allocate(owner(number), pod_of=objects.get)[0])[-1] for number in (5, 6)] == ["2", "4"]


@pytest.mark.parametrize(
    ("wanted", "what"),
    [
        (["10.244.2.9"], "node n2: 10.244.2.9 was asked for, but pod default/web has it"),
        (["10.244.3.9"], "10.244.3.9 was asked for, but this node has 10.244.2.0/24 and fd00:0:0:2::/64"),
        (["10.244.2.0"], "10.244.2.0 was asked for, but it is the network's, the gateway's or the broadcast address"),
        (["10.244.2.1"], "10.244.2.1 was asked for, but it is the network's"),
        (["10.244.2.255"], "10.244.2.255 was asked for, but it is the network's"),
        (["fd00:0:0:2::"], "but it is the network's"),
        (["fd00:0:0:2::1"], "but it is the network's"),
        (["10.244.2.5", "10.244.2.6"], "two IPv4 addresses asked for, 10.244.2.5 and 10.244.2.6"),
    ],
)
def test_wanted_addresses_that_cannot_be(pools: Pools, wanted: list[str], what: str) -> None:
    pool = pools(DUAL)
    pool.allocate(owner(9), pod="default/web", wanted=addresses("10.244.2.9"))
    with pytest.raises(AddressRefused) as caught:
        pool.allocate(owner(1), wanted=addresses(*wanted))
    assert what in str(caught.value)
    assert set(pools(DUAL).allocations) == {owner(9)}


def test_a_family_that_the_node_lacks_cannot_be_wanted(pools: Pools) -> None:
    with pytest.raises(AddressRefused, match="this node has 10"):
        pools(V4).allocate(owner(1), wanted=addresses("fd00::9"))


def test_an_unnamed_pods_container_is_named_instead(pools: Pools) -> None:
    pool = pools(V4)
    pool.allocate(owner(9), wanted=addresses("10.244.2.9"))
    with pytest.raises(AddressRefused, match="but container c9 eth0 has it"):
        pool.allocate(owner(1), wanted=addresses("10.244.2.9"))


def test_an_owner_that_asks_for_others_the_second_time(pools: Pools) -> None:
    pool = pools(V4)
    given = pool.allocate(owner(1), wanted=addresses("10.244.2.9"))
    assert pool.allocate(owner(1), wanted=given) == given
    with pytest.raises(AddressRefused, match="already has others"):
        pool.allocate(owner(1), wanted=addresses("10.244.2.10"))


# Another subnet


def test_allocations_of_an_earlier_subnet_stay_until_released(pools: Pools) -> None:
    pool = pools(V4)
    old = pool.allocate(owner(1), pod="default/old")
    pool.allocate(owner(2))
    pool.release(owner(2))
    moved = NodeSubnets(IPv4Network("10.244.7.0/24"))
    pool = pools(moved)
    assert [str(allocation) for allocation in pool.outside_subnets()] == ["pod default/old"]
    assert pool.allocate(owner(1)) == old
    assert pool.allocate(owner(3)) == addresses("10.244.7.2")
    assert pool.release(owner(1)) == old
    assert pools(moved).outside_subnets() == []


# What may happen to the file


def test_a_torn_last_line_is_dropped(pools: Pools, path: Path) -> None:
    pool = pools(V4)
    pool.allocate(owner(1))
    pool.allocate(owner(2))
    whole = path.read_bytes()
    for cut in range(1, 20):
        path.write_bytes(whole[:-cut])
        assert set(pools(V4).allocations) == {owner(1)}
    pool = pools(V4)
    assert pool.allocate(owner(3)) == addresses("10.244.2.3")
    assert set(pools(V4).allocations) == {owner(1), owner(3)}


LINES = {
    "garbage": ('{"do":"allocate","cont', "Input data was truncated"),
    "not UTF-8": ("\udcff", "damaged"),
    "unknown deed": ('{"do":"dance"}', "Invalid value 'dance'"),
    "no address": ('{"do":"rest","address":"10.x"}', '"10.x" is not an address'),
    "taken": (
        '{"do":"allocate","container":"c7","ifname":"eth0","addresses":["10.244.2.2"]}',
        "10.244.2.2 is in use by",
    ),
    "twice": ('{"do":"allocate","container":"c1","ifname":"eth0","addresses":["10.244.2.9"]}', "has addresses already"),
    "never had": ('{"do":"release","container":"c5","ifname":"eth0"}', "releases what it never had"),
}


@pytest.mark.parametrize("damage", LINES)
def test_a_damaged_file_is_named_with_its_line(pools: Pools, path: Path, damage: str) -> None:
    line, what = LINES[damage]
    pool = pools(V4)
    pool.allocate(owner(1))
    with path.open("ab") as file:
        file.write(line.encode(errors="surrogateescape") + b"\n")
    before = path.read_bytes()
    with pytest.raises(StateError) as caught:
        pools(V4)
    assert f"{path}:2: damaged: " in str(caught.value)
    assert what in str(caught.value)
    assert "when no pod runs on this node, remove the file" in str(caught.value)
    assert path.read_bytes() == before


def test_the_state_directory_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="file/addresses: cannot open the pod addresses"):
        AddressPool(tmp_path / "file" / "addresses", "n2", V4)


class FullDisk:
    """pwrite as on a disk with `room` bytes left."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._pwrite = os.pwrite

    def __call__(self, file: int, data: bytes, offset: int) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._pwrite(file, data[: self.room], offset)
        self.room -= written
        return written


@pytest.mark.parametrize("room", [0, 1, 30])
def test_a_full_disk_changes_nothing(pools: Pools, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    pool = pools(V4)
    pool.allocate(owner(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", FullDisk(room))
        with pytest.raises(StateError, match="cannot write the pod addresses: No space left on device"):
            pool.allocate(owner(2))
        with pytest.raises(StateError):
            pool.release(owner(1))
        assert set(pool.allocations) == {owner(1)}
    assert pool.allocate(owner(3)) == addresses("10.244.2.3")
    assert set(pools(V4).allocations) == {owner(1), owner(3)}


def test_a_read_only_disk_changes_nothing(pools: Pools, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pools(V4)
    pool.allocate(owner(1))

    def read_only(*_: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "ftruncate", read_only)
    with pytest.raises(StateError, match="Read-only file system"):
        pool.allocate(owner(2))
    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(StateError, match=f"{path}: cannot open the pod addresses: Read-only file system"):
        AddressPool(path, "n2", V4)
    monkeypatch.undo()
    assert set(pools(V4).allocations) == {owner(1)}


def test_a_rewrite_that_fails_keeps_the_long_file(pools: Pools, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pools(V4)
    pool.allocate(owner(1))
    pool.allocate(owner(2))
    pool.release(owner(2))
    pools.close()
    long = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", FullDisk(10))
        pool = pools(V4)
    assert path.read_bytes() == long
    assert list(path.parent.iterdir()) == [path]
    assert pool.allocate(owner(3)) == addresses("10.244.2.4")
    assert set(pools(V4).allocations) == {owner(1), owner(3)}


def test_the_file_does_not_grow_for_ever(pools: Pools, path: Path) -> None:
    pool = pools(V4)
    for number in range(6000):
        pool.allocate(owner(number))
        pool.release(owner(number))
    assert path.read_bytes().count(b"\n") < 5000
    assert pools(V4).allocate(owner(1))
    assert path.read_bytes().count(b"\n") <= 254


# Any sequence


class AnyLife(RuleBasedStateMachine):
    """Allocate, ask, release, restart in any order: no address twice, none reserved, reuse in the order of release."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = TemporaryDirectory()
        self.path = Path(self.directory.name) / "addresses"
        self.pool = AddressPool(self.path, "n2", TINY)
        self.held: dict[Owner, IPAddress] = {}
        self.released: list[IPAddress] = []

    def teardown(self) -> None:
        self.pool.close()
        self.directory.cleanup()

    def expected(self) -> IPAddress | None:
        """What is to come next: the lowest never used, else the one released first."""
        used = {*self.held.values(), *self.released}
        fresh = [address for address in list(TINY.ipv4 or ())[2:-1] if address not in used]
        return fresh[0] if fresh else (self.released[0] if self.released else None)

    @rule(number=st.integers(0, 9))
    def allocate(self, number: int) -> None:
        if owner(number) in self.held:
            assert self.pool.allocate(owner(number)) == (self.held[owner(number)],)
            return
        expected = self.expected()
        if expected is None:
            with pytest.raises(SubnetFull):
                self.pool.allocate(owner(number))
            return
        assert self.pool.allocate(owner(number)) == (expected,)
        self.took(owner(number), expected)

    @rule(number=st.integers(10, 19), last=st.integers(0, 8))
    def ask(self, number: int, last: int) -> None:
        wanted = ip_address(f"10.244.2.{last}")
        possible = 2 <= last <= 6 and wanted not in self.held.values() and owner(number) not in self.held
        try:
            self.pool.allocate(owner(number), wanted=[wanted])
        except AddressRefused:
            assert not possible
        else:
            assert possible or self.held[owner(number)] == wanted
            self.took(owner(number), wanted)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        going = data.draw(st.sampled_from(sorted(self.held)))
        address = self.held.pop(going)
        assert self.pool.release(going) == (address,)
        self.released.append(address)

    @rule()
    def restart(self) -> None:
        self.pool.close()
        self.pool = AddressPool(self.path, "n2", TINY)

    @invariant()
    def agrees(self) -> None:
        assert {o: a.addresses[0] for o, a in self.pool.allocations.items()} == self.held

    def took(self, by: Owner, address: IPAddress) -> None:
        self.held[by] = address
        if address in self.released:
            self.released.remove(address)


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = settings(stateful_step_count=40)
