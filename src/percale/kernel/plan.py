"""Compares desired and actual objects, and orders changes: pure functions on values. Called by `reconciler/state.py`.

Deletions come first, in reverse order of dependency (routes … addresses, links); then desired objects, each after its
dependencies: sysctls, links, addresses, neighbours, forwarding entries, peers, routes, shapers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from ipaddress import ip_network

from msgspec.structs import replace

from percale.kernel.netlink.link import has_kind, needs_new_device
from percale.kernel.protocol import Change, Delete, Upsert
from percale.render.objects import (
    OWNER,
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
    WireguardDevice,
    WireguardObject,
    WireguardPeer,
)

_SETTING, _LINK, _LINK_SETTING = 0, 1, 2
_RANKS: dict[type, int] = {
    Link: _LINK,
    WireguardDevice: 3,
    Address: 4,
    Neighbour: 5,
    FdbEntry: 6,
    WireguardPeer: 7,
    Route: 8,
    Shaper: 9,
    Redirect: 10,
}
_ON_ONE_DEVICE = (Route, Neighbour, FdbEntry, Address, Shaper, WireguardDevice, WireguardPeer)
_SHAPER_TOLERANCE = 0.01
"""The kernel stores a bucket as a time: read back, it differs slightly."""


def matches(desired: KernelObject, actual: KernelObject | None) -> bool:
    """True when the actual object is as desired; what the desired one leaves open matches anything."""
    if actual is None or desired == actual:
        return actual is not None
    match desired, actual:
        case Link(), Link():
            return _link_matches(desired, actual)
        case Route(), Route():
            return desired.dev is None and desired == Route(
                actual.dst, None, actual.via, actual.onlink, actual.src, actual.metric, actual.kind
            )
        case Shaper(), Shaper():
            near = abs(desired.burst - actual.burst) <= max(64, desired.burst * _SHAPER_TOLERANCE)
            return desired.dev == actual.dev and desired.rate // 8 == actual.rate // 8 and near
    return False


def _link_matches(desired: Link, actual: Link) -> bool:
    if not has_kind(desired.kind, actual.kind) or desired.up != actual.up:
        return False
    if desired.kind is not None and desired.alias != actual.alias:
        return False
    pairs = (
        (desired.mtu, actual.mtu),
        (desired.mac, actual.mac),
        (desired.master, actual.master),
        (desired.hairpin, actual.hairpin),
        (desired.arp, actual.arp),
    )
    return all(expected is None or expected == there for expected, there in pairs)


def is_undisturbed(known: WireguardObject, found: WireguardObject | None) -> bool:
    """True when only the kernel itself has changed it: a peer's endpoint is where its last packet came from.

    Such packets pass the guard, so they come from one of the peer's addresses; behind a NAT the port is any.
    """
    if not isinstance(known, WireguardPeer) or not isinstance(found, WireguardPeer) or found.endpoint is None:
        return known == found
    address = found.endpoint.address
    own = (known.endpoint is not None and address == known.endpoint.address) or ip_network(address) in known.allowed
    return own and replace(found, endpoint=known.endpoint) == known


def replaces(desired: KernelObject, actual: KernelObject | None) -> bool:
    """True when applying it creates a new device, without all that was on the old one."""
    return isinstance(desired, Link) and (
        actual is None or (isinstance(actual, Link) and needs_new_device(desired, actual))
    )


def disturbs_dependents(desired: KernelObject, actual: KernelObject | None) -> bool:
    """True when the device remains but loses objects: neighbours with its address, routes when it goes down."""
    if not isinstance(desired, Link) or not isinstance(actual, Link):
        return False
    changed = any(
        expected not in (None, there) for expected, there in ((desired.mac, actual.mac), (desired.arp, actual.arp))
    )
    return changed or desired.up != actual.up


def dependencies_of(obj: KernelObject) -> tuple[Key, ...]:
    """The keys of the objects that this one requires: its devices."""
    if isinstance(obj, _ON_ONE_DEVICE):
        return (("link", obj.dev),) if obj.dev is not None else ()
    match obj:
        case Link():
            lower = obj.kind.lower if obj.kind is not None else None
            return tuple(("link", name) for name in (obj.master, lower) if name is not None)
        case Redirect():
            return (("link", obj.dev), ("link", obj.to))
        case Sysctl():
            device = sysctl_device(obj.name)
            return (("link", device),) if device is not None else ()


def sysctl_device(name: str) -> str | None:
    """The device that a setting such as net/ipv6/conf/flannel.1/accept_ra is about."""
    parts = name.split("/")
    if len(parts) == 5 and parts[2] in ("conf", "neigh") and parts[3] not in ("all", "default"):
        return parts[3]
    return None


def removable(obj: KernelObject) -> bool:
    """False for what is not ours to delete, or not by itself: foreign devices, sysctls, which others may rely on."""
    if isinstance(obj, Link):
        return obj.kind is not None and obj.alias == OWNER
    return not isinstance(obj, Sysctl | WireguardDevice)


def order(removals: Iterable[KernelObject], upserts: Mapping[Key, KernelObject]) -> list[Change]:
    """The changes in order of dependency."""
    going = sorted(removals, key=_rank, reverse=True)
    coming: defaultdict[int, list[KernelObject]] = defaultdict(list)
    for obj in upserts.values():
        coming[_rank(obj)].append(obj)
    if _LINK in coming:
        coming[_LINK][:] = _lower_first({key: obj for key, obj in upserts.items() if isinstance(obj, Link)})
    return [*map(Delete, going), *(Upsert(obj) for rank in sorted(coming) for obj in coming[rank])]


def _rank(obj: KernelObject) -> int:
    if isinstance(obj, Sysctl):
        return _SETTING if sysctl_device(obj.name) is None else _LINK_SETTING
    return _RANKS[type(obj)]


def _lower_first(links: Mapping[Key, Link]) -> list[Link]:
    """Every device after its dependencies."""
    ordered: dict[Key, Link] = {}

    def add(key: Key, link: Link, above: frozenset[Key]) -> None:
        for lower in dependencies_of(link):
            if lower in links and lower not in above and lower not in ordered:
                add(lower, links[lower], above | {key})
        ordered.setdefault(key, link)

    for key, link in links.items():
        add(key, link, frozenset())
    return list(ordered.values())
