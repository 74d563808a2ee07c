"""A kind of device is a value and a codec: one that is registered here needs no change anywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address

import pytest
from msgspec.structs import replace

from percale.kernel.commands import to_commands
from percale.kernel.netlink import link
from percale.kernel.netlink.ifinfo import IndexOf, NameOf
from percale.kernel.netlink.link_kinds.codec import LinkKindCodec
from percale.kernel.netlink.link_kinds.registry import CODECS
from percale.kernel.netlink.socket import attribute, u8, u32
from percale.kernel.plan import dependencies_of, matches
from percale.kernel.protocol import Delete, LinkReset, ObjectChanged, ObjectRemoved, Upsert
from percale.kernel.reconciler.state import ReconcilerState
from percale.kernel.rtnl.fake import LOOPBACK, FakeKernel
from percale.render.link_kinds import Bridge, Ifb, LinkKind, Veth, VethPeer, Vxlan
from percale.render.objects import Link

UNDERLAY = replace(LOOPBACK, name="eth0", index=2)
LOCAL = IPv4Address("192.0.2.1")
INDICES = {"eth0": 2}


class Tunnel(LinkKind, frozen=True, tag="ipip"):
    """An IP-in-IP device; its TTL can be changed."""

    local: IPv4Address
    dev: str
    ttl: int = 0

    @property
    def lower(self) -> str | None:
        return self.dev


class TunnelCodec(LinkKindCodec[Tunnel]):
    """IFLA_IPTUN_LINK, _LOCAL and _TTL."""

    def decode(self, data: Mapping[int, bytes], name_of: NameOf) -> Tunnel:
        return Tunnel(IPv4Address(data[2]), name_of(int.from_bytes(data[1], "little")) or "", data[4][0])

    def encode(self, desired: Tunnel, index_of: IndexOf) -> list[bytes]:
        return [u32(1, index_of(desired.dev)), attribute(2, desired.local.packed), u8(4, desired.ttl)]

    def change(self, desired: Tunnel, actual: Tunnel) -> list[bytes] | None:
        if desired == actual:
            return []
        return [u8(4, desired.ttl)] if replace(desired, ttl=actual.ttl) == actual else None

    def options(self, desired: Tunnel) -> list[str]:
        return [f"local {desired.local} dev {desired.dev} ttl {desired.ttl or 'inherit'}"]


TUNNEL = Link("flannel.ipip", Tunnel(LOCAL, "eth0"), mtu=1480)
OTHER_TTL = replace(TUNNEL, kind=Tunnel(LOCAL, "eth0", ttl=64))
OTHER_SOURCE = replace(TUNNEL, kind=Tunnel(IPv4Address("192.0.2.9"), "eth0"))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, "ipip", TunnelCodec(Tunnel))


def test_a_registered_kind_there_and_back() -> None:
    create, _ = link.create(TUNNEL, 77, INDICES.__getitem__)
    assert link.as_link(link.decode(create.body), {2: "eth0"}.get).kind == TUNNEL.kind


def test_a_registered_kind_as_a_command() -> None:
    assert to_commands(Upsert(TUNNEL)) == [
        "ip link add flannel.ipip mtu 1480 type ipip local 192.0.2.1 dev eth0 ttl inherit",
        "ip link set flannel.ipip alias percale up",
    ]
    assert to_commands(Delete(TUNNEL)) == ["ip link delete flannel.ipip"]


def test_only_what_can_be_changed_is_changed_in_place() -> None:
    assert link.change(TUNNEL, TUNNEL, 77, INDICES.__getitem__) == []
    (request,) = link.change(OTHER_TTL, TUNNEL, 77, INDICES.__getitem__)
    assert u8(4, 64) in request.body
    assert attribute(2, LOCAL.packed) not in request.body
    assert not link.needs_new_device(OTHER_TTL, TUNNEL)
    assert link.needs_new_device(OTHER_SOURCE, TUNNEL)


def test_the_fake_kernel_has_it_too() -> None:
    kernel = FakeKernel((LOOPBACK, UNDERLAY))
    events: list[object] = []
    kernel.follow(events.extend)
    state = ReconcilerState()
    state.start_garbage_collection()
    for desired in (TUNNEL, OTHER_TTL, OTHER_SOURCE):
        state.declare("node", [desired])
        changes = state.plan()
        state.applied(changes, kernel.apply(changes))
        assert matches(desired, kernel.read()[desired.key])
        assert state.plan() == []
    assert dependencies_of(TUNNEL) == (("link", "eth0"),)
    kernel.interfere(Upsert(TUNNEL), Delete(TUNNEL))
    assert [type(event) for event in events] == [ObjectChanged, LinkReset, ObjectRemoved]


def test_a_device_of_an_unknown_kind_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    create, _ = link.create(TUNNEL, 77, INDICES.__getitem__)
    device = link.decode(create.body)
    monkeypatch.delitem(CODECS, "ipip")
    assert link.as_link(device, {2: "eth0"}.get).kind is None


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Vxlan(1, LOCAL, "eth0", gbp=True), "vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472 nolearning gbp"),
        (Bridge(), "bridge"),
        (Bridge(snooping=True, reserved=False), "bridge mcast_snooping 1 no_linklocal_learn 1"),
        (Veth(VethPeer("eth0", 7, mtu=1400)), "veth peer name eth0 mtu 1400 netns /proc/self/fd/7"),
        (Veth(), "veth"),
        (Ifb(), "ifb"),
    ],
    ids=str,
)
def test_each_kind_as_a_command(kind: LinkKind, options: str) -> None:
    assert to_commands(Upsert(Link("dev0", kind)))[0] == f"ip link add dev0 type {options}"
