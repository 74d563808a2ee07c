"""The services of one node as edits of `table inet percale-services`. The agent feeds it what the service table says was touched.

    ResolvedService ─▶ service_pieces.py ─▶ Pieces ─┬─ elements of maps and sets
                                                    └─ chains and sets, shared by all services that ask for the same

An edit is the difference of a service's old and new pieces; nothing else is looked at. `image()` is all pieces together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeAlias, TypeVar

from percale.model.meta import ObjectKey
from percale.render.nft.objects import Chain, ElementBatch, Rule, SetSpec, Transaction, Verdict, joined
from percale.render.nft.table_state import Value
from percale.render.service.base_chains import SET_SPECS
from percale.render.service.service_chains import (
    Connections,
    Pieces,
    Place,
    Remembering,
    Shown,
    apart,
    pieces_of,
    shown,
)
from percale.service.resolved_service import ResolvedService
from percale.service.resolver import ServiceTable

K = TypeVar("K")
V = TypeVar("V")

_SHAPES = {shape.name: shape for shape in SET_SPECS}

Endpoints: TypeAlias = frozenset[bytes]
"""Endpoints as elements have them: address and port, padded."""


class ServiceElements:
    """Not for two threads at a time."""

    def __init__(self, table: ServiceTable) -> None:
        self.local_pods: frozenset[bytes] = frozenset()
        """The packed addresses of this node's pods; they may meet themselves behind a service."""
        self.connections: Connections = {}
        """How many each endpoint of a service with the strategy `lc` has, as of its last rendering."""
        self.left: dict[str, Endpoints] = {}
        """Maps of remembered clients that may hold endpoints that have gone, with those that may stay. The caller empties it."""
        self._table = table
        self._shown: dict[ObjectKey, Shown] = {}
        """What is in the kernel's table."""
        self._node: dict[Place, Value] = {}
        """Elements that belong to the node and to no service."""
        self._node_addresses: tuple[bytes, ...] = ()
        self._chains: _Shared[str, Chain] = _Shared()
        self._sets: _Shared[str, SetSpec] = _Shared()
        self._cluster_ips: _Shared[Place, bool] = _Shared()
        self._rules: dict[Remembering, dict[ObjectKey, tuple[Rule, ...]]] = {}
        """Those that remember the clients of an address, which several services may share."""

    def update(self, changed: Iterable[ObjectKey]) -> Transaction:
        """What the kernel's table needs after these services have changed; without any, after the node has."""
        edit = _Edit()
        remembering: dict[Remembering, Chain | None] = {}
        for key in {*changed, *self._guarded_anew()}:
            self._change(key, edit, remembering)
        self._settle_node(edit)
        for name, old in remembering.items():
            new = self._chain_of(name)
            edit.replace_chain(_remembering(name), old, new)
            edit.replace(_sticky(name, old), _sticky(name, new))
        for chain, was, now in self._chains.settled():
            edit.replace_chain(chain, was, now)
        for known, before, after in self._sets.settled():
            edit.replace_set(known, before, after)
        for place, gone, come in self._cluster_ips.settled():
            edit.replace({place: None} if gone else {}, {place: None} if come else {})
        return edit.finished()

    def snapshot(self) -> Transaction:
        """All of it, from the static text alone."""
        elements = [element for each in self._shown.values() for element in pieces_of(each).elements]
        around: dict[Place, Value] = {**self._node, **dict.fromkeys(self._cluster_ips.all)}
        chains = []
        for name in self._rules:
            chain = self._chain_of(name)
            around |= _sticky(name, chain)
            chains += [chain] if chain is not None else []
        return Transaction(
            put_sets=tuple(self._sets.all.values()),
            put_chains=(*self._chains.all.values(), *chains),
            put=(*joined(elements), *joined(_elements(around))),
        )

    def shown(self, key: ObjectKey) -> ResolvedService | None:
        """The service as the last update rendered it."""
        found = self._shown.get(key)
        return None if found is None else found.service

    def owners(self, part: Transaction) -> Iterator[ObjectKey]:
        """The services that ask for an element, chain or set of it. Looks at all of them."""
        names = {chain.name for chain in part.put_chains} | {shape.name for shape in part.put_sets}
        asked = {place.set: place.key for place in _places(part.put, {**_SHAPES, **self._sets.all})}
        for key, each in self._shown.items():
            pieces = pieces_of(each)
            if not names.isdisjoint((*pieces.chains, *pieces.sets)) or any(
                elements.set in asked and asked[elements.set] in elements.packed_keys for elements in pieces.elements
            ):
                yield key

    # Services

    def _change(self, key: ObjectKey, edit: _Edit, remembering: dict[Remembering, Chain | None]) -> None:
        old, service = self._shown.pop(key, None), self._table.services.get(key)
        before, after = _NOTHING if old is None else pieces_of(old), _NOTHING
        if service is not None:
            new = self._shown[key] = shown(
                service,
                masquerade_all=self._table.config.masquerade_all,
                node_addresses=self._node_addresses,
                connections=self.connections,
            )
            after = pieces_of(new)
        if old is None:
            edit.add(after)
        else:
            shapes = {**_SHAPES, **before.sets, **after.sets}
            edit.replace(_places(before.elements, shapes), _places(after.elements, shapes))
        self._chains.exchange(before.chains, after.chains)
        self._sets.exchange(before.sets, after.sets)
        self._cluster_ips.exchange(before.cluster_ips, after.cluster_ips)
        for name in before.remembered.keys() | after.remembered.keys():
            remembering.setdefault(name, self._chain_of(name))
            self._rules.setdefault(name, {})[key] = after.remembered.get(name, ())
            if not after.remembered.get(name):
                del self._rules[name][key]
        for known, endpoints in after.stays.items():
            if not before.stays.get(known, _EVERYTHING) <= endpoints:
                self.left[known] = endpoints
        for known in before.stays.keys() - after.stays.keys():
            self.left.pop(known, None)

    def _guarded_anew(self) -> list[ObjectKey]:
        """Services that let some clients in and not others: these may be this node, whose addresses are others now."""
        if self._node_addresses == self._table.node.addresses:
            return []
        self._node_addresses = self._table.node.addresses
        return [key for key, each in self._shown.items() if each.is_guarded]

    def _chain_of(self, name: Remembering) -> Chain | None:
        rules = self._rules.get(name)
        if not rules:
            self._rules.pop(name, None)
            return None
        return Chain(_remembering(name), tuple(rule for key in sorted(rules) for rule in rules[key]))

    # The node

    def _settle_node(self, edit: _Edit) -> None:
        new = dict(self._node_elements())
        edit.replace(self._node, new)
        self._node = new

    def _node_elements(self) -> Iterator[tuple[Place, Value]]:
        config = self._table.config
        for address in self._table.node_port_addresses:
            yield Place(f"nodeaddresses{_version(address)}", address), None
        for name, networks in (("clients", config.pod_cidrs), ("servicenets", config.service_cidrs)):
            for network in apart(networks):
                key = network.network_address.packed + network.broadcast_address.packed
                yield Place(f"{name}{network.version}", key), None
        for address in self.local_pods:
            yield Place(f"hairpins{_version(address)}", address * 2), None


_NOTHING = Pieces()
_EVERYTHING: frozenset[bytes] = frozenset((b"",))
"""Smaller than no set of endpoints: what a former life left is not known."""


def _remembering(name: Remembering) -> str:
    return f"remember{name.version}-{name.address.hex() or 'ports'}-{name.protocol}"


def _sticky(name: Remembering, chain: Chain | None) -> dict[Place, Value]:
    """The element that leads to the chain, while there is one."""
    if chain is None:
        return {}
    which = "sticky" if name.address else "stickyports"
    return {
        Place(f"{which}{name.version}", name.address + bytes((name.protocol, 0, 0, 0))): Verdict("jump", chain.name)
    }


def _version(address: bytes) -> int:
    return 4 if len(address) == 4 else 6


def _places(elements: Iterable[ElementBatch], shapes: Mapping[str, SetSpec]) -> dict[Place, Value]:
    """One by one."""
    found: dict[Place, Value] = {}
    for each in elements:
        shape = shapes[each.set]
        step, width = shape.key_size, shape.data_size
        for number, start in enumerate(range(0, len(each.packed_keys), step)):
            value: Value = each.verdict if width == 0 else each.data[number * width : (number + 1) * width]
            found[Place(each.set, each.packed_keys[start : start + step])] = value
    return found


def _elements(places: Mapping[Place, Value]) -> Iterator[ElementBatch]:
    for (name, key), value in places.items():
        if isinstance(value, bytes):
            yield ElementBatch(name, key, value)
        else:
            yield ElementBatch(name, key, verdict=value)


class _Shared(Generic[K, V]):
    """What several services use, while one of them does."""

    def __init__(self) -> None:
        self.all: dict[K, V] = {}
        self._uses: defaultdict[K, int] = defaultdict(int)
        self._before: dict[K, V | None] = {}

    def exchange(self, before: Mapping[K, V], after: Mapping[K, V]) -> None:
        """A service uses these instead of those."""
        for key in before.keys() - after.keys() if before else ():
            self._before.setdefault(key, self.all.get(key))
            self._uses[key] -= 1
            if not self._uses[key]:
                del self._uses[key], self.all[key]
        for key in after.keys() - before.keys() if before else after:
            self._before.setdefault(key, self.all.get(key))
            self._uses[key] += 1
            self.all[key] = after[key]

    def settled(self) -> Iterator[tuple[K, V | None, V | None]]:
        """What has come and gone since the last call: its key, what it was, what it is."""
        before, self._before = self._before, {}
        for key, old in before.items():
            yield key, old, self.all.get(key)


class _Edit:
    """An edit in the making."""

    def __init__(self) -> None:
        self._leaving: dict[Place, Value] = {}
        self._coming: dict[Place, Value] = {}
        self._new: list[ElementBatch] = []
        self._shapes = dict(_SHAPES)
        self._chains: dict[str, Chain | None] = {}
        self._sets: dict[str, SetSpec | None] = {}

    def replace(self, old: Mapping[Place, Value], new: Mapping[Place, Value]) -> None:
        """These elements go, those come. Each has one owner before the edit and one after it, who are told in any order."""
        self._leaving |= old
        self._coming |= new

    def add(self, pieces: Pieces) -> None:
        """A service that was not there: its elements come, and need a closer look only if others go."""
        self._new += pieces.elements
        self._shapes |= pieces.sets

    def replace_chain(self, name: str, old: Chain | None, new: Chain | None) -> None:
        """None: there is none."""
        if old != new:
            self._chains[name] = new

    def replace_set(self, name: str, old: SetSpec | None, new: SetSpec | None) -> None:
        """None: there is none. One name has one shape always."""
        if old != new:
            self._sets[name] = new

    def finished(self) -> Transaction:
        """The edit: what goes and comes again within it stays."""
        leaving, coming = self._leaving, self._coming
        if leaving:
            coming |= _places(self._new, self._shapes)
            self._new = []
        same = {place for place in leaving.keys() & coming.keys() if leaving[place] == coming[place]}
        return Transaction(
            put_sets=tuple(shape for shape in self._sets.values() if shape is not None),
            remove=tuple(joined(_elements({place: None for place in leaving if place not in same}))),
            put_chains=tuple(chain for chain in self._chains.values() if chain is not None),
            put=(
                *joined(self._new),
                *joined(_elements({place: value for place, value in coming.items() if place not in same})),
            ),
            remove_chains=tuple(name for name, chain in self._chains.items() if chain is None),
            remove_sets=tuple(name for name, shape in self._sets.items() if shape is None),
        )
