"""Renders the Services of one node as transactions of `table inet percale-services`, for each Service that changed.

    ResolvedService ─▶ service_chains.py ─▶ ServiceChains ─┬─ elements of maps and sets
                                                           └─ chains and sets, shared by Services with equal ones

A transaction is the difference of a Service's old and new chains and elements. `snapshot()` is those of all Services.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeAlias, TypeVar

from percale.model.ip_family import Family
from percale.model.meta import ObjectKey
from percale.render.nft.objects import Chain, ElementBatch, Rule, SetSpec, Transaction, Verdict, joined
from percale.render.nft.table_state import Value
from percale.render.service.base_chains import SET_SPECS
from percale.render.service.service_chains import (
    AffinityKey,
    Connections,
    ElementKey,
    RenderInput,
    ServiceChains,
    render_input,
    service_chains,
    without_overlaps,
)
from percale.service.resolved_service import ResolvedService
from percale.service.resolver import ServiceResolver

K = TypeVar("K")
V = TypeVar("V")

_SPECS = {spec.name: spec for spec in SET_SPECS}

Endpoints: TypeAlias = frozenset[bytes]
"""Endpoints as element data: address and port, padded."""


class ServiceRenderer:
    """Not thread-safe."""

    def __init__(self, resolver: ServiceResolver) -> None:
        self.local_pods: frozenset[bytes] = frozenset()
        """The packed addresses of this node's pods; a Service may lead them to themselves (hairpin)."""
        self.connections: Connections = {}
        """Connections of each endpoint of Services with the strategy `lc`, as last rendered."""
        self.stale_affinity_maps: dict[str, Endpoints] = {}
        """Affinity maps that may hold removed endpoints, with the endpoints that are valid. The caller empties it."""
        self._resolver = resolver
        self._inputs: dict[ObjectKey, RenderInput] = {}
        """What was rendered for each Service."""
        self._node: dict[ElementKey, Value] = {}
        """Elements of the node, which belong to no Service."""
        self._node_addresses: tuple[bytes, ...] = ()
        self._chains: _SharedObjects[str, Chain] = _SharedObjects()
        self._sets: _SharedObjects[str, SetSpec] = _SharedObjects()
        self._cluster_ips: _SharedObjects[ElementKey, bool] = _SharedObjects()
        self._rules: dict[AffinityKey, dict[ObjectKey, tuple[Rule, ...]]] = {}
        """Rules that record the clients of an address, which several Services may share."""

    def update(self, changed: Iterable[ObjectKey]) -> Transaction:
        """The transaction for these changed Services, and for a changed node."""
        builder = _TransactionBuilder()
        affinity: dict[AffinityKey, Chain | None] = {}
        for key in {*changed, *self._with_other_node_addresses()}:
            self._change(key, builder, affinity)
        self._update_node(builder)
        for name, old in affinity.items():
            new = self._affinity_chain(name)
            builder.replace_chain(_affinity_chain_name(name), old, new)
            builder.replace(_affinity_element(name, old), _affinity_element(name, new))
        for chain, was, now in self._chains.changes():
            builder.replace_chain(chain, was, now)
        for known, before, after in self._sets.changes():
            builder.replace_set(known, before, after)
        for element, removed, added in self._cluster_ips.changes():
            builder.replace({element: None} if removed else {}, {element: None} if added else {})
        return builder.build()

    def snapshot(self) -> Transaction:
        """The whole contents, for a table that has only its static text."""
        elements = [element for each in self._inputs.values() for element in service_chains(each).elements]
        other: dict[ElementKey, Value] = {**self._node, **dict.fromkeys(self._cluster_ips.all)}
        chains = []
        for name in self._rules:
            chain = self._affinity_chain(name)
            other |= _affinity_element(name, chain)
            chains += [chain] if chain is not None else []
        return Transaction(
            put_sets=tuple(self._sets.all.values()),
            put_chains=(*self._chains.all.values(), *chains),
            put=(*joined(elements), *joined(_elements(other))),
        )

    def rendered(self, key: ObjectKey) -> ResolvedService | None:
        """The service as the last update rendered it."""
        found = self._inputs.get(key)
        return None if found is None else found.service

    def owners(self, part: Transaction) -> Iterator[ObjectKey]:
        """The Services to which an element, chain or set of it belongs. O(Services)."""
        names = {chain.name for chain in part.put_chains} | {spec.name for spec in part.put_sets}
        wanted = {element.set: element.key for element in _by_key(part.put, {**_SPECS, **self._sets.all})}
        for key, each in self._inputs.items():
            rendered = service_chains(each)
            if not names.isdisjoint((*rendered.chains, *rendered.sets)) or any(
                elements.set in wanted and wanted[elements.set] in elements.packed_keys
                for elements in rendered.elements
            ):
                yield key

    # Services

    def _change(self, key: ObjectKey, builder: _TransactionBuilder, affinity: dict[AffinityKey, Chain | None]) -> None:
        old, service = self._inputs.pop(key, None), self._resolver.services.get(key)
        before, after = _NOTHING if old is None else service_chains(old), _NOTHING
        if service is not None:
            new = self._inputs[key] = render_input(
                service,
                masquerade=self._resolver.config.cluster_ip_masquerade,
                own_source=self._resolver.config.own_source_families,
                node_addresses=self._node_addresses,
                connections=self.connections,
            )
            after = service_chains(new)
        if old is None:
            builder.add(after)
        else:
            specs = {**_SPECS, **before.sets, **after.sets}
            builder.replace(_by_key(before.elements, specs), _by_key(after.elements, specs))
        self._chains.replace(before.chains, after.chains)
        self._sets.replace(before.sets, after.sets)
        self._cluster_ips.replace(before.cluster_ips, after.cluster_ips)
        for name in before.affinity_rules.keys() | after.affinity_rules.keys():
            affinity.setdefault(name, self._affinity_chain(name))
            self._rules.setdefault(name, {})[key] = after.affinity_rules.get(name, ())
            if not after.affinity_rules.get(name):
                del self._rules[name][key]
        for known, endpoints in after.affinity_maps.items():
            if not before.affinity_maps.get(known, _EVERYTHING) <= endpoints:
                self.stale_affinity_maps[known] = endpoints
        for known in before.affinity_maps.keys() - after.affinity_maps.keys():
            self.stale_affinity_maps.pop(known, None)

    def _with_other_node_addresses(self) -> list[ObjectKey]:
        """Services with source ranges, if the node's addresses changed: the node may be such a client."""
        if self._node_addresses == self._resolver.node.addresses:
            return []
        self._node_addresses = self._resolver.node.addresses
        return [key for key, each in self._inputs.items() if each.has_source_ranges]

    def _affinity_chain(self, name: AffinityKey) -> Chain | None:
        rules = self._rules.get(name)
        if not rules:
            self._rules.pop(name, None)
            return None
        return Chain(_affinity_chain_name(name), tuple(rule for key in sorted(rules) for rule in rules[key]))

    # The node

    def _update_node(self, builder: _TransactionBuilder) -> None:
        new = dict(self._node_elements())
        builder.replace(self._node, new)
        self._node = new

    def _node_elements(self) -> Iterator[tuple[ElementKey, Value]]:
        config = self._resolver.config
        for address in self._resolver.node_port_addresses:
            yield ElementKey(f"nodeaddresses{_version(address)}", address), None
        for name, networks in (("podnets", config.pod_cidrs), ("servicenets", config.service_cidrs)):
            for network in without_overlaps(networks):
                key = network.network_address.packed + network.broadcast_address.packed
                yield ElementKey(f"{name}{network.version}", key), None
        for address in self.local_pods:
            yield ElementKey(f"hairpins{_version(address)}", address * 2), None


_NOTHING = ServiceChains()
_EVERYTHING: frozenset[bytes] = frozenset((b"",))
"""Subset of no set of endpoints: what an earlier agent left in the map is unknown."""


def _affinity_chain_name(name: AffinityKey) -> str:
    return f"update-affinity{name.version}-{name.address.hex() or 'ports'}-{name.protocol}"


def _affinity_element(name: AffinityKey, chain: Chain | None) -> dict[ElementKey, Value]:
    """The map element that jumps to the chain, if there is one."""
    if chain is None:
        return {}
    which = "affinity" if name.address else "affinityports"
    return {
        ElementKey(f"{which}{name.version}", name.address + bytes((name.protocol, 0, 0, 0))): Verdict(
            "jump", chain.name
        )
    }


def _version(address: bytes) -> int:
    return Family.of_packed(address)


def _by_key(elements: Iterable[ElementBatch], specs: Mapping[str, SetSpec]) -> dict[ElementKey, Value]:
    """The elements of batches one by one."""
    found: dict[ElementKey, Value] = {}
    for each in elements:
        spec = specs[each.set]
        step, width = spec.key_size, spec.data_size
        for number, start in enumerate(range(0, len(each.packed_keys), step)):
            value: Value = each.verdict if width == 0 else each.data[number * width : (number + 1) * width]
            found[ElementKey(each.set, each.packed_keys[start : start + step])] = value
    return found


def _elements(elements: Mapping[ElementKey, Value]) -> Iterator[ElementBatch]:
    for (name, key), value in elements.items():
        if isinstance(value, bytes):
            yield ElementBatch(name, key, value)
        else:
            yield ElementBatch(name, key, verdict=value)


class _SharedObjects(Generic[K, V]):
    """Reference-counted objects that several Services share."""

    def __init__(self) -> None:
        self.all: dict[K, V] = {}
        self._uses: defaultdict[K, int] = defaultdict(int)
        self._before: dict[K, V | None] = {}

    def replace(self, before: Mapping[K, V], after: Mapping[K, V]) -> None:
        """A Service uses `after` instead of `before`."""
        for key in before.keys() - after.keys() if before else ():
            self._before.setdefault(key, self.all.get(key))
            self._uses[key] -= 1
            if not self._uses[key]:
                del self._uses[key], self.all[key]
        for key in after.keys() - before.keys() if before else after:
            self._before.setdefault(key, self.all.get(key))
            self._uses[key] += 1
            self.all[key] = after[key]

    def changes(self) -> Iterator[tuple[K, V | None, V | None]]:
        """Changes since the last call: key, old and new object."""
        before, self._before = self._before, {}
        for key, old in before.items():
            yield key, old, self.all.get(key)


class _TransactionBuilder:
    """Collects the changes of one transaction."""

    def __init__(self) -> None:
        self._removed: dict[ElementKey, Value] = {}
        self._added: dict[ElementKey, Value] = {}
        self._added_batches: list[ElementBatch] = []
        self._specs = dict(_SPECS)
        self._chains: dict[str, Chain | None] = {}
        self._sets: dict[str, SetSpec | None] = {}

    def replace(self, old: Mapping[ElementKey, Value], new: Mapping[ElementKey, Value]) -> None:
        """Replace elements. The old and the new owner of an element may call this in any order."""
        self._removed |= old
        self._added |= new

    def add(self, rendered: ServiceChains) -> None:
        """Add a new Service's elements, which are compared one by one only if others are removed."""
        self._added_batches += rendered.elements
        self._specs |= rendered.sets

    def replace_chain(self, name: str, old: Chain | None, new: Chain | None) -> None:
        """`None`: no such chain."""
        if old != new:
            self._chains[name] = new

    def replace_set(self, name: str, old: SetSpec | None, new: SetSpec | None) -> None:
        """`None`: no such set. A name always has the same spec."""
        if old != new:
            self._sets[name] = new

    def build(self) -> Transaction:
        """The transaction; elements that are removed and added again are kept."""
        removed, added = self._removed, self._added
        if removed:
            added |= _by_key(self._added_batches, self._specs)
            self._added_batches = []
        same = {key for key in removed.keys() & added.keys() if removed[key] == added[key]}
        return Transaction(
            put_sets=tuple(spec for spec in self._sets.values() if spec is not None),
            remove=tuple(joined(_elements({key: None for key in removed if key not in same}))),
            put_chains=tuple(chain for chain in self._chains.values() if chain is not None),
            put=(
                *joined(self._added_batches),
                *joined(_elements({key: value for key, value in added.items() if key not in same})),
            ),
            remove_chains=tuple(name for name, chain in self._chains.items() if chain is None),
            remove_sets=tuple(name for name, spec in self._sets.items() if spec is None),
        )
