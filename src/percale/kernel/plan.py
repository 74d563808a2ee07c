"""From what is dirty to the ordered changes that make it right: pure functions on values. `state` calls.

Removals come first, in the reverse order of dependence (elements … addresses, links); then what is wished, each after what it
stands on: settings, links, addresses, neighbours, forwarding entries, routes, shapers, tables, elements.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from percale.kernel.netlink.link import needs_new_device
from percale.kernel.protocol import Change, Delete, Upsert
from percale.render.objects import (
    OWNER,
    Address,
    Element,
    FdbEntry,
    KernelObject,
    Key,
    Link,
    Neighbour,
    Redirect,
    Route,
    Ruleset,
    Shaper,
    Sysctl,
)

_SETTING, _LINK, _LINK_SETTING = 0, 1, 2
_RANKS: dict[type, int] = {
    Link: _LINK,
    Address: 3,
    Neighbour: 4,
    FdbEntry: 5,
    Route: 6,
    Shaper: 7,
    Redirect: 8,
    Ruleset: 9,
    Element: 10,
}
_ON_ONE_DEVICE = (Route, Neighbour, FdbEntry, Address, Shaper)
_SHAPER_TOLERANCE = 0.01
"""The kernel keeps a bucket as a time: read back, it is not quite what was written."""


def matches(wish: KernelObject, have: KernelObject | None) -> bool:
    """True when what the kernel holds is what is wished; what a wish leaves open matches anything."""
    if have is None or wish == have:
        return have is not None
    match wish, have:
        case Link(), Link():
            return _link_matches(wish, have)
        case Route(), Route():
            return wish.dev is None and wish == Route(
                have.dst, None, have.via, have.onlink, have.src, have.metric, have.kind
            )
        case Shaper(), Shaper():
            near = abs(wish.burst - have.burst) <= max(64, wish.burst * _SHAPER_TOLERANCE)
            return wish.dev == have.dev and wish.rate // 8 == have.rate // 8 and near
        case Ruleset(), Ruleset():
            return wish.family == have.family and wish.digest == have.digest
    return False


def _link_matches(wish: Link, have: Link) -> bool:
    if needs_new_device(wish, have) or wish.up != have.up:
        return False
    if wish.kind is not None and (wish.alias != have.alias or wish.vxlan != have.vxlan):
        return False
    pairs = (
        (wish.mtu, have.mtu),
        (wish.mac, have.mac),
        (wish.master, have.master),
        (wish.hairpin, have.hairpin),
        (wish.arp, have.arp),
        (wish.bridge, have.bridge),
    )
    return all(wished is None or wished == there for wished, there in pairs)


def replaces(wish: KernelObject, have: KernelObject | None) -> bool:
    """True when making it so starts anew, and all that stands on it is gone: a new device, a table loaded again."""
    if isinstance(wish, Link):
        return have is None or (isinstance(have, Link) and needs_new_device(wish, have))
    return isinstance(wish, Ruleset)


def disturbs_dependents(wish: KernelObject, have: KernelObject | None) -> bool:
    """True when the device stays, but some of what is on it goes: neighbours with its address, routes when it goes down."""
    if not isinstance(wish, Link) or not isinstance(have, Link):
        return False
    changed = any(wished not in (None, there) for wished, there in ((wish.mac, have.mac), (wish.arp, have.arp)))
    return changed or wish.up != have.up


def dependencies_of(obj: KernelObject) -> tuple[Key, ...]:
    """The keys of the objects without which this one cannot be: its devices, its table."""
    if isinstance(obj, _ON_ONE_DEVICE):
        return (("link", obj.dev),) if obj.dev is not None else ()
    match obj:
        case Link():
            lower = obj.vxlan.dev if obj.vxlan is not None else None
            return tuple(("link", name) for name in (obj.master, lower) if name is not None)
        case Redirect():
            return (("link", obj.dev), ("link", obj.to))
        case Element():
            return (("ruleset", obj.family),)
        case Ruleset():
            return ()
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
    """False for what is not ours to take away: devices of others, and settings, which others may rely on."""
    if isinstance(obj, Link):
        return obj.kind is not None and obj.alias == OWNER
    return not isinstance(obj, Sysctl)


def order(removals: Iterable[KernelObject], puts: Mapping[Key, KernelObject]) -> list[Change]:
    """The changes, in an order in which each finds what it needs."""
    going = sorted(removals, key=_rank, reverse=True)
    coming: defaultdict[int, list[KernelObject]] = defaultdict(list)
    for obj in puts.values():
        coming[_rank(obj)].append(obj)
    if _LINK in coming:
        coming[_LINK][:] = _lower_first({key: obj for key, obj in puts.items() if isinstance(obj, Link)})
    return [*map(Delete, going), *(Upsert(obj) for rank in sorted(coming) for obj in coming[rank])]


def _rank(obj: KernelObject) -> int:
    if isinstance(obj, Sysctl):
        return _SETTING if sysctl_device(obj.name) is None else _LINK_SETTING
    return _RANKS[type(obj)]


def _lower_first(links: Mapping[Key, Link]) -> list[Link]:
    """Every device after the one it stands on."""
    ordered: dict[Key, Link] = {}

    def add(key: Key, link: Link, above: frozenset[Key]) -> None:
        for lower in dependencies_of(link):
            if lower in links and lower not in above and lower not in ordered:
                add(lower, links[lower], above | {key})
        ordered.setdefault(key, link)

    for key, link in links.items():
        add(key, link, frozenset())
    return list(ordered.values())
