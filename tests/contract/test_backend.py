"""What every backend promises: `percale.backend.protocol.Backend`; the fake one here has a process and state on disk."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable, Iterator
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.fake_backend import FAKE, FakeBackend, FakeOptions, FakeProcess, is_running
from tests.waiting import until

from percale.backend.lease_conflicts import LeaseConflicts
from percale.backend.protocol import Backend, LocalFamily, LocalNode, PeerObjects, lease_spec
from percale.backend.registry import BACKENDS
from percale.backend.state_dir import BACKEND_STATE, load_state, retire_backends
from percale.errors import StateError
from percale.kernel.plan import dependencies_of, matches
from percale.kernel.protocol import Interface, Upsert
from percale.kernel.rtnl.fake import LOOPBACK, FakeKernel
from percale.model.backend_options import OPTIONS
from percale.model.ip_family import Family
from percale.model.subnet_lease import LeasedFamily, SubnetLease, SubnetLeaseSpec, make_lease
from percale.render.objects import Link, Route


@pytest.fixture(autouse=True)
def with_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, FAKE, FakeBackend)
    monkeypatch.setitem(OPTIONS, FAKE, FakeOptions)


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    process = FakeProcess(tmp_path / BACKEND_STATE / FAKE)
    if (pid := process.pid) is not None:
        os.kill(pid, signal.SIGKILL)


TYPES = ["vxlan", "ipip", "wireguard", "host-gw", "bgp", "udp", "alloc", "extension", FAKE]
every = pytest.mark.parametrize("name", TYPES)


async def start(name: str, state_dir: Path) -> Backend:
    """The backend of a node whose agent starts."""
    backend: Backend = BACKENDS[name](OPTIONS[name]())
    await load_state(backend, state_dir)
    return backend


def local(number: int = 1, families: Iterable[Family] = Family, without_underlay: Family | None = None) -> LocalNode:
    """A node of the segment that all share."""
    addresses = (ip_interface(f"192.0.2.{number}/24"), ip_interface(f"2001:db8::{number:x}/64"))
    eth0 = Interface("eth0", 2, f"02:00:00:00:00:{number:02x}", 1500, up=True, carrier=True, addresses=addresses)
    subnets = {Family.IPV4: ip_network(f"10.244.{number}.0/24"), Family.IPV6: ip_network(f"fd00:0:0:{number:x}::/64")}
    public = dict(zip(Family, (each.ip for each in addresses if each.version != without_underlay), strict=False))
    return LocalNode(
        name=f"n{number}",
        families={family: LocalFamily(subnets[family], eth0, public.get(family)) for family in families},
        on_link=frozenset({ip_network("192.0.2.0/24"), ip_network("2001:db8::/64")}),
    )


def lease_of(backend: Backend, node: LocalNode, **changes: Any) -> SubnetLease:
    """What this node publishes."""
    return make_lease(replace(lease_spec(backend, node), **changes))


def fitting(name: str, number: int = 1) -> LocalNode:
    """A node of the families that this backend carries."""
    return local(number, (FakeOptions if name == FAKE else OPTIONS[name]).families)


NODES = {
    "dual": local(),
    "ipv4": local(families=[Family.IPV4]),
    "ipv6": local(families=[Family.IPV6]),
    "ipv6 without underlay": local(without_underlay=Family.IPV6),
}
every_and_nodes = pytest.mark.parametrize(
    ("name", "node"),
    [
        pytest.param(name, node, id=f"{name}-{kind}")
        for name in TYPES
        for kind, node in NODES.items()
        if node.families.keys() <= fitting(name).families.keys()
    ],
)


@every
async def test_an_ordinary_node_can_have_it(name: str, state_dir: Path) -> None:
    backend = await start(name, state_dir)
    backend.check(fitting(name))
    assert 1280 <= backend.pod_mtu(fitting(name)) <= 1500
    assert backend.type == name


@every
async def test_its_lease_data_is_json_and_the_same_after_a_restart(name: str, state_dir: Path) -> None:
    first = (await start(name, state_dir)).lease_data(fitting(name))
    assert (await start(name, state_dir)).lease_data(fitting(name)) == first
    assert json.loads(json.dumps(first)) == {str(family): data for family, data in first.items()}


@every
async def test_it_keeps_what_it_says_and_where_it_says(name: str, state_dir: Path) -> None:
    backend = await start(name, state_dir)
    made = {path.relative_to(state_dir).parts[:2] for path in state_dir.rglob("*") if path != state_dir / BACKEND_STATE}
    assert made == ({(BACKEND_STATE, name)} if backend.keeps_state else set())
    own = state_dir / BACKEND_STATE / name
    for path in (own, *own.rglob("*")) if backend.keeps_state else ():
        assert not path.stat().st_mode & 0o077, path


@every
async def test_two_nodes_agree_and_one_twice_does_not(name: str, state_dir: Path) -> None:
    one, two = [await start(name, state_dir / node) for node in ("n1", "n2")]
    conflicts = LeaseConflicts(one.exclusive_ids)
    assert conflicts.admit(lease_of(one, fitting(name))) is None
    assert conflicts.admit(lease_of(two, fitting(name, 2))) is None
    elsewhere = [
        LeasedFamily(family, each.subnet, each.public_ip, one.lease_data(fitting(name)).get(family))
        for family, each in fitting(name, 3).families.items()
    ]
    copied = make_lease(SubnetLeaseSpec.of("n3", name, elsewhere))
    if list(one.exclusive_ids(copied.spec)):
        assert "nodes n1 and n3 have one " in (conflicts.admit(copied) or "")
    else:
        assert conflicts.admit(copied) is None


@every_and_nodes
async def test_tunnels_end_at_the_nodes_addresses_and_the_networks_ports(
    name: str, state_dir: Path, node: LocalNode
) -> None:
    backend = await start(name, state_dir)
    assert len(backend.tunnel_ends(node)) in (0, len(node.public_ips))
    for end in backend.tunnel_ends(node):
        assert end.address in node.public_ips
        assert end.port is None or end.port in OPTIONS[name]().tunnel_ports


@every_and_nodes
async def test_a_peer_is_reached_in_the_families_that_both_have(name: str, state_dir: Path, node: LocalNode) -> None:
    backend, other = [await start(name, state_dir / each) for each in ("n1", "n2")]
    lease = lease_of(other, fitting(name, 2))
    peer = backend.peer(node, lease)
    families = [
        (each.subnet, each.public_ip)
        for each in lease.spec.families
        if (mine := node.families.get(each.family)) is not None and mine.public_ip is not None
    ]
    assert peer.problem is None
    assert peer.addresses == tuple(address for _, address in families)
    routed = [obj.dst for obj in peer.objects if isinstance(obj, Route)]
    assert [*routed, *peer.learned] == [subnet for subnet, _ in families if OPTIONS[name].routes_peers]
    assert backend.peer(node, lease) == peer


@every
async def test_objects_of_a_peer_are_its_own_and_on_the_nodes_devices(name: str, state_dir: Path) -> None:
    backend, *others = [await start(name, state_dir / node) for node in ("n1", "n2", "n3")]
    device = backend.device(fitting(name))
    devices = {("link", "eth0"), *(obj.key for obj in device if isinstance(obj, Link))}
    two, three = (
        backend.peer(fitting(name), lease_of(other, fitting(name, number))).objects
        for number, other in enumerate(others, 2)
    )
    assert not {obj.key for obj in (*device, *two)} & {obj.key for obj in three}
    assert {lower for obj in (*device, *two, *three) for lower in dependencies_of(obj)} <= devices


@every
async def test_the_kernel_takes_all_of_it(name: str, state_dir: Path) -> None:
    backend, other = [await start(name, state_dir / node) for node in ("n1", "n2")]
    kernel = FakeKernel((LOOPBACK, fitting(name).interface))
    objects = (*backend.device(fitting(name)), *backend.peer(fitting(name), lease_of(other, fitting(name, 2))).objects)
    assert [error for error in kernel.apply([Upsert(obj) for obj in objects]) if error is not None] == []
    there = kernel.read()
    assert all(matches(obj, there.get(obj.key)) for obj in objects if obj.key[0] != "sysctl")


@every
@pytest.mark.parametrize("other", [*TYPES, ""])
async def test_a_peer_of_another_type_is_a_problem_that_names_both(name: str, other: str, state_dir: Path) -> None:
    backend, theirs = [await start(name, state_dir / node) for node in ("n1", "n2")]
    peer = backend.peer(fitting(name), lease_of(theirs, fitting(name, 2), backendType=other))
    if other in (name, ""):  # a lease that says none is read as ours
        assert peer.problem is None
    else:
        assert peer == PeerObjects(problem=f'its backend is "{other}", ours "{name}"')


@every
async def test_a_peer_without_a_common_family_is_none(name: str, state_dir: Path) -> None:
    backend = await start(name, state_dir)
    lease = lease_of(backend, local(2, families=[Family.IPV4]))
    assert backend.peer(local(families=[Family.IPV6]), lease) == PeerObjects()


DATA = st.none() | st.dictionaries(
    st.sampled_from(["VNI", "VtepMAC", "Key", "Other"]),
    st.none() | st.booleans() | st.integers() | st.text(max_size=17),
)


@every
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=DATA, data_v6=DATA)
async def test_whatever_a_peer_publishes_it_is_reached_or_has_a_problem(
    name: str, state_dir: Path, data: dict[str, Any] | None, data_v6: dict[str, Any] | None
) -> None:
    backend = await start(name, state_dir)
    lease = lease_of(backend, fitting(name, 2), backendData=data, backendV6Data=data_v6)
    peer = backend.peer(fitting(name), lease)
    assert len(peer.addresses) == len(fitting(name).families) or peer.problem
    assert bool(peer.objects or peer.learned) == (bool(peer.addresses) and OPTIONS[name].routes_peers)
    assert all(str(each) for each in backend.exclusive_ids(lease.spec))


# State and process; only the fake one has them


async def test_a_process_outlives_the_agent_and_is_started_once(state_dir: Path) -> None:
    first = (await start(FAKE, state_dir)).process
    assert isinstance(first, FakeProcess)
    with pytest.raises(StateError, match="the process has ended"):
        await first.check()
    await first.ensure(local(), [])
    await first.check()
    backend = await start(FAKE, state_dir)
    again = backend.process
    assert isinstance(again, FakeProcess)
    await again.ensure(local(), [lease_of(backend, local(2))])
    assert again.pid == first.pid is not None
    assert json.loads(again.config.read_text()) == {"node": "n1", "peers": ["n2"]}
    await again.stop()
    await again.stop()
    until(lambda: first.pid is None)


async def test_a_killed_process_is_noticed_and_started_again(state_dir: Path) -> None:
    process = (await start(FAKE, state_dir)).process
    assert isinstance(process, FakeProcess)
    await process.ensure(local(), [])
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: process.pid is None)
    with pytest.raises(StateError):
        await process.check()
    await process.ensure(local(), [])
    await process.check()
    await process.stop()


@pytest.mark.parametrize("name", ["vxlan", "host-gw", "bgp"])
async def test_another_backend_ends_the_process_of_the_one_before(name: str, state_dir: Path) -> None:
    before = (await start(FAKE, state_dir)).process
    assert isinstance(before, FakeProcess)
    await before.ensure(local(), [])
    pid = before.pid
    assert pid is not None
    await start(name, state_dir)
    until(lambda: not is_running(pid))
    assert not (state_dir / BACKEND_STATE / FAKE).exists()


async def test_cleanup_removes_what_backends_keep(state_dir: Path) -> None:
    await start(FAKE, state_dir)
    (state_dir / BACKEND_STATE / "of-a-newer-version").mkdir()
    removed = await retire_backends(state_dir)
    assert [path.name for path in removed] == [FAKE, "of-a-newer-version"]
    assert await retire_backends(state_dir) == []


async def test_a_state_directory_that_cannot_be_made_is_named(state_dir: Path) -> None:
    (state_dir / BACKEND_STATE).touch()
    with pytest.raises(StateError, match=r"backend/fake: cannot be made: Not a directory"):
        await start(FAKE, state_dir)
