"""WireGuard's messages: there and back, and split where an attribute would be too long."""

from __future__ import annotations

import os
import struct
from base64 import b64encode
from ipaddress import ip_address, ip_network

import pytest

from percale.kernel.commands import to_commands
from percale.kernel.netlink import wireguard
from percale.kernel.netlink.socket import attribute, attribute_list, attributes, u32
from percale.kernel.plan import is_undisturbed, removable
from percale.kernel.protocol import Delete, Upsert
from percale.render.objects import Endpoint, KernelObject, WireguardDevice, WireguardPeer
from percale.secret import Secret

KEY = "A" * 42 + "E="
HERE = Endpoint(ip_address("192.0.2.2"), 51820)
DEVICE = WireguardDevice("flannel-wg", Secret(b"k" * 32), 51820, mark=7)
PEER = WireguardPeer(
    "flannel-wg", KEY, HERE, frozenset({ip_network("10.244.2.0/24"), ip_network("fd00:2::/64")}), Secret(b"p" * 32), 25
)
PEER6 = WireguardPeer("flannel-wg", "B" * 42 + "E=", Endpoint(ip_address("2001:db8::2"), 9), frozenset())


def answer(*bodies: bytes) -> list[KernelObject]:
    return list(wireguard.decode("flannel-wg", bodies))


def test_there_and_back() -> None:
    """What is sent has the form of what is answered, but for the flags."""
    ((count, message),) = wireguard.put_peers(7, [wireguard.put_peer(PEER), wireguard.put_peer(PEER6)])
    assert count == 2
    assert answer(wireguard.put_device(DEVICE, 7) + message[4:]) == [DEVICE, PEER, PEER6]


def test_a_device_that_has_nothing_yet() -> None:
    empty = bytes(4) + u32(1, 7) + attribute(6, struct.pack("=H", 0))
    assert answer(empty) == [WireguardDevice("flannel-wg", None, 0)]
    assert answer() == []


def test_a_peer_whose_networks_go_on_in_the_next_answer_is_one() -> None:
    first = WireguardPeer("flannel-wg", KEY, HERE, frozenset({ip_network("10.1.0.0/16")}), PEER.preshared_key, 25)
    rest = WireguardPeer("flannel-wg", KEY, None, frozenset({ip_network("10.2.0.0/16")}))
    bodies = [body for each in (first, rest) for _, body in wireguard.put_peers(7, [wireguard.put_peer(each)])]
    _, found = answer(wireguard.put_device(DEVICE, 7) + bodies[0][4:], bodies[1])
    assert found == WireguardPeer("flannel-wg", KEY, HERE, first.allowed | rest.allowed, PEER.preshared_key, 25)


def test_5000_peers_are_spread_over_messages_that_hold_them() -> None:
    peers = [wireguard.put_peer(PEER) for _ in range(5000)]
    messages = list(wireguard.put_peers(7, peers))
    assert sum(count for count, _ in messages) == 5000
    assert max(len(body) for _, body in messages) < 0x10000
    for count, body in messages:
        found = attributes(body, 4)
        assert found[1] == u32(1, 7)[4:]
        assert len(list(attribute_list(found[8]))) == count


def test_a_handshake_begins_when_keepalives_do_and_the_interval_is_as_declared() -> None:
    entries = [attributes(each) for _, each in attribute_list(wireguard.begin_handshake(PEER))]
    assert [int.from_bytes(each[5], "little") for each in entries] == [0, 1, 25]
    assert {each[3] for each in entries} == {struct.pack("=I", 4)}  # update only: it makes no peer


def test_a_peer_without_a_preshared_key_loses_the_one_that_it_has() -> None:
    (data,) = (each for _, each in attribute_list(wireguard.put_peer(PEER6)))
    assert attributes(data)[2] == bytes(32)


def test_as_commands_that_show_no_key() -> None:
    assert to_commands(Upsert(DEVICE)) == ["wg set flannel-wg listen-port 51820 fwmark 7 private-key KEY-FILE"]
    assert to_commands(Delete(DEVICE)) == []
    assert to_commands(Upsert(PEER)) == [
        f"wg set flannel-wg peer {KEY} preshared-key KEY-FILE endpoint 192.0.2.2:51820 persistent-keepalive 25 "
        "allowed-ips 10.244.2.0/24,fd00:2::/64"
    ]
    assert to_commands(Delete(PEER)) == [f"wg set flannel-wg peer {KEY} remove"]
    shown = repr((DEVICE, PEER))
    assert "kkk" not in shown
    assert b64encode(b"k" * 32).decode() not in shown
    assert "ppp" not in shown


def test_a_key_goes_with_its_device() -> None:
    assert not removable(DEVICE)
    assert removable(PEER)


@pytest.mark.parametrize(
    ("endpoint", "same"),
    [
        (HERE, True),
        (Endpoint(HERE.address, 1), True),  # a NAT's port
        (Endpoint(ip_address("2001:db8::2"), 9), True),  # its other address
        (Endpoint(ip_address("203.0.113.1"), 51820), False),
        (None, False),
    ],
    ids=str,
)
def test_where_a_peer_sends_from_is_no_change_by_others(endpoint: Endpoint | None, same: bool) -> None:
    key = b64encode(os.urandom(32)).decode()
    allowed = frozenset({ip_network("10.244.2.0/24"), ip_network("192.0.2.2"), ip_network("2001:db8::2")})
    known = WireguardPeer("flannel-wg", key, HERE, allowed)
    assert is_undisturbed(known, WireguardPeer("flannel-wg", key, endpoint, allowed)) is same
    assert not is_undisturbed(known, WireguardPeer("flannel-wg", key, endpoint, allowed, keepalive=1))
    assert not is_undisturbed(known, None)
