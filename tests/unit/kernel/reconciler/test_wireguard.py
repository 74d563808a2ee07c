"""WireGuard's peers in the reconciler: their changes by others are no events, so they are looked at from time to time."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
import pytest_asyncio
from tests.waiting import eventually

from percale.kernel.protocol import Change, Delete, Upsert
from percale.kernel.reconciler import reconciler as reconciler_module
from percale.kernel.reconciler.reconciler import Reconciler
from percale.kernel.rtnl.fake import FakeKernel
from percale.render.link_kinds import Wireguard
from percale.render.objects import Endpoint, KernelObject, Link, WireguardDevice, WireguardPeer
from percale.secret import Secret

LINK = Link("flannel-wg", Wireguard(), mtu=1420)
DEVICE = WireguardDevice("flannel-wg", Secret(b"k" * 32), 51820)


def peer(number: int, key: str | None = None, subnet: int | None = None, port: int = 51820) -> WireguardPeer:
    """Node `number`'s."""
    allowed = frozenset({ip_network(f"10.244.{subnet or number}.0/24"), ip_network(f"192.0.2.{number}")})
    return WireguardPeer(
        "flannel-wg", key or f"key of {number}", Endpoint(ip_address(f"192.0.2.{number}"), port), allowed
    )


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler_module, "WIREGUARD_EVERY", 0.05)


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest_asyncio.fixture
async def reconciler(kernel: FakeKernel) -> Reconciler:
    made = Reconciler(kernel, on_restored=restored.append)
    restored.clear()
    await made.start()
    made.declare("node", (LINK, DEVICE))
    made.declare("peer/2", (peer(2),))
    made.declare("peer/3", (peer(3),))
    made.start_garbage_collection()
    await made.wait_idle()
    kernel.written.clear()
    return made


restored: list[KernelObject] = []


@pytest.mark.parametrize(
    "change",
    [
        Delete(peer(2)),
        Upsert(peer(2, subnet=9)),
        Upsert(WireguardPeer("flannel-wg", "key of 2", Endpoint(ip_address("203.0.113.1"), 1), peer(2).allowed)),
        Upsert(WireguardDevice("flannel-wg", Secret(b"o" * 32), 51820)),
        Upsert(WireguardDevice("flannel-wg", Secret(b"k" * 32), 9)),
    ],
    ids=["removed", "networks", "endpoint", "key", "port"],
)
async def test_what_others_change_is_restored(kernel: FakeKernel, reconciler: Reconciler, change: Change) -> None:
    declared = dict(kernel.objects)
    kernel.interfere(change)
    assert kernel.objects != declared
    assert await eventually(lambda: kernel.objects == declared)
    await reconciler.wait_idle()
    assert [obj.key for obj in restored] == [change.object.key]
    assert {written.object.key for written in kernel.written} == {change.object.key}
    await reconciler.stop()


async def test_a_stranger_that_takes_a_network_goes_and_the_peer_has_it_again(
    kernel: FakeKernel, reconciler: Reconciler
) -> None:
    declared = dict(kernel.objects)
    kernel.interfere(Upsert(peer(2, key="stranger")))
    assert await eventually(lambda: kernel.objects == declared)
    await reconciler.stop()


async def test_where_a_peer_sends_from_is_left_to_the_kernel(kernel: FakeKernel, reconciler: Reconciler) -> None:
    roamed = peer(2, port=4711)
    kernel.interfere(Upsert(roamed))
    kernel.interfere(Delete(peer(3)))
    assert await eventually(lambda: peer(3).key in kernel.objects)
    assert kernel.objects[roamed.key] == roamed
    assert [written.object for written in kernel.written] == [peer(3)]
    reconciler.declare("peer/2", (peer(2, port=9),))
    await reconciler.wait_applied("peer/2")
    assert kernel.objects[roamed.key] == peer(2, port=9)
    await reconciler.stop()


async def test_a_new_key_takes_over_in_one_batch_of_two_changes(kernel: FakeKernel, reconciler: Reconciler) -> None:
    """The old one goes first, so that they are one message."""
    reconciler.declare("peer/2", (peer(2, key="another"),))
    await reconciler.wait_idle()
    assert [(type(each), each.object.key[2]) for each in kernel.written] == [(Delete, "key of 2"), (Upsert, "another")]
    await reconciler.stop()


async def test_only_the_changed_peer_of_many_is_sent(kernel: FakeKernel, reconciler: Reconciler) -> None:
    for number in range(4, 250):
        reconciler.declare(f"peer/{number}", (peer(number),))
    await reconciler.wait_idle()
    kernel.written.clear()
    reconciler.declare("peer/9", (peer(9, port=1),))
    await reconciler.wait_idle()
    assert [each.object for each in kernel.written] == [peer(9, port=1)]
    await reconciler.stop()


async def test_a_deleted_device_comes_back_with_key_and_peers(kernel: FakeKernel, reconciler: Reconciler) -> None:
    declared = set(kernel.objects)
    kernel.interfere(Delete(LINK))
    assert await eventually(lambda: set(kernel.objects) == declared)
    await reconciler.stop()


async def test_after_a_restart_nothing_is_written_and_peers_without_a_lease_go_when_all_are_known(
    kernel: FakeKernel, reconciler: Reconciler
) -> None:
    await reconciler.stop()
    again = Reconciler(kernel)
    await again.start()
    again.declare("node", (LINK, DEVICE))
    again.declare("peer/2", (peer(2),))
    await again.wait_idle()
    assert kernel.written == []
    assert peer(3).key in kernel.objects
    again.start_garbage_collection()
    await again.wait_idle()
    assert [each.object for each in kernel.written] == [peer(3)]
    assert peer(3).key not in kernel.objects
    await again.stop()


async def test_a_kernel_that_cannot_be_read_is_reported_and_read_again(
    kernel: FakeKernel, reconciler: Reconciler, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = kernel.read_wireguard
    attempts: list[object] = []

    def breaking(devices: object) -> dict[object, object]:
        attempts.append(devices)
        raise OSError(105, "no buffer space")

    monkeypatch.setattr(kernel, "read_wireguard", breaking)
    assert await eventually(lambda: len(attempts) > 1)
    monkeypatch.setattr(kernel, "read_wireguard", fine)
    kernel.interfere(Delete(peer(3)))
    assert await eventually(lambda: peer(3).key in kernel.objects)
    await reconciler.stop()
