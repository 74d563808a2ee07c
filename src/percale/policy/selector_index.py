"""Which pods each watched selector term selects, kept up to date one pod at a time. Used by the evaluator and the renderer.

A pod has a small integer id; the pods that a term selects are the bits of one integer, so that unions, intersections and
comparisons of sets of 10,000 pods take a microsecond. Every change of a pod, its namespace or its addresses yields a `PodDelta`.
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
from percale.policy.rule_terms import EVERYTHING, Labels, PodSelectorTerm


class PodDelta(Struct, frozen=True, gc=False):
    """A pod was created, changed or deleted: its old and new facts, and the watched terms that selected it before and after."""

    pod_id: int
    old: PodFacts | None
    new: PodFacts | None
    before: tuple[PodSelectorTerm, ...]
    after: tuple[PodSelectorTerm, ...]


def pod_ids_in(bits: int) -> Iterator[int]:
    """The positions of the set bits, lowest first."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


_FLAGS = bytes.maketrans(b"01", b"\0\1")
"""Binary digits to the selectors of `compress`."""


@dataclass(slots=True)
class _WatchedTerm:
    term: PodSelectorTerm
    """The first watcher's: an equal term may list its expressions in another order."""
    bits: int = 0
    watchers: int = 0


class _TermIndex:
    """Terms by one label that they require: a pod's labels find the few terms that may select it."""

    def __init__(self) -> None:
        self._by_label: dict[tuple[str, str] | None, dict[PodSelectorTerm, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_label)

    def add(self, term: PodSelectorTerm) -> None:
        """Add a term that is not in the index."""
        self._by_label.setdefault(_required_label(term), {})[term] = None

    def remove(self, term: PodSelectorTerm) -> None:
        """Remove a term that is in the index."""
        label = _required_label(term)
        del self._by_label[label][term]
        if not self._by_label[label]:
            del self._by_label[label]

    def matching(self, labels: Labels) -> Iterator[PodSelectorTerm]:
        """The terms that select a pod with these labels."""
        for label in (None, *labels.items()):
            for term in self._by_label.get(label, ()):
                if term.pods.matches(labels):
                    yield term


def _required_label(term: PodSelectorTerm) -> tuple[str, str] | None:
    """One label that the term requires; None when it requires none."""
    return min(term.pods.matchLabels.items(), default=None)


class SelectorIndex:
    """Pods, namespaces and the watched terms."""

    def __init__(self) -> None:
        self.pods: list[PodFacts | None] = []
        """By pod id; None where a pod was deleted."""
        self.pod_ids: dict[ObjectKey, int] = {}
        self.unknown: set[int] = set()
        """The ids of pods whose labels are not known."""
        self.terms: list[tuple[PodSelectorTerm, ...]] = []
        """By pod id: the watched terms that select the pod."""
        self._free: list[int] = []
        self._claims: dict[ObjectKey, tuple[bytes, ...]] = {}
        """The addresses that a pod claims, if others own some of them."""
        self._claimants: dict[bytes, list[int]] = {}
        self._labels: dict[str, Labels] = {}
        self._pod_ids_by_namespace: defaultdict[str, set[int]] = defaultdict(set)
        self._watched: dict[PodSelectorTerm, _WatchedTerm] = {}
        self._by_namespace: defaultdict[str, _TermIndex] = defaultdict(_TermIndex)
        """Terms that name one namespace."""
        self._by_namespace_selector: dict[LabelSelector, _TermIndex] = {}
        """Terms with a namespace selector, by that selector."""
        self._selectors_by_namespace: dict[str, tuple[LabelSelector, ...]] = {}
        """The namespace selectors that match each namespace."""

    # Queries

    def labels_of(self, namespace: str) -> Labels:
        """A namespace's labels; one without an object has only its name label."""
        return self._labels.get(namespace) or {NAME_LABEL: namespace}

    def matches(self, term: PodSelectorTerm, pod: PodFacts) -> bool:
        """Whether the term selects this pod."""
        return (
            pod.selectable
            and not pod.unknown
            and term.matches(pod.namespace, self.labels_of(pod.namespace), pod.labels)
        )

    def bits(self, term: PodSelectorTerm) -> int:
        """The ids of the pods that a watched term selects, as a bit set."""
        return self._watched[term].bits

    def compared_with(self, term: PodSelectorTerm) -> int:
        """How many pods and namespaces are compared with the term when it is watched."""
        if isinstance(term.namespaces, str):
            return len(self._pod_ids_by_namespace.get(term.namespaces, ()))
        if term.namespaces == EVERYTHING:
            return len(self.pod_ids)
        return len(self._pod_ids_by_namespace) + sum(
            len(pod_ids)
            for namespace, pod_ids in self._pod_ids_by_namespace.items()
            if term.namespaces.matches(self.labels_of(namespace))
        )

    def members(self, term: PodSelectorTerm) -> Iterator[PodFacts]:
        """The pods that a watched term selects."""
        flags = bin(self._watched[term].bits)[:1:-1].encode().translate(_FLAGS)
        return (pod for pod in compress(self.pods, flags) if pod is not None)

    @property
    def namespaces(self) -> Iterable[str]:
        """The namespaces that have objects."""
        return self._labels.keys()

    def pod(self, key: ObjectKey) -> PodFacts | None:
        """The facts of the pod with this key."""
        pod_id = self.pod_ids.get(key)
        return self.pods[pod_id] if pod_id is not None else None

    def owner(self, address: bytes) -> PodFacts | None:
        """The pod that owns this packed address."""
        for pod_id in self._claimants.get(address, ()):
            pod = self.pods[pod_id]
            if pod is not None and address in pod.addresses:
                return pod
        return None

    # Terms

    def watch(self, term: PodSelectorTerm) -> None:
        """Track the pods that this term selects; reference-counted, see `unwatch`."""
        known = self._watched.get(term)
        if known is not None:
            known.watchers += 1
            return
        self._watched[term] = watched = _WatchedTerm(term, watchers=1)
        for pod_id in self._candidates(term):
            pod = self.pods[pod_id]
            if pod is not None and pod.selectable and not pod.unknown and term.pods.matches(pod.labels):
                watched.bits |= 1 << pod_id
                self.terms[pod_id] = (*self.terms[pod_id], term)

    def _candidates(self, term: PodSelectorTerm) -> Iterable[int]:
        """Index the term; returns the ids of the pods in its namespaces."""
        if isinstance(term.namespaces, str):
            self._by_namespace[term.namespaces].add(term)
            return self._pod_ids_by_namespace.get(term.namespaces, ())
        if term.namespaces not in self._by_namespace_selector:
            self._by_namespace_selector[term.namespaces] = _TermIndex()
            self._selectors_by_namespace.clear()
        self._by_namespace_selector[term.namespaces].add(term)
        selector = term.namespaces
        return (
            pod_id
            for namespace, pod_ids in self._pod_ids_by_namespace.items()
            if selector.matches(self.labels_of(namespace))
            for pod_id in pod_ids
        )

    def unwatch(self, term: PodSelectorTerm) -> None:
        """Release one `watch`."""
        watched = self._watched[term]
        watched.watchers -= 1
        if watched.watchers:
            return
        term = watched.term
        del self._watched[term]
        for pod_id in pod_ids_in(watched.bits):
            self.terms[pod_id] = tuple(each for each in self.terms[pod_id] if each is not term and each != term)
        if isinstance(term.namespaces, str):
            self._by_namespace[term.namespaces].remove(term)
            return
        self._by_namespace_selector[term.namespaces].remove(term)
        if not self._by_namespace_selector[term.namespaces]:
            del self._by_namespace_selector[term.namespaces]
            self._selectors_by_namespace.clear()

    # Changes

    def put_pod(self, pod: PodFacts) -> list[PodDelta]:
        """A pod is new or changed; other pods change too when it claims or releases an address of theirs."""
        pod_id = self.pod_ids.get(pod.key)
        if pod_id is None:
            pod_id = self._allocate_pod_id(pod)
        return self._replace_pod(pod_id, pod)

    def remove_pod(self, key: ObjectKey) -> list[PodDelta]:
        """A pod was deleted; an unknown one is no error."""
        pod_id = self.pod_ids.pop(key, None)
        if pod_id is None:
            return []
        pod = self.pods[pod_id]
        assert pod is not None
        self._pod_ids_by_namespace[pod.namespace].discard(pod_id)
        deltas = self._replace_pod(pod_id, None)
        self._free.append(pod_id)
        return deltas

    def put_namespace(self, namespace: Namespace) -> list[PodDelta]:
        """A namespace is new or its labels changed."""
        return self._relabel_namespace(namespace.metadata.name, namespace.labels)

    def remove_namespace(self, name: str) -> list[PodDelta]:
        """A namespace was deleted: pods left in it see only its name label."""
        return self._relabel_namespace(name, None)

    def _allocate_pod_id(self, pod: PodFacts) -> int:
        if self._free:
            pod_id = self._free.pop()
        else:
            pod_id = len(self.pods)
            self.pods.append(None)
            self.terms.append(())
        self.pod_ids[pod.key] = pod_id
        self._pod_ids_by_namespace[pod.namespace].add(pod_id)
        return pod_id

    def _replace_pod(self, pod_id: int, pod: PodFacts | None) -> list[PodDelta]:
        old = self.pods[pod_id]
        claims = self._claims.pop(old.key, old.addresses) if old is not None else ()
        wanted = pod.addresses if pod is not None else ()
        contenders: set[int] = set()
        for address in claims:
            if address not in wanted:
                self._claimants[address].remove(pod_id)
                contenders.update(self._claimants[address])
                if not self._claimants[address]:
                    del self._claimants[address]
        for address in wanted:
            there = self._claimants.setdefault(address, [])
            if pod_id not in there:
                there.append(pod_id)
            if len(there) > 1:
                contenders.update(there)
        deltas = self._update_pod(pod_id, pod, wanted)
        for contender in sorted(contenders - {pod_id}):
            there_pod = self.pods[contender]
            if there_pod is not None:
                deltas += self._update_pod(contender, there_pod, self._claims.get(there_pod.key, there_pod.addresses))
        return deltas

    def _update_pod(self, pod_id: int, pod: PodFacts | None, claims: tuple[bytes, ...]) -> list[PodDelta]:
        """Store the pod with the claimed addresses that it wins, and update the bits of its terms."""
        old, before = self.pods[pod_id], self.terms[pod_id]
        after: tuple[PodSelectorTerm, ...] = ()
        if pod is not None:
            won = tuple(address for address in claims if self._wins(pod_id, pod, address))
            if won != claims:
                self._claims[pod.key] = claims
            else:
                self._claims.pop(pod.key, None)
            if pod.addresses != won:
                pod = replace(pod, addresses=won)
            after = self._terms_of(pod)
        if pod == old and (after == before or set(after) == set(before)):
            return []
        self.pods[pod_id] = pod
        (self.unknown.add if pod is not None and pod.unknown else self.unknown.discard)(pod_id)
        self._set_terms(pod_id, before, after)
        return [PodDelta(pod_id, old, pod, before, after)]

    def _wins(self, pod_id: int, pod: PodFacts, address: bytes) -> bool:
        for other in self._claimants[address]:
            contender = self.pods[other] if other != pod_id else None
            if contender is not None and (contender.rank, contender.key) > (pod.rank, pod.key):
                return False
        return True

    def _set_terms(self, pod_id: int, before: tuple[PodSelectorTerm, ...], after: tuple[PodSelectorTerm, ...]) -> None:
        self.terms[pod_id] = after
        if before == after:
            return
        bit = 1 << pod_id
        for term in before:
            self._watched[term].bits &= ~bit
        for term in after:
            self._watched[term].bits |= bit

    def _terms_of(self, pod: PodFacts) -> tuple[PodSelectorTerm, ...]:
        if not pod.selectable or pod.unknown:
            return ()
        labels = pod.labels
        found = list(self._by_namespace[pod.namespace].matching(labels)) if pod.namespace in self._by_namespace else []
        for selector in self._selectors_of(pod.namespace):
            found += self._by_namespace_selector[selector].matching(labels)
        return tuple(found)

    def _selectors_of(self, namespace: str) -> tuple[LabelSelector, ...]:
        known = self._selectors_by_namespace.get(namespace)
        if known is None:
            labels = self.labels_of(namespace)
            known = self._selectors_by_namespace[namespace] = tuple(
                each for each in self._by_namespace_selector if each.matches(labels)
            )
        return known

    def _relabel_namespace(self, name: str, labels: Mapping[str, str] | None) -> list[PodDelta]:
        if labels is None:
            self._labels.pop(name, None)
        elif self._labels.get(name) == labels:
            return []
        else:
            self._labels[name] = labels
        self._selectors_by_namespace.pop(name, None)
        deltas: list[PodDelta] = []
        for pod_id in sorted(self._pod_ids_by_namespace.get(name, ())):
            pod = self.pods[pod_id]
            assert pod is not None
            deltas += self._update_pod(pod_id, pod, self._claims.get(pod.key, pod.addresses))
        return deltas
