"""Renders the policies of one node as transactions of `table inet percale`. The agent passes it the evaluator's deltas.

    PolicyDelta ─▶ update() ─┬─ changed pods ───▶ elements of the sets in use
                             ├─ local pods ─────▶ elements of the maps: address → chain of its class
                             └─ changed rules ──▶ chains; sets that come into use, and sets that are unused now
                                                = one atomic Transaction

Only pods of this node are subjects; all pods are peers. It stores which chains and sets are in use; set contents are read from
the evaluator, so `snapshot()` always equals what a fresh start would load.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from percale.model.ip_family import Family
from percale.model.meta import ObjectKey
from percale.model.pod import PROTOCOL_NUMBERS
from percale.policy.compiled_policy import PolicyKey
from percale.policy.evaluator import Evaluator, PolicyClass, PolicyDelta
from percale.policy.pod_facts import PodFacts
from percale.policy.rule_terms import PodSelectorTerm, PortSpan
from percale.policy.selector_index import PodDelta
from percale.render.nft.objects import Chain, ElementBatch, Transaction, Verdict
from percale.render.policy.base_chains import EGRESS, EGRESS_NODE, INGRESS, INPUT, SELF
from percale.render.policy.class_chains import (
    ClassChains,
    DomainSet,
    NamedPortsSet,
    NetworksSet,
    NodesSet,
    Path,
    PodsSet,
    PolicySet,
    PortsSet,
    class_chains,
)

_MAPS: dict[Path, dict[int, str]] = {"egress": EGRESS, "egress-node": EGRESS_NODE, "ingress": INGRESS}
"""IP versions of packed addresses, by their length."""


class _ClassKey(NamedTuple):
    """The chains of a class (its policies) for one path and IP version."""

    policies: str
    """The class's name."""
    path: Path
    version: int


class _RenderedClass(NamedTuple):
    policies: frozenset[PolicyKey]
    chains: ClassChains | None
    """None: no policy applies on this path."""


class _ElementKey(NamedTuple):
    """An element's set and key."""

    set: str
    key: bytes


class PolicyRenderer:
    """Not for two threads at a time."""

    def __init__(self, evaluator: Evaluator, node: str) -> None:
        """The rules for the pods of this node, by `spec.nodeName`."""
        self._evaluator = evaluator
        self._selector_index = evaluator.selector_index
        self._node = node
        self._elements: dict[int, dict[_ElementKey, Verdict | None]] = {}
        """By pod id: the elements of a selected pod in the class maps and in the self sets."""
        self._keys: dict[int, tuple[_ClassKey, ...]] = {}
        """By pod id: the classes of its addresses."""
        self._classes: dict[_ClassKey, _RenderedClass] = {}
        """Every class that a local pod has or had until this update."""
        self._sets: dict[str, PolicySet] = {}
        """In use, by name."""
        self._named_sets: dict[tuple[str, int], list[str]] = {}
        """The names of the sets in use, by a port name that they have and IP version."""
        self._address_sets: dict[str, frozenset[bytes]] = {}
        """Contents of the sets of node addresses and of domain names."""
        self.affected_addresses: frozenset[bytes] = frozenset()
        """The packed addresses whose connections may have another verdict since the last update."""

    @property
    def selected_pods(self) -> Iterator[PodFacts]:
        """This node's pods that a policy selects."""
        for pod_id in self._elements:
            pod = self._selector_index.pods[pod_id]
            assert pod is not None
            yield pod

    # Changes

    def update(self, changes: Iterable[PolicyDelta]) -> Transaction:
        """The transaction for these changes, which the evaluator has already applied."""
        deltas = tuple(changes)
        pod_deltas = [each for change in deltas for each in change.pods]
        changed = {policy.key for change in deltas for pair in change.policies for policy in pair if policy is not None}
        selected = {pod_id for change in deltas for pod_id in change.selected}
        builder = _TransactionBuilder()
        chains = self._chains()
        addresses = {address for delta in pod_deltas for address in _addresses(delta)}
        affected_addresses = addresses | self._addresses_of(selected)
        pod_ids = {each.pod_id for each in pod_deltas} | selected
        for key in {key for pod_id in pod_ids for key in self._keys.get(pod_id, ())}:
            if not changed.isdisjoint(self._classes[key].policies):
                del self._classes[key]  # rendered again
        self._update_class_elements(pod_ids, builder)
        self._drop_unused_classes()
        self._update_pod_elements(pod_deltas, builder)
        addresses_changed = any(change.nodes or change.resolved_names for change in deltas)
        if addresses_changed or any(
            map(self._evaluator.node_index.node_of, addresses)
        ):  # a pod took a node's, or left it
            refreshed = self._refresh_address_sets(builder)
            affected_addresses |= self._addresses_of_classes(lambda key: self._uses_any(key, refreshed))
        self._update_sets(builder)
        affected_addresses |= self._addresses_of(selected)
        self.affected_addresses = frozenset(affected_addresses)
        return builder.build(chains, self._chains())

    def snapshot(self) -> Transaction:
        """The whole contents, for a table that has only its static text."""
        builder = _TransactionBuilder()
        for wanted in self._sets.values():
            builder.add_set(wanted, self._contents(wanted))
        for elements in self._elements.values():
            builder.put(elements)
        return builder.build({}, self._chains())

    def owners(self, part: Transaction) -> tuple[set[PolicyKey], set[ObjectKey]]:
        """The policies and the pods of this node to which the chains, sets and elements of `part` belong."""
        sets = {spec.name for spec in part.put_sets} | {each.set for each in part.put}
        chains = {chain.name for chain in part.put_chains}
        policies = {
            policy
            for rendered in self._classes.values()
            if (found := rendered.chains) is not None
            and (any(each.name in sets for each in found.sets) or any(each.name in chains for each in found.chains))
            for policy in rendered.policies
        }
        pods = {
            pod.key
            for each in part.put
            if each.verdict is not None and (pod := self._selector_index.owner(each.packed_keys)) is not None
        }
        return policies, pods

    def _is_local(self, pod: PodFacts) -> bool:
        return pod.node == self._node and pod.selectable

    # Class elements of local pods

    def _update_class_elements(self, pod_ids: Iterable[int], builder: _TransactionBuilder) -> None:
        """Replace these pods' elements. All are removed before any is added: an address may move from one pod to another."""
        old: dict[_ElementKey, Verdict | None] = {}
        new: dict[_ElementKey, Verdict | None] = {}
        for pod_id in pod_ids:
            old |= self._elements.pop(pod_id, {})
            self._keys.pop(pod_id, None)
            pod = self._selector_index.pods[pod_id]
            if pod is None or not self._is_local(pod):
                continue
            elements, keys = self._elements_of(pod, self._evaluator.class_of(pod_id))
            if elements:
                self._elements[pod_id], self._keys[pod_id] = elements, keys
                new |= elements
        builder.replace(old, new)

    def _elements_of(
        self, pod: PodFacts, policies: PolicyClass
    ) -> tuple[dict[_ElementKey, Verdict | None], tuple[_ClassKey, ...]]:
        elements: dict[_ElementKey, Verdict | None] = {}
        keys: list[_ClassKey] = []
        for address in pod.addresses:
            version = Family.of_packed(address)
            for path in _MAPS:
                key = _ClassKey(policies.name, path, version)
                if key not in self._classes:
                    self._classes[key] = _RenderedClass(policies.key_set, class_chains(policies, path, version))
                chains = self._classes[key].chains
                if chains is not None:
                    keys.append(key)
                    elements[_ElementKey(_MAPS[path][version], address)] = Verdict("jump", chains.chains[0].name)
                    elements[_ElementKey(SELF[version], address * 2)] = None
        return elements, tuple(keys)

    def _addresses_of_classes(self, wanted: Callable[[_ClassKey], bool]) -> set[bytes]:
        """The addresses of the pods of these classes."""
        return self._addresses_of(pod_id for pod_id, keys in self._keys.items() if any(map(wanted, keys)))

    def _addresses_of(self, pod_ids: Iterable[int]) -> set[bytes]:
        """The addresses of those of these pods that are of this node and have a class."""
        return {
            element.key
            for pod_id in pod_ids
            for element, verdict in self._elements.get(pod_id, {}).items()
            if verdict is not None
        }

    def _uses_any(self, key: _ClassKey, sets: Container[str]) -> bool:
        chains = self._classes[key].chains
        return chains is not None and any(each.name in sets for each in chains.sets)

    def _drop_unused_classes(self) -> None:
        used = {key for keys in self._keys.values() for key in keys}
        self._classes = {key: self._classes[key] for key in used}

    def _chains(self) -> dict[str, Chain]:
        chains = {chain.name: chain for chains in self._rendered() for chain in chains.chains}
        if any(key.path == "egress-node" and each.chains is not None for key, each in self._classes.items()):
            chains[INPUT.name] = INPUT
        return chains

    def _rendered(self) -> Iterator[ClassChains]:
        return (each.chains for each in self._classes.values() if each.chains is not None)

    # Set contents

    def _update_pod_elements(self, pod_deltas: Iterable[PodDelta], builder: _TransactionBuilder) -> None:
        """Update the elements of the sets in use, pod by pod."""
        for delta in pod_deltas if self._sets else ():
            before = set(self._element_keys(delta.old, delta.before))
            after = set(self._element_keys(delta.new, delta.after))
            builder.replace(dict.fromkeys(before - after), dict.fromkeys(after - before))

    def _element_keys(self, pod: PodFacts | None, terms: Iterable[PodSelectorTerm]) -> Iterator[_ElementKey]:
        if pod is None or not pod.selectable:
            return
        for address in pod.addresses:
            version = Family.of_packed(address)
            for term in terms:
                if (name := f"pods{version}-{term.name}") in self._sets:
                    yield _ElementKey(name, address)
            for port in pod.ports:
                for name in self._named_sets.get((port.name, version), ()):
                    yield _ElementKey(name, address + _port(port.protocol, port.number))

    def _refresh_address_sets(self, builder: _TransactionBuilder) -> set[str]:
        """Update the sets of node addresses and domain names; returns the names of those that changed."""
        changed: set[str] = set()
        for name, old in self._address_sets.items():
            new = self._address_sets[name] = frozenset(self._contents(self._sets[name]))
            builder.replace(
                {_ElementKey(name, key): None for key in old - new}, {_ElementKey(name, key): None for key in new - old}
            )
            if old != new:
                changed.add(name)
        return changed

    def _update_sets(self, builder: _TransactionBuilder) -> None:
        """Add sets that a class begins to use, and remove those that none uses any more."""
        wanted = {each.name: each for chains in self._rendered() for each in chains.sets}
        for name in self._sets.keys() - wanted.keys():
            gone = self._sets.pop(name)
            self._address_sets.pop(name, None)
            if isinstance(gone, PodsSet):
                self._selector_index.unwatch(gone.term)
            builder.remove_set(name)
        for name in sorted(wanted.keys() - self._sets.keys()):
            new = self._sets[name] = wanted[name]
            if isinstance(new, PodsSet):
                self._selector_index.watch(new.term)
            contents = list(self._contents(new))
            if isinstance(new, NodesSet | DomainSet):
                self._address_sets[name] = frozenset(contents)
            builder.add_set(new, contents)
        self._named_sets = {}
        for used in wanted.values():
            if isinstance(used, NamedPortsSet):
                name = used.name
                for port in used.ports:
                    self._named_sets.setdefault((port, used.version), []).append(name)

    def _contents(self, wanted: PolicySet) -> Iterable[bytes]:
        """The current keys of a set in use."""
        match wanted:
            case PodsSet():
                size, pods = wanted.spec.key_size, self._selector_index.members(wanted.term)
                return [address for pod in pods for address in pod.addresses if len(address) == size]
            case NamedPortsSet():
                return self._named_ports(wanted)
            case PortsSet():
                return map(_span, wanted.spans)
            case NetworksSet():
                return [each.network_address.packed + each.broadcast_address.packed for each in wanted.networks]
            case NodesSet():
                size, found = wanted.spec.key_size, self._evaluator.node_index.addresses_of(wanted.term)
                return {each for each in found if len(each) == size and self._selector_index.owner(each) is None}
            case DomainSet():
                size, found = wanted.spec.key_size, self._evaluator.node_index.domain_addresses(wanted.domain)
                return {each for each in found if len(each) == size}

    def _named_ports(self, wanted: NamedPortsSet) -> Iterable[bytes]:
        """Each once: two names or containers may have the same port (a duplicate key is an error in nftables)."""
        names, size = frozenset(wanted.ports), Family(wanted.version).size
        return {
            address + _port(port.protocol, port.number)
            for pod in self._selector_index.pods
            if pod is not None
            for port in pod.ports
            if port.name in names and pod.selectable
            for address in pod.addresses
            if len(address) == size
        }


@lru_cache(maxsize=1024)
def _port(protocol: str, number: int) -> bytes:
    """The last fields of a key."""
    return bytes((PROTOCOL_NUMBERS[protocol], 0, 0, 0)) + number.to_bytes(2, "big") + b"\0\0"


def _addresses(delta: PodDelta) -> Iterator[bytes]:
    """A pod's addresses before and after the change."""
    for pod in (delta.old, delta.new):
        if pod is not None:
            yield from pod.addresses


def _span(span: PortSpan) -> bytes:
    return _port(span.protocol, span.first) + _port(span.protocol, span.last)


class _TransactionBuilder:
    """Collects the changes of one transaction. An element that is removed and added again stays as it was."""

    def __init__(self) -> None:
        self._removed: dict[_ElementKey, Verdict | None] = {}
        self._added: dict[_ElementKey, Verdict | None] = {}
        self._added_sets: list[PolicySet] = []
        self._removed_sets: list[str] = []
        self._set_contents: list[ElementBatch] = []

    def replace(self, old: dict[_ElementKey, Verdict | None], new: dict[_ElementKey, Verdict | None]) -> None:
        """Remove the old elements and add the new ones."""
        for element, verdict in old.items():
            if element in self._added:
                del self._added[element]
            else:
                self._removed[element] = verdict
        self.put(new)

    def put(self, new: dict[_ElementKey, Verdict | None]) -> None:
        """Add these elements."""
        for element, verdict in new.items():
            if element in self._removed and self._removed[element] == verdict:
                del self._removed[element]
            else:
                self._added[element] = verdict

    def add_set(self, new: PolicySet, contents: Iterable[bytes]) -> None:
        self._added_sets.append(new)
        if keys := b"".join(contents):
            self._set_contents.append(ElementBatch(new.name, keys))

    def remove_set(self, name: str) -> None:
        self._removed_sets.append(name)

    def build(self, before: dict[str, Chain], after: dict[str, Chain]) -> Transaction:
        """The transaction, with the chains that changed."""
        gone = set(self._removed_sets)
        return Transaction(
            put_sets=tuple(each.spec for each in self._added_sets),
            remove=tuple(_batches({element: None for element in self._removed if element.set not in gone})),
            put_chains=tuple(chain for name, chain in after.items() if before.get(name) != chain),
            put=(*self._set_contents, *_batches(self._added)),
            remove_chains=tuple(sorted(before.keys() - after.keys())),
            remove_sets=tuple(sorted(self._removed_sets)),
        )


def _batches(elements: dict[_ElementKey, Verdict | None]) -> Iterator[ElementBatch]:
    """One batch for each set and verdict."""
    by_verdict = itemgetter(0, 1, 2)
    rows = sorted(
        (element.set, verdict.chain or "" if verdict else "", verdict.code if verdict else "", element.key)
        for element, verdict in elements.items()
    )
    for (name, chain, code), group in groupby(rows, key=by_verdict):
        keys = b"".join(row[3] for row in group)
        yield ElementBatch(name, keys, verdict=Verdict(code, chain or None) if code else None)
