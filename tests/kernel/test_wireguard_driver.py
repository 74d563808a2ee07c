"""WireGuard's devices and peers through the driver, in the VM; the fake kernel does the same."""

from __future__ import annotations

import errno
from base64 import b64encode
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest
from tests.kernel.conftest import Space

from percale.backend.wireguard.curve25519 import public_key
from percale.kernel.protocol import Change, Delete, Driver, Upsert
from percale.kernel.rtnl.fake import FakeKernel
from percale.render.link_kinds import Wireguard
from percale.render.objects import Endpoint, KernelObject, Link, WireguardDevice, WireguardPeer
from percale.secret import Secret

LINK = Link("wg0", Wireguard(), mtu=1420)
PRIVATE = bytes.fromhex("58ab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e06b")
DEVICE = WireguardDevice("wg0", Secret(PRIVATE), 51820)


def peer(number: int, key: bytes | None = None, **changes: object) -> WireguardPeer:
    fields: dict[str, object] = {
        "endpoint": Endpoint(ip_address(f"2001:db8::{number:x}"), 51821),
        "allowed": frozenset({ip_network(f"fd00:0:0:{number:x}::/64"), ip_network((167772160 + number * 256, 24))}),
        "preshared_key": Secret(b"p" * 32),
        "keepalive": 25,
    }
    name = b64encode(key or number.to_bytes(32, "big")).decode()
    return WireguardPeer("wg0", name, **{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.vm)])
def driver(request: pytest.FixtureRequest, new_space: Callable[[], Space]) -> Driver:
    return FakeKernel() if request.param == "fake" else new_space().driver()


def put(driver: Driver, *objects: KernelObject) -> None:
    assert list(driver.apply([Upsert(obj) for obj in objects])) == [None] * len(objects)


def objects_of(driver: Driver) -> set[KernelObject]:
    found = driver.read_wireguard(["wg0", "missing"])
    assert {key: obj for key, obj in driver.read().items() if not isinstance(obj, Link)} == found
    return set(found.values())


def test_what_is_put_is_read_back_changed_and_gone_when_removed(driver: Driver) -> None:
    put(driver, LINK, DEVICE, peer(1), peer(2))
    assert objects_of(driver) == {DEVICE, peer(1), peer(2)}
    plain = peer(1, endpoint=Endpoint(ip_address("192.0.2.1"), 9), preshared_key=None, keepalive=0)
    other = WireguardDevice("wg0", Secret(bytes((8, *PRIVATE[1:]))), 9, mark=7)
    put(driver, plain, other)
    assert objects_of(driver) == {other, plain, peer(2)}
    put(driver, DEVICE)
    assert list(driver.apply([Delete(plain), Delete(plain)])) == [None, None]
    assert objects_of(driver) == {DEVICE, peer(2)}
    put(driver, peer(2, allowed=frozenset()))
    assert objects_of(driver) == {DEVICE, peer(2, allowed=frozenset())}


def test_a_network_is_the_last_one_s_and_a_new_key_takes_over(driver: Driver) -> None:
    put(driver, LINK, DEVICE, peer(1))
    renewed = peer(1, key=b"n" * 32)
    changes: list[Change] = [Delete(peer(1)), Upsert(renewed)]
    assert list(driver.apply(changes)) == [None, None]
    assert objects_of(driver) == {DEVICE, renewed}
    put(driver, peer(2, allowed=renewed.allowed))
    assert objects_of(driver) == {DEVICE, peer(1, key=b"n" * 32, allowed=frozenset()), peer(2, allowed=renewed.allowed)}


def test_a_device_goes_with_all_that_it_has(driver: Driver) -> None:
    put(driver, LINK, DEVICE, peer(1))
    assert list(driver.apply([Delete(peer(1)), Delete(DEVICE), Delete(LINK)])) == [None, None, None]
    assert driver.read() == {}
    assert list(driver.apply([Delete(peer(1))])) == [None]
    (error,) = driver.apply([Upsert(peer(1))])
    assert error is not None
    assert error.errno == errno.ENODEV


@pytest.mark.vm
def test_many_peers_of_which_one_is_refused_as_wg_shows_them(space: Space) -> None:
    """In several messages: the kernel stops at what it refuses, and the others are there all the same."""
    driver, bad = space.driver(), peer(300, preshared_key=Secret(b"short"))
    put(driver, LINK, DEVICE)
    good = [peer(number) for number in range(1, 600) if number != 300]
    results = driver.apply([Upsert(each) for each in (*good[:299], bad, *good[299:])])
    assert [(position, error.errno) for position, error in enumerate(results) if error is not None] == [
        (299, errno.ERANGE)
    ]
    assert objects_of(driver) == {DEVICE, *good}
    shown = space.shell("wg show wg0 peers").split()
    assert sorted(shown) == sorted(each.public_key for each in good)
    assert space.shell("wg show wg0 public-key").strip() == b64encode(public_key(PRIVATE)).decode()


@pytest.mark.vm
def test_foreign_devices_are_not_read_and_not_touched(space: Space) -> None:
    space.shell("ip link add wg0 type dummy; ip link add wg1 type wireguard; ip link set wg1 up")
    driver = space.driver()
    assert driver.read_wireguard(["wg0", "wg1"]) == {}
    errors = [error.errno if error is not None else None for error in driver.apply([Upsert(LINK), Upsert(peer(1))])]
    assert errors == [errno.EEXIST, errno.ENODEV]
