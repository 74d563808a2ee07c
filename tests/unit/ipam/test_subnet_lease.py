"""A node's subnet lease over a store: claimed once, kept, changed, renewed, released."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec
import pytest
from tests import builders

from percale.errors import AddressRefused, BadConfig, Conflict, NetworkFull, StoreError, StoreUnavailable
from percale.ipam.subnet_lease import RENEW_BEFORE, TTL, Claimant, HeldLease, acquire, still_held
from percale.model.meta import ObjectKey
from percale.model.netconf import network_config
from percale.model.subnet_lease import MACHINE, RESERVED, NodeSubnets, SubnetLease, SubnetLeaseSpec
from percale.store.memory import MemoryStore

CONFIG = network_config({"Network": "10.244.0.0/16"})
DUAL = network_config({"Network": "10.244.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00::/48"})
SMALL = network_config({"Network": "10.244.0.0/16", "SubnetMin": "10.244.1.0", "SubnetMax": "10.244.2.0"})


class Recorder(MemoryStore):
    """Remembers the TTL of every put, and can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.ttls: list[float | None] = []
        self.away = 0
        """How many puts fail."""

    async def put(self, obj: Any, *, expect: str | None = None, ttl: float | None = None) -> Any:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("away")
        self.ttls.append(ttl)
        return await super().put(obj, expect=expect, ttl=ttl)


class Distant(MemoryStore):
    """Answers later, so that others come in between."""

    async def list(self, kind: Any) -> Any:
        listed = await super().list(kind)
        await asyncio.sleep(0)
        return listed

    async def put(self, obj: Any, *, expect: str | None = None, ttl: float | None = None) -> Any:
        await asyncio.sleep(0)
        return await super().put(obj, expect=expect, ttl=ttl)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


def claimant(
    number: int,
    *,
    machine: str | None = None,
    public_ip: str | None = None,
    mac: str = "02:00:00:00:00:01",
    pod_cidr: str | None = None,
    previous: str | None = None,
) -> Claimant:
    address = IPv4Address(public_ip or f"192.0.2.{number}")

    def spec_for(subnets: NodeSubnets) -> SubnetLeaseSpec:
        return SubnetLeaseSpec(
            node=f"n{number}",
            subnet=subnets.ipv4,
            ipv6Subnet=subnets.ipv6,
            publicIP=address if subnets else None,
            backendType="vxlan",
            backendData={"VNI": 1, "VtepMAC": mac},
        )

    return Claimant(
        node=f"n{number}",
        machine=machine or f"machine-{number}",
        public_ips=(address,),
        spec_for=spec_for,
        pod_cidrs=NodeSubnets(IPv4Network(pod_cidr)) if pod_cidr else None,
        previous=NodeSubnets(IPv4Network(previous)) if previous else None,
    )


def subnet_of(held: HeldLease) -> str:
    return str(held.lease.spec.subnet)


async def in_store(store: MemoryStore) -> dict[str, str]:
    return {lease.metadata.name: lease.spec.node for lease in await store.list(SubnetLease)}


async def reserve(store: MemoryStore, node: str, subnet: str) -> None:
    lease = builders.lease(1, node=node, subnet=subnet)
    metadata = msgspec.structs.replace(lease.metadata, annotations={RESERVED: "true"})
    await store.put(msgspec.structs.replace(lease, metadata=metadata))


# Claiming


async def test_the_first_free_subnet_is_claimed() -> None:
    store = Recorder()
    assert subnet_of(await acquire(store, CONFIG, claimant(1))) == "10.244.1.0/24"
    assert subnet_of(await acquire(store, CONFIG, claimant(2))) == "10.244.2.0/24"
    lease = await store.get(SubnetLease, ObjectKey(None, "10.244.2.0-24"))
    assert lease is not None
    assert lease.metadata.annotations == {MACHINE: "machine-2"}
    assert lease.spec.publicIP == IPv4Address("192.0.2.2")
    assert store.ttls == [TTL, TTL]


async def test_bug_a_lost_race_tries_the_next() -> None:
    store = Distant()
    held = await asyncio.gather(*(acquire(store, CONFIG, claimant(number)) for number in range(1, 51)))
    assert len({subnet_of(one) for one in held}) == 50
    assert sorted((await in_store(store)).values()) == sorted(f"n{number}" for number in range(1, 51))


async def lost_races(*, at_own_place: bool) -> int:
    """Of a hundred nodes that claim at once."""
    lost = 0

    class Counting(Distant):
        async def put(self, obj: Any, *, expect: str | None = None, ttl: float | None = None) -> Any:
            nonlocal lost
            try:
                return await super().put(obj, expect=expect, ttl=ttl)
            except Conflict:
                lost += 1
                raise

    store = Counting()
    claimants = [msgspec.structs.replace(claimant(number), at_own_place=at_own_place) for number in range(1, 101)]
    held = await asyncio.gather(*(acquire(store, CONFIG, each) for each in claimants))
    assert len({subnet_of(each) for each in held}) == 100
    return lost


async def test_nodes_that_claim_at_once_begin_at_places_of_their_own() -> None:
    assert await lost_races(at_own_place=False) == 99 * 100 / 2
    assert await lost_races(at_own_place=True) < 99


async def test_a_node_begins_at_the_same_place_again_and_finds_the_last_free_subnet(store: MemoryStore) -> None:
    first = await acquire(store, CONFIG, msgspec.structs.replace(claimant(1), at_own_place=True))
    await first.release()
    again = await acquire(store, CONFIG, msgspec.structs.replace(claimant(1), at_own_place=True))
    assert subnet_of(again) == subnet_of(first) != "10.244.1.0/24"
    for number in (2, 3):
        assert await acquire(store, SMALL, msgspec.structs.replace(claimant(number), at_own_place=True))
    with pytest.raises(NetworkFull):
        await acquire(store, SMALL, msgspec.structs.replace(claimant(4), at_own_place=True))


async def test_a_full_network_says_what_to_do(store: MemoryStore) -> None:
    await acquire(store, SMALL, claimant(1))
    await acquire(store, SMALL, claimant(2))
    with pytest.raises(NetworkFull) as caught:
        await acquire(store, SMALL, claimant(3))
    assert str(caught.value) == (
        "node n3: no free subnet in 10.244.0.0/16 (2 between SubnetMin and SubnetMax); "
        "enlarge Network or SubnetLen in net-conf.json, or delete the lease of a node that is gone"
    )


async def test_the_previous_subnet_is_preferred_if_free(store: MemoryStore) -> None:
    assert subnet_of(await acquire(store, CONFIG, claimant(1, previous="10.244.7.0/24"))) == "10.244.7.0/24"
    assert subnet_of(await acquire(store, CONFIG, claimant(2, previous="10.244.7.0/24"))) == "10.244.1.0/24"
    assert subnet_of(await acquire(store, CONFIG, claimant(3, previous="10.9.0.0/24"))) == "10.244.2.0/24"


async def test_a_restart_keeps_the_lease_and_writes_what_changed(store: MemoryStore) -> None:
    await acquire(store, CONFIG, claimant(1))
    await acquire(store, CONFIG, claimant(2))
    again = await acquire(store, CONFIG, claimant(2, public_ip="192.0.2.22", previous="10.244.9.0/24"))
    assert subnet_of(again) == "10.244.2.0/24"
    assert again.lease.spec.publicIP == IPv4Address("192.0.2.22")
    assert len(await in_store(store)) == 2


async def test_a_lease_outside_the_configuration_is_exchanged(store: MemoryStore) -> None:
    await acquire(store, CONFIG, claimant(1))
    moved = network_config({"Network": "10.20.0.0/16"})
    assert subnet_of(await acquire(store, moved, claimant(1))) == "10.20.1.0/24"
    assert await in_store(store) == {"10.20.1.0-24": "n1"}


async def test_from_one_family_to_both_and_back_the_number_stays(store: MemoryStore) -> None:
    await acquire(store, CONFIG, claimant(1, previous="10.244.5.0/24"))
    await acquire(store, DUAL, claimant(1))
    assert await in_store(store) == {"10.244.5.0-24&fd00-0-0-5---64": "n1"}
    await acquire(store, CONFIG, claimant(1))
    assert await in_store(store) == {"10.244.5.0-24": "n1"}


async def test_of_several_own_leases_one_stays(store: MemoryStore) -> None:
    for third in (3, 4):
        await store.put(builders.lease(third, node="n1"))
    assert subnet_of(await acquire(store, CONFIG, claimant(1))) == "10.244.3.0/24"
    assert await in_store(store) == {"10.244.3.0-24": "n1"}


# podCIDR


async def test_the_pod_cidr_is_taken_whatever_the_range_says(store: MemoryStore) -> None:
    await acquire(store, SMALL, claimant(1))
    assert subnet_of(await acquire(store, SMALL, claimant(1, pod_cidr="10.244.99.0/26"))) == "10.244.99.0/26"
    assert await in_store(store) == {"10.244.99.0-26": "n1"}


async def test_overlapping_pod_cidrs_name_both_nodes(store: MemoryStore) -> None:
    await acquire(store, CONFIG, claimant(1, pod_cidr="10.244.8.0/24"))
    with pytest.raises(AddressRefused) as caught:
        await acquire(store, CONFIG, claimant(2, pod_cidr="10.244.8.128/25"))
    assert "node n2: subnet 10.244.8.128/25 overlaps 10.244.8.0/24 of node n1" in str(caught.value)
    assert await in_store(store) == {"10.244.8.0-24": "n1"}


async def test_one_pod_cidr_claimed_by_two_at_once_is_one_nodes() -> None:
    store = Distant()
    outcomes = await asyncio.gather(
        *(acquire(store, CONFIG, claimant(number, pod_cidr="10.244.8.0/24")) for number in (1, 2)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] in ([HeldLease, AddressRefused], [AddressRefused, HeldLease])
    assert len(await in_store(store)) == 1


async def test_one_pod_cidr_claimed_by_two_machines_of_one_name_at_once_is_one_machines() -> None:
    store = Distant()
    claimants = [claimant(1, machine=machine, pod_cidr="10.244.8.0/24") for machine in "ab"]
    held, refused = await asyncio.gather(*(acquire(store, CONFIG, each) for each in claimants), return_exceptions=True)
    assert isinstance(held, HeldLease)
    assert isinstance(refused, BadConfig)
    assert "node n1: another machine (192.0.2.1) has this name and holds 10.244.8.0/24" in str(refused)


# Conflicts


async def test_two_nodes_with_one_public_ip(store: MemoryStore) -> None:
    await acquire(store, CONFIG, claimant(1))
    with pytest.raises(BadConfig, match=r"node n2: public address 192\.0\.2\.1 is node n1's too; set --public-ip"):
        await acquire(store, CONFIG, claimant(2, public_ip="192.0.2.1"))
    assert await in_store(store) == {"10.244.1.0-24": "n1"}


async def test_two_nodes_with_one_public_ip_at_the_same_moment_do_not_both_stay() -> None:
    store = Distant()
    outcomes = await asyncio.gather(
        *(acquire(store, CONFIG, claimant(number, public_ip="192.0.2.9")) for number in (1, 2)), return_exceptions=True
    )
    assert BadConfig in {type(outcome) for outcome in outcomes}
    assert len(await in_store(store)) == sum(isinstance(outcome, HeldLease) for outcome in outcomes)


async def test_duplicate_node_name(store: MemoryStore) -> None:
    await acquire(store, CONFIG, claimant(1))
    with pytest.raises(BadConfig) as caught:
        await acquire(store, CONFIG, claimant(1, machine="another", public_ip="192.0.2.7"))
    assert str(caught.value) == (
        "node n1: another machine (192.0.2.1) has this name and holds 10.244.1.0/24; "
        "give this node another name, or delete SubnetLease 10.244.1.0-24 if that machine is gone"
    )


async def test_the_same_machine_may_change_its_address(store: MemoryStore) -> None:
    await acquire(store, CONFIG, claimant(1))
    held = await acquire(store, CONFIG, claimant(1, public_ip="192.0.2.77"))
    assert subnet_of(held) == "10.244.1.0/24"


async def test_a_lease_that_flannel_wrote_for_this_nodes_address_is_taken_over(store: MemoryStore) -> None:
    """In etcd flannel's nodes have no other name. A neighbour's stays its own."""
    for number in (1, 2):
        address = f"192.0.2.{number}"
        await store.put(builders.lease(number, node=address, publicIP=address, subnet=f"10.244.{6 + number}.0/24"))
    held = await acquire(store, CONFIG, claimant(1))
    assert subnet_of(held) == "10.244.7.0/24"
    assert await in_store(store) == {"10.244.7.0-24": "n1", "10.244.8.0-24": "192.0.2.2"}
    with pytest.raises(BadConfig, match=r"public address 192\.0\.2\.1 is node n1's too"):
        await acquire(store, CONFIG, claimant(2, public_ip="192.0.2.1"))


# Reservations


async def test_bug_a_reservation_stays_one_when_it_is_used() -> None:
    """flannel gives it a 24 h lease on first reuse."""
    store = Recorder()
    await reserve(store, "n1", "10.244.6.0/24")
    held = await acquire(store, CONFIG, claimant(1))
    await held.renew()
    assert subnet_of(held) == "10.244.6.0/24"
    assert store.ttls == [None, None, None]
    await held.release()
    assert await in_store(store) == {"10.244.6.0-24": "n1"}


async def test_a_lease_of_the_last_life_is_renewed_as_it_is_in_the_store() -> None:
    """Of a store that was away at the start: a reservation stays one, and annotations of others stay."""
    store = Recorder()
    await reserve(store, "n1", "10.244.6.0/24")
    held = still_held(store, CONFIG, claimant(1, previous="10.244.6.0/24"))
    assert held is not None and subnet_of(held) == "10.244.6.0/24"
    await held.renew()
    assert store.ttls == [None, None]
    assert RESERVED in held.lease.metadata.annotations
    assert still_held(store, CONFIG, claimant(1)) is None
    assert still_held(store, CONFIG, claimant(1, previous="10.9.0.0/24")) is None, "another network's"


async def test_a_reservation_of_nobody_is_not_handed_out(store: MemoryStore) -> None:
    await reserve(store, "", "10.244.1.0/24")
    assert subnet_of(await acquire(store, CONFIG, claimant(1))) == "10.244.2.0/24"


async def test_an_unfit_reservation_is_not_deleted(store: MemoryStore) -> None:
    await reserve(store, "n1", "10.9.0.0/24")
    await acquire(store, CONFIG, claimant(1))
    assert await in_store(store) == {"10.244.1.0-24": "n1", "10.9.0.0-24": "n1"}


# Changing, releasing


async def test_describe_writes_changes_only() -> None:
    store = Recorder()
    held = await acquire(store, CONFIG, claimant(1))
    await held.update(held.lease.spec)
    assert len(store.ttls) == 1
    await held.update(msgspec.structs.replace(held.lease.spec, publicIP=IPv4Address("192.0.2.99")))
    lease = await store.get(SubnetLease, held.lease.key)
    assert lease is not None
    assert lease.spec.publicIP == IPv4Address("192.0.2.99")
    assert store.ttls == [TTL, TTL]


async def test_a_foreign_write_in_between_does_not_disturb(store: MemoryStore) -> None:
    held = await acquire(store, CONFIG, claimant(1))
    labelled = msgspec.structs.replace(held.lease.metadata, labels={"who": "an operator"})
    await store.put(msgspec.structs.replace(held.lease, metadata=labelled))
    await held.renew()
    assert held.lease.metadata.resourceVersion is not None


async def test_release_frees_the_subnet_and_may_be_repeated(store: MemoryStore) -> None:
    held = await acquire(store, CONFIG, claimant(1))
    await held.release()
    await held.release()
    assert await in_store(store) == {}


async def test_a_lost_lease_comes_back(store: MemoryStore) -> None:
    held = await acquire(store, CONFIG, claimant(1))
    await store.delete(SubnetLease, held.lease.key)
    await held.renew()
    assert await in_store(store) == {"10.244.1.0-24": "n1"}


async def test_a_lost_lease_that_another_took_is_not_taken_back(store: MemoryStore) -> None:
    held = await acquire(store, CONFIG, claimant(1))
    await store.delete(SubnetLease, held.lease.key)
    await acquire(store, CONFIG, claimant(2))
    with pytest.raises(AddressRefused, match=r"its subnet 10\.244\.1\.0/24 is node n2's now"):
        await held.renew()


async def test_a_race_while_renewing_reads_again(store: MemoryStore) -> None:
    held = await acquire(store, CONFIG, claimant(1))
    raced = 0

    class Racing(MemoryStore):
        async def put(self, obj: Any, *, expect: str | None = None, ttl: float | None = None) -> Any:
            nonlocal raced
            if raced == 0:
                raced += 1
                raise Conflict("changed")
            return await store.put(obj, expect=expect, ttl=ttl)

        async def get(self, kind: Any, key: ObjectKey) -> Any:
            return await store.get(kind, key)

    await HeldLease(Racing(), claimant(1), held.lease).renew()
    assert raced == 1


# Renewing


class Clock:
    """Time that passes only while somebody sleeps; `jumps` happen beside."""

    def __init__(self, jumps: Sequence[tuple[float, float]] = ()) -> None:
        self.now = 1000.0
        self._jumps = list(jumps)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        while self._jumps and self._jumps[0][0] <= self.now:
            self.now += self._jumps.pop(0)[1]
        await asyncio.sleep(0)


async def run_until(keeping: Callable[[], Awaitable[None]], condition: Callable[[], bool]) -> None:
    """Keep the lease until the condition holds; a bounded number of steps."""
    task = asyncio.ensure_future(keeping())
    for _ in range(20_000):
        if condition() or task.done():
            break
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert condition()


async def test_renewed_an_hour_before_the_end() -> None:
    store, clock = Recorder(), Clock()
    held = await acquire(store, CONFIG, claimant(1))
    times: list[float] = []

    def renewed() -> bool:
        if len(store.ttls) > len(times) + 1:
            times.append(clock.now)
        return len(times) == 2

    await run_until(lambda: held.keep_renewed(sleep=clock.sleep, clock=clock), renewed)
    assert times[0] - 1000.0 == pytest.approx(TTL - RENEW_BEFORE, abs=61)
    assert times[1] - times[0] == pytest.approx(TTL - RENEW_BEFORE, abs=61)


async def test_a_suspended_machine_renews_as_soon_as_it_wakes() -> None:
    store, clock = Recorder(), Clock(jumps=[(2000.0, 48 * 3600.0)])
    held = await acquire(store, CONFIG, claimant(1))
    await run_until(lambda: held.keep_renewed(sleep=clock.sleep, clock=clock), lambda: len(store.ttls) == 2)
    assert clock.now < 2000.0 + 48 * 3600 + 121


async def test_renewal_is_retried_while_the_store_is_unreachable() -> None:
    store, clock = Recorder(), Clock()
    held = await acquire(store, CONFIG, claimant(1))
    store.away = 5
    problems: list[StoreError] = []
    await run_until(
        lambda: held.keep_renewed(sleep=clock.sleep, clock=clock, on_problem=problems.append),
        lambda: len(store.ttls) == 2,
    )
    assert len(problems) == 5


async def test_renewal_ends_when_another_node_has_the_subnet(store: MemoryStore) -> None:
    clock = Clock()
    held = await acquire(store, CONFIG, claimant(1))
    await store.delete(SubnetLease, held.lease.key)
    await acquire(store, CONFIG, claimant(2))
    with pytest.raises(AddressRefused):
        await held.keep_renewed(sleep=clock.sleep, clock=clock)
