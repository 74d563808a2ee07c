"""The policies of one node as edits of `table inet percale`. The agent feeds it what the evaluator says was touched.

    Touched ─▶ update() ─┬─ moved pods ────▶ elements of the sets in use
                         ├─ local pods ────▶ elements of the maps: which class judges which address (the switch)
                         └─ changed rules ─▶ chains; sets that come into use, and that nobody uses any more
                                           = one Transaction, which the kernel takes at once

Only pods of this node are judged here; all pods are peers. What is kept is which chains and sets are in use. The sets'
contents are the evaluator's, so `image()` is always what a fresh start would load.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from percale.model.meta import ObjectKey
from percale.policy.compiler import PolicyKey
from percale.policy.evaluator import Evaluator, PolicyClass, Touched
from percale.policy.pod_facts import PodFacts
from percale.policy.rule_terms import Direction, PortSpan, Term
from percale.policy.selector_index import Moved
from percale.render.nft.objects import Chain, ElementBatch, Transaction, Verdict
from percale.render.policy.base_chains import EGRESS, INGRESS, SELF
from percale.render.policy.class_chains import (
    PROTOCOLS,
    ClassChains,
    DomainSet,
    NamedPortSet,
    NetworksSet,
    NodesSet,
    PodsSet,
    PolicySet,
    PortsSet,
    class_chains,
)

_MAPS: dict[Direction, dict[int, str]] = {"egress": EGRESS, "ingress": INGRESS}
_VERSIONS = {4: 4, 16: 6}
"""IP versions of packed addresses, by their length."""


class _ClassKey(NamedTuple):
    """Which chains: a class by its policies, in one direction and IP version."""

    policies: tuple[PolicyKey, ...]
    direction: Direction
    version: int


class _Place(NamedTuple):
    """An element's set and key."""

    set: str
    key: bytes


class PolicyTable:
    """Not for two threads at a time."""

    def __init__(self, evaluator: Evaluator, node: str) -> None:
        """The rules for the pods of this node, by `spec.nodeName`."""
        self._evaluator = evaluator
        self._members = evaluator.members
        self._node = node
        self._elements: dict[int, dict[_Place, Verdict | None]] = {}
        """By slot of a judged pod: its elements in the maps and among those that reach themselves."""
        self._keys: dict[int, tuple[_ClassKey, ...]] = {}
        """By the same slots: the classes of its addresses."""
        self._classes: dict[_ClassKey, ClassChains | None] = {}
        """Every class that a local pod has or had until this update; None: it is not judged in this direction."""
        self._sets: dict[str, PolicySet] = {}
        """In use, by name."""
        self._learned: dict[str, frozenset[bytes]] = {}
        """What the sets of nodes and of domain names hold."""
        self.concerned: frozenset[bytes] = frozenset()
        """The packed addresses whose connections may be judged otherwise since the last update."""

    @property
    def judged(self) -> Iterator[PodFacts]:
        """This node's pods that a policy isolates or decides about."""
        for slot in self._elements:
            pod = self._members.pods[slot]
            assert pod is not None
            yield pod

    # Changes

    def update(self, changes: Iterable[Touched]) -> Transaction:
        """What the table needs after these changes, which the evaluator has seen already."""
        touched = tuple(changes)
        moved = [each for change in touched for each in change.moved]
        policies = [pair for change in touched for pair in change.policies]
        draft = _Draft()
        chains = self._chains()
        changed = {policy.key for pair in policies for policy in pair if policy is not None}
        addresses = {address for move in moved for address in _addresses(move)}
        concerned = addresses | self._selected_by(changed)
        self._forget_classes(changed)
        self._judge({each.slot for each in moved} if not policies else self._every_local_slot(), draft)
        self._drop_unused_classes()
        self._follow_moves(moved, draft)
        learned_anew = any(change.nodes or change.names for change in touched)
        if learned_anew or any(map(self._evaluator.cluster.node_of, addresses)):  # a pod took a node's, or left it
            learned = self._learn_again(draft)
            concerned |= self._judged_by(lambda key: self._looks_into(key, learned))
        self._settle_sets(draft)
        concerned |= self._selected_by(changed)
        self.concerned = frozenset(concerned)
        return draft.edit(chains, self._chains())

    def snapshot(self) -> Transaction:
        """All of it, from the static text alone."""
        draft = _Draft()
        for wanted in self._sets.values():
            draft.add_set(wanted, self._contents(wanted))
        for elements in self._elements.values():
            draft.put(elements)
        return draft.edit({}, self._chains())

    def owners(self, part: Transaction) -> tuple[set[PolicyKey], set[ObjectKey]]:
        """Whose a chain, a set or an element of it is: policies, and pods of this node that they judge."""
        sets = {shape.name for shape in part.put_sets} | {each.set for each in part.put}
        chains = {chain.name for chain in part.put_chains}
        policies = {
            policy
            for key, judging in self._classes.items()
            if judging is not None
            and (any(each.name in sets for each in judging.sets) or any(each.name in chains for each in judging.chains))
            for policy in key.policies
        }
        pods = {
            pod.key
            for each in part.put
            if each.verdict is not None and (pod := self._members.owner(each.packed_keys)) is not None
        }
        return policies, pods

    def _every_local_slot(self) -> set[int]:
        local = {slot for slot, pod in enumerate(self._members.pods) if pod is not None and self._is_local(pod)}
        return local | set(self._elements)

    def _is_local(self, pod: PodFacts) -> bool:
        return pod.node == self._node and pod.selectable

    # Which class judges whom

    def _judge(self, slots: Iterable[int], draft: _Draft) -> None:
        """These pods' elements as they are to be. All leave before any comes: an address may go from one to another."""
        old: dict[_Place, Verdict | None] = {}
        new: dict[_Place, Verdict | None] = {}
        for slot in slots:
            old |= self._elements.pop(slot, {})
            self._keys.pop(slot, None)
            pod = self._members.pods[slot]
            if pod is None or not self._is_local(pod):
                continue
            elements, keys = self._elements_of(pod, self._evaluator.class_of(slot))
            if elements:
                self._elements[slot], self._keys[slot] = elements, keys
                new |= elements
        draft.replace(old, new)

    def _elements_of(
        self, pod: PodFacts, policies: PolicyClass
    ) -> tuple[dict[_Place, Verdict | None], tuple[_ClassKey, ...]]:
        elements: dict[_Place, Verdict | None] = {}
        keys: list[_ClassKey] = []
        for address in pod.addresses:
            version = _VERSIONS[len(address)]
            for direction in _MAPS:
                key = _ClassKey(policies.keys, direction, version)
                if key not in self._classes:
                    self._classes[key] = class_chains(policies, direction, version)
                judging = self._classes[key]
                if judging is not None:
                    keys.append(key)
                    elements[_Place(_MAPS[direction][version], address)] = Verdict("jump", judging.chains[0].name)
                    elements[_Place(SELF[version], address * 2)] = None
        return elements, tuple(keys)

    def _selected_by(self, policies: set[PolicyKey]) -> set[bytes]:
        """The addresses of the pods that one of these judges; most changes are of no policy."""
        return self._judged_by(lambda key: not policies.isdisjoint(key.policies)) if policies else set()

    def _judged_by(self, wanted: Callable[[_ClassKey], bool]) -> set[bytes]:
        """The addresses of the pods that such classes judge."""
        return {
            place.key
            for slot, keys in self._keys.items()
            if any(map(wanted, keys))
            for place, verdict in self._elements[slot].items()
            if verdict is not None
        }

    def _looks_into(self, key: _ClassKey, sets: Container[str]) -> bool:
        judging = self._classes[key]
        return judging is not None and any(each.name in sets for each in judging.sets)

    def _forget_classes(self, policies: set[PolicyKey]) -> None:
        """Their rules are to be written anew."""
        if policies:
            for key in [key for key in self._classes if not policies.isdisjoint(key.policies)]:
                del self._classes[key]

    def _drop_unused_classes(self) -> None:
        used = {key for keys in self._keys.values() for key in keys}
        self._classes = {key: self._classes[key] for key in used}

    def _chains(self) -> dict[str, Chain]:
        return {
            chain.name: chain for judging in self._classes.values() if judging is not None for chain in judging.chains
        }

    # What the sets hold

    def _follow_moves(self, moved: Iterable[Moved], draft: _Draft) -> None:
        """Elements of the sets in use, pod by pod."""
        for move in moved if self._sets else ():
            before = set(self._places(move.old, move.before))
            after = set(self._places(move.new, move.after))
            draft.replace(dict.fromkeys(before - after), dict.fromkeys(after - before))

    def _places(self, pod: PodFacts | None, terms: Iterable[Term]) -> Iterator[_Place]:
        if pod is None or not pod.selectable:
            return
        for address in pod.addresses:
            version = _VERSIONS[len(address)]
            for term in terms:
                if (name := f"pods{version}-{term.name}") in self._sets:
                    yield _Place(name, address)
            for port in pod.ports:
                if (name := f"named{version}-{port.name}") in self._sets:
                    yield _Place(name, address + _port(port.protocol, port.number))

    def _learn_again(self, draft: _Draft) -> set[str]:
        """The contents of the sets that hold what is no pod's; the names of those that hold others now."""
        changed: set[str] = set()
        for name, old in self._learned.items():
            new = self._learned[name] = frozenset(self._contents(self._sets[name]))
            draft.replace(
                {_Place(name, key): None for key in old - new}, {_Place(name, key): None for key in new - old}
            )
            if old != new:
                changed.add(name)
        return changed

    def _settle_sets(self, draft: _Draft) -> None:
        """Sets that a class looks into from now on, and those that none does any more."""
        wanted = {each.name: each for judging in self._classes.values() if judging is not None for each in judging.sets}
        for name in self._sets.keys() - wanted.keys():
            gone = self._sets.pop(name)
            self._learned.pop(name, None)
            if isinstance(gone, PodsSet):
                self._members.unwatch(gone.term)
            draft.remove_set(name)
        for name in sorted(wanted.keys() - self._sets.keys()):
            new = self._sets[name] = wanted[name]
            if isinstance(new, PodsSet):
                self._members.watch(new.term)
            contents = list(self._contents(new))
            if isinstance(new, NodesSet | DomainSet):
                self._learned[name] = frozenset(contents)
            draft.add_set(new, contents)

    def _contents(self, wanted: PolicySet) -> Iterable[bytes]:
        """The keys of a set in use, as of now."""
        match wanted:
            case PodsSet():
                size, pods = wanted.shape.key_size, self._members.members(wanted.term)
                return [address for pod in pods for address in pod.addresses if len(address) == size]
            case NamedPortSet():
                return self._named_ports(wanted)
            case PortsSet():
                return map(_span, wanted.spans)
            case NetworksSet():
                return [each.network_address.packed + each.broadcast_address.packed for each in wanted.networks]
            case NodesSet():
                size, found = wanted.shape.key_size, self._evaluator.cluster.addresses_of(wanted.term)
                return {each for each in found if len(each) == size and self._members.owner(each) is None}
            case DomainSet():
                size, found = wanted.shape.key_size, self._evaluator.cluster.resolved(wanted.domain)
                return {each for each in found if len(each) == size}

    def _named_ports(self, wanted: NamedPortSet) -> Iterable[bytes]:
        """Each once: two containers may give one port the same name."""
        name, version = wanted.port, wanted.version
        return {
            address + _port(port.protocol, port.number)
            for pod in self._members.pods
            if pod is not None
            for port in pod.ports
            if port.name == name and pod.selectable
            for address in pod.addresses
            if _VERSIONS[len(address)] == version
        }


@lru_cache(maxsize=1024)
def _port(protocol: str, number: int) -> bytes:
    """The last fields of a key."""
    return bytes((PROTOCOLS[protocol], 0, 0, 0)) + number.to_bytes(2, "big") + b"\0\0"


def _addresses(move: Moved) -> Iterator[bytes]:
    """A pod's, before and after."""
    for pod in (move.old, move.new):
        if pod is not None:
            yield from pod.addresses


def _span(span: PortSpan) -> bytes:
    return _port(span.protocol, span.first) + _port(span.protocol, span.last)


class _Draft:
    """An edit in the making. A place that is left and taken again within it is as it was."""

    def __init__(self) -> None:
        self._leaving: dict[_Place, Verdict | None] = {}
        self._coming: dict[_Place, Verdict | None] = {}
        self._new_sets: list[PolicySet] = []
        self._old_sets: list[str] = []
        self._filled: list[ElementBatch] = []

    def replace(self, old: dict[_Place, Verdict | None], new: dict[_Place, Verdict | None]) -> None:
        """These elements go, those come."""
        for place, verdict in old.items():
            if place in self._coming:
                del self._coming[place]
            else:
                self._leaving[place] = verdict
        self.put(new)

    def put(self, new: dict[_Place, Verdict | None]) -> None:
        """These elements come."""
        for place, verdict in new.items():
            if place in self._leaving and self._leaving[place] == verdict:
                del self._leaving[place]
            else:
                self._coming[place] = verdict

    def add_set(self, new: PolicySet, contents: Iterable[bytes]) -> None:
        """A set that was not there, filled."""
        self._new_sets.append(new)
        if keys := b"".join(contents):
            self._filled.append(ElementBatch(new.name, keys))

    def remove_set(self, name: str) -> None:
        """A set goes with all that it holds."""
        self._old_sets.append(name)

    def edit(self, before: dict[str, Chain], after: dict[str, Chain]) -> Transaction:
        """The edit, with the chains that it takes."""
        gone = set(self._old_sets)
        return Transaction(
            put_sets=tuple(each.shape for each in self._new_sets),
            remove=tuple(_packed({place: None for place in self._leaving if place.set not in gone})),
            put_chains=tuple(chain for name, chain in after.items() if before.get(name) != chain),
            put=(*self._filled, *_packed(self._coming)),
            remove_chains=tuple(sorted(before.keys() - after.keys())),
            remove_sets=tuple(sorted(self._old_sets)),
        )


def _packed(places: dict[_Place, Verdict | None]) -> Iterator[ElementBatch]:
    """Elements of one set and verdict together."""
    by_verdict = itemgetter(0, 1, 2)
    rows = sorted(
        (place.set, verdict.chain or "" if verdict else "", verdict.code if verdict else "", place.key)
        for place, verdict in places.items()
    )
    for (name, chain, code), group in groupby(rows, key=by_verdict):
        keys = b"".join(row[3] for row in group)
        yield ElementBatch(name, keys, verdict=Verdict(code, chain or None) if code else None)
