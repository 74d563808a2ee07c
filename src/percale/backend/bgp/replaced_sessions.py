"""Sessions between nodes that the configuration drops stay until others have brought all their routes. Pure.

A mesh turns to reflectors without a lost route: each node keeps its sessions of the mesh until it has learned by its new ones
what it knows by them, so that no neighbour withdraws anything meanwhile. A node that is gone is dropped at once, and so is a
router outside.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from msgspec import Struct

from percale.backend.bgp.bird_socket import LearnedRoute
from percale.backend.bgp.speaker import Session

LONGEST = 60.0
"""Seconds for which a session outlives the configuration."""
_SETTLED = 2.0
"""Seconds for which all its routes have been there by others: what we have from a reflector, it has sent to others too."""


class _Kept(Struct):
    session: Session
    deadline: float
    replaced_since: float | None = None


class ReplacedSessions:
    """The sessions of one node, over its changes of configuration."""

    def __init__(self) -> None:
        self._current: dict[str, Session] = {}
        self._kept: dict[str, _Kept] = {}

    def waiting(self, wanted: Iterable[Session]) -> bool:
        """Whether `update` needs the learned routes."""
        return bool(self._kept) or bool(self._current.keys() - {each.name for each in wanted})

    def update(
        self, wanted: Iterable[Session], learned: Iterable[LearnedRoute], nodes: Collection[str], now: float
    ) -> tuple[Session, ...]:
        """The sessions to keep beside the wanted ones. `nodes` are those that exist, `now` is in seconds."""
        current = {each.name: each for each in wanted}
        for name in sorted(self._current.keys() - current.keys()):
            self._kept[name] = _Kept(self._current[name], now + LONGEST)
        self._current = current
        taken = {(each.neighbor, each.port) for each in current.values()}
        replaced = _replaced(learned, self._kept)
        for name, kept in list(self._kept.items()):
            since = kept.replaced_since if kept.replaced_since is not None else now
            kept.replaced_since = since if replaced[name] else None
            settled = replaced[name] and now - since >= _SETTLED
            clash = name in current or (kept.session.neighbor, kept.session.port) in taken
            if clash or settled or now >= kept.deadline or kept.session.node not in nodes:
                del self._kept[name]
        return tuple(kept.session for kept in self._kept.values())


def _replaced(learned: Iterable[LearnedRoute], kept: Collection[str]) -> dict[str, bool]:
    """Whether every route of a session is there by one that stays: also when it has none, for the neighbour has left it."""
    sources: defaultdict[str, set[str]] = defaultdict(set)
    for route in learned:
        sources[route.network].add(route.protocol)
    found: dict[str, bool] = {}
    for protocols in sources.values():
        stays = bool(protocols.difference(kept))
        for name in protocols.intersection(kept):
            found[name] = found.get(name, True) and stays
    return {name: found.get(name, True) for name in kept}
