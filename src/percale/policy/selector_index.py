"""Which pods are meant by which terms, kept up to date one pod at a time. `evaluator.py` and the renderer hold one.

A pod has a slot, a small number; the pods that a term means are the bits of one integer, so that sets of 10,000 pods are
united, cut and compared in a microsecond. Every change of a pod, its namespace or its address comes out as a `Moved`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import compress

from msgspec import Struct
from msgspec.structs import replace

from percale.model.meta import ObjectKey
from percale.model.namespace import NAME_LABEL, Namespace
from percale.model.selector import LabelSelector
from percale.policy.pod_facts import PodFacts
from percale.policy.rule_terms import Labels, Term


class Moved(Struct, frozen=True, gc=False):
    """A pod came, went or changed: what it was, what it is, and which watched terms meant and mean it."""

    slot: int
    old: PodFacts | None
    new: PodFacts | None
    before: tuple[Term, ...]
    after: tuple[Term, ...]


def slots_in(bits: int) -> Iterator[int]:
    """The positions of the set bits, lowest first."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


_FLAGS = bytes.maketrans(b"01", b"\0\1")
"""Digits as what `compress` wants."""


@dataclass(slots=True)
class _Watched:
    term: Term
    """As the first watcher spelled it: an equal term may list its expressions in another order."""
    bits: int = 0
    watchers: int = 0


class _Terms:
    """Terms by a label that they ask for: a pod's labels find the few that may mean it."""

    def __init__(self) -> None:
        self._asking: dict[tuple[str, str] | None, dict[Term, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._asking)

    def add(self, term: Term) -> None:
        """Once only."""
        self._asking.setdefault(_asked(term), {})[term] = None

    def remove(self, term: Term) -> None:
        """One that was added."""
        label = _asked(term)
        del self._asking[label][term]
        if not self._asking[label]:
            del self._asking[label]

    def meaning(self, labels: Labels) -> Iterator[Term]:
        """Those that mean a pod with these labels."""
        for label in (None, *labels.items()):
            for term in self._asking.get(label, ()):
                if term.pods.matches(labels):
                    yield term


def _asked(term: Term) -> tuple[str, str] | None:
    """One of the labels that the term's pods have; None: none is asked for."""
    return min(term.pods.matchLabels.items(), default=None)


class Membership:
    """Pods, namespaces and the terms that somebody watches."""

    def __init__(self) -> None:
        self.pods: list[PodFacts | None] = []
        """By slot; None where a pod has gone."""
        self.slots: dict[ObjectKey, int] = {}
        self.terms: list[tuple[Term, ...]] = []
        """By slot: the watched terms that mean the pod."""
        self._free: list[int] = []
        self._claims: dict[ObjectKey, tuple[bytes, ...]] = {}
        """The addresses that pods say they have, where they do not have them all."""
        self._claimants: dict[bytes, list[int]] = {}
        self._labels: dict[str, Labels] = {}
        self._residents: defaultdict[str, set[int]] = defaultdict(set)
        self._watched: dict[Term, _Watched] = {}
        self._local: defaultdict[str, _Terms] = defaultdict(_Terms)
        """Terms of exactly one namespace."""
        self._roaming: dict[LabelSelector, _Terms] = {}
        """Terms that select namespaces, by how they do."""
        self._reach: dict[str, tuple[LabelSelector, ...]] = {}
        """By namespace: the selectors that match it."""

    # Asking

    def labels_of(self, namespace: str) -> Labels:
        """A namespace's labels; one that no object describes has its name."""
        return self._labels.get(namespace) or {NAME_LABEL: namespace}

    def matches(self, term: Term, pod: PodFacts) -> bool:
        """The term means this pod."""
        return pod.selectable and term.matches(pod.namespace, self.labels_of(pod.namespace), pod.labels)

    def bits(self, term: Term) -> int:
        """The slots of the pods that a watched term means."""
        return self._watched[term].bits

    def members(self, term: Term) -> Iterator[PodFacts]:
        """The pods that a watched term means."""
        flags = bin(self._watched[term].bits)[:1:-1].encode().translate(_FLAGS)
        return (pod for pod in compress(self.pods, flags) if pod is not None)

    @property
    def namespaces(self) -> Iterable[str]:
        """Those that there are objects of."""
        return self._labels.keys()

    def pod(self, key: ObjectKey) -> PodFacts | None:
        """By its key."""
        slot = self.slots.get(key)
        return self.pods[slot] if slot is not None else None

    def owner(self, address: bytes) -> PodFacts | None:
        """The pod that has this packed address."""
        for slot in self._claimants.get(address, ()):
            pod = self.pods[slot]
            if pod is not None and address in pod.addresses:
                return pod
        return None

    # Terms

    def watch(self, term: Term) -> None:
        """Keep track of the pods that this term means; once for each `unwatch`."""
        known = self._watched.get(term)
        if known is not None:
            known.watchers += 1
            return
        self._watched[term] = watched = _Watched(term, watchers=1)
        for slot in self._candidates(term):
            pod = self.pods[slot]
            if pod is not None and pod.selectable and term.pods.matches(pod.labels):
                watched.bits |= 1 << slot
                self.terms[slot] = (*self.terms[slot], term)

    def _candidates(self, term: Term) -> Iterable[int]:
        """The slots in the namespaces that the term means; from now on new pods find it."""
        if isinstance(term.namespaces, str):
            self._local[term.namespaces].add(term)
            return self._residents.get(term.namespaces, ())
        if term.namespaces not in self._roaming:
            self._roaming[term.namespaces] = _Terms()
            self._reach.clear()
        self._roaming[term.namespaces].add(term)
        selector = term.namespaces
        return (
            slot
            for namespace, slots in self._residents.items()
            if selector.matches(self.labels_of(namespace))
            for slot in slots
        )

    def unwatch(self, term: Term) -> None:
        """The other end of `watch`."""
        watched = self._watched[term]
        watched.watchers -= 1
        if watched.watchers:
            return
        term = watched.term
        del self._watched[term]
        for slot in slots_in(watched.bits):
            self.terms[slot] = tuple(each for each in self.terms[slot] if each is not term and each != term)
        if isinstance(term.namespaces, str):
            self._local[term.namespaces].remove(term)
            return
        self._roaming[term.namespaces].remove(term)
        if not self._roaming[term.namespaces]:
            del self._roaming[term.namespaces]
            self._reach.clear()

    # Changes

    def put_pod(self, pod: PodFacts) -> list[Moved]:
        """A pod is new or changed; others move along when it takes or leaves an address of theirs."""
        slot = self.slots.get(pod.key)
        if slot is None:
            slot = self._new_slot(pod)
        return self._replaced(slot, pod)

    def remove_pod(self, key: ObjectKey) -> list[Moved]:
        """A pod is gone; that it was not there is fine."""
        slot = self.slots.pop(key, None)
        if slot is None:
            return []
        pod = self.pods[slot]
        assert pod is not None
        self._residents[pod.namespace].discard(slot)
        moved = self._replaced(slot, None)
        self._free.append(slot)
        return moved

    def put_namespace(self, namespace: Namespace) -> list[Moved]:
        """New labels on a namespace."""
        return self._relabelled(namespace.metadata.name, namespace.labels)

    def remove_namespace(self, name: str) -> list[Moved]:
        """Its pods, if any are left, have the namespace's name alone."""
        return self._relabelled(name, None)

    def _new_slot(self, pod: PodFacts) -> int:
        if self._free:
            slot = self._free.pop()
        else:
            slot = len(self.pods)
            self.pods.append(None)
            self.terms.append(())
        self.slots[pod.key] = slot
        self._residents[pod.namespace].add(slot)
        return slot

    def _replaced(self, slot: int, pod: PodFacts | None) -> list[Moved]:
        old = self.pods[slot]
        claims = self._claims.pop(old.key, old.addresses) if old is not None else ()
        wanted = pod.addresses if pod is not None else ()
        rivals: set[int] = set()
        for address in claims:
            if address not in wanted:
                self._claimants[address].remove(slot)
                rivals.update(self._claimants[address])
                if not self._claimants[address]:
                    del self._claimants[address]
        for address in wanted:
            there = self._claimants.setdefault(address, [])
            if slot not in there:
                there.append(slot)
            if len(there) > 1:
                rivals.update(there)
        moved = self._settled(slot, pod, wanted)
        for rival in sorted(rivals - {slot}):
            there_pod = self.pods[rival]
            if there_pod is not None:
                moved += self._settled(rival, there_pod, self._claims.get(there_pod.key, there_pod.addresses))
        return moved

    def _settled(self, slot: int, pod: PodFacts | None, claims: tuple[bytes, ...]) -> list[Moved]:
        """The pod with the addresses that are really its own, in the bits of its terms."""
        old, before = self.pods[slot], self.terms[slot]
        after: tuple[Term, ...] = ()
        if pod is not None:
            won = tuple(address for address in claims if self._wins(slot, pod, address))
            if won != claims:
                self._claims[pod.key] = claims
            else:
                self._claims.pop(pod.key, None)
            if pod.addresses != won:
                pod = replace(pod, addresses=won)
            after = self._terms_of(pod)
        if pod == old and (after == before or set(after) == set(before)):
            return []
        self.pods[slot] = pod
        self._set_terms(slot, before, after)
        return [Moved(slot, old, pod, before, after)]

    def _wins(self, slot: int, pod: PodFacts, address: bytes) -> bool:
        for other in self._claimants[address]:
            rival = self.pods[other] if other != slot else None
            if rival is not None and (rival.rank, rival.key) > (pod.rank, pod.key):
                return False
        return True

    def _set_terms(self, slot: int, before: tuple[Term, ...], after: tuple[Term, ...]) -> None:
        self.terms[slot] = after
        if before == after:
            return
        bit = 1 << slot
        for term in before:
            self._watched[term].bits &= ~bit
        for term in after:
            self._watched[term].bits |= bit

    def _terms_of(self, pod: PodFacts) -> tuple[Term, ...]:
        if not pod.selectable:
            return ()
        labels = pod.labels
        found = list(self._local[pod.namespace].meaning(labels)) if pod.namespace in self._local else []
        for selector in self._selectors_of(pod.namespace):
            found += self._roaming[selector].meaning(labels)
        return tuple(found)

    def _selectors_of(self, namespace: str) -> tuple[LabelSelector, ...]:
        known = self._reach.get(namespace)
        if known is None:
            labels = self.labels_of(namespace)
            known = self._reach[namespace] = tuple(each for each in self._roaming if each.matches(labels))
        return known

    def _relabelled(self, name: str, labels: Mapping[str, str] | None) -> list[Moved]:
        if labels is None:
            self._labels.pop(name, None)
        elif self._labels.get(name) == labels:
            return []
        else:
            self._labels[name] = labels
        self._reach.pop(name, None)
        moved: list[Moved] = []
        for slot in sorted(self._residents.get(name, ())):
            pod = self.pods[slot]
            assert pod is not None
            moved += self._settled(slot, pod, self._claims.get(pod.key, pod.addresses))
        return moved
