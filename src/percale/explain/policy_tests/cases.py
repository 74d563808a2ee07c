"""Policy tests as people write them: a small cluster, its policies, and who must reach whom. `percale policy test` reads them.

    YAML ─▶ nodes (lines) ─▶ Document (strict) ─▶ Case: objects for an evaluator, probes with their lines
    manifests that it names ─▶ policies, namespaces ─┘

docs/policy-tests.md is the schema. A file has a case in each of its documents; nothing of a file with an error is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from ipaddress import ip_address
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct, field

from percale.errors import BadManifest
from percale.explain.policy_tests.schema import PARTS, Document, Part, ProbeEntry, node_of, pod_of
from percale.model.kinds import kinds_of
from percale.model.manifest.decode import Source, object_of, read_nodes, text_of, with_namespace
from percale.model.manifest.diagnostics import SourceText, combined, diagnose
from percale.model.manifest.load import LoadedManifests
from percale.model.manifest.schema import from_text, type_errors, without_nulls
from percale.model.manifest.strictness import Validation
from percale.model.manifest.syntax_tree import Node as SyntaxNode
from percale.model.manifest.syntax_tree import descend, plain_value
from percale.model.manifest.unknown_fields import unknown_field_errors
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.namespace import Namespace
from percale.model.node import Node
from percale.model.pod import Pod
from percale.policy.compiled_policy import PolicyKey, RuleRef
from percale.policy.kinds.registry import POLICY_KINDS
from percale.policy.pod_facts import facts_of
from percale.policy.rule_terms import FlowProtocol
from percale.suggestion import did_you_mean, suggest

_POLICIES = kinds_of(*POLICY_KINDS.object_types)


class Probe(Struct, frozen=True):
    """Who must, or must not, reach whom: ends are `namespace/pod` or an address. `port` is None for ICMP."""

    source: str
    destination: str
    protocol: FlowProtocol
    port: int | None
    allowed: bool
    line: int
    doubt: str | None = None

    def __str__(self) -> str:
        port = self.protocol if self.port is None else f"{self.port}/{self.protocol}"
        return f"{self.source} → {self.destination} {port}"


class Step(Struct, frozen=True):
    """A case that is one state of several of a test, in this order."""

    group: str
    index: int


class PolicySource(Struct, frozen=True):
    """Where a policy is written: its node in a parsed file."""

    file: str
    node: SyntaxNode

    def line(self, *path: str | int) -> str:
        """`file:line` of a field of the policy; of the policy itself without a path."""
        return f"{self.file}:{descend(self.node, path)[1]}"


class Case(Struct, frozen=True, dict=True):
    """One state of a cluster, and what must be true of it."""

    name: str
    source: Source
    step: Step | None
    namespaces: tuple[Namespace, ...]
    nodes: tuple[Node, ...]
    pods: tuple[Pod, ...]
    policies: tuple[Object, ...]
    probes: tuple[Probe, ...]
    policy_sources: Mapping[PolicyKey, PolicySource]
    warnings: tuple[str, ...] = ()
    """Policies of its manifests that are not enforced, misspelt kinds, and unknown fields where they pass."""

    @property
    def objects(self) -> tuple[Object, ...]:
        return (*self.namespaces, *self.nodes, *self.pods, *self.policies)

    def addresses(self, end: str) -> tuple[str, ...]:
        """Of a probe's end."""
        namespace, slash, name = end.rpartition("/")
        if not slash:
            return (end,)
        return self._pod_addresses[ObjectKey(namespace, name)]

    @cached_property
    def _pod_addresses(self) -> Mapping[ObjectKey, tuple[str, ...]]:
        return {pod.key: tuple(pod.status.addresses) for pod in self.pods}

    def place(self, rule: RuleRef) -> str | None:
        """`file:line` of a rule."""
        source = self.policy_sources.get(rule.policy)
        return source.line(*rule.field) if source is not None else None

    def policy_place(self, policy: PolicyKey) -> str | None:
        """`file:line` of a policy."""
        source = self.policy_sources.get(policy)
        return source.line() if source is not None else None


class NotACase(BadManifest):
    """A manifest where a case was expected; `subject` is its kind and name."""

    def __init__(self, subject: str, where: str) -> None:
        self.subject = subject
        hint = "keep cases in a directory of their own, or name their files"
        super().__init__(f"{subject}: a manifest, and not a case", where=where, hint=hint)


Load: TypeAlias = Callable[[str], LoadedManifests]
"""The manifests that a case names, by the path that is written there. Raises BadManifest."""


def _nothing(path: str) -> LoadedManifests:
    raise BadManifest("manifests cannot be read from here", where=path)


def decode_cases(data: bytes, file: str, load: Load = _nothing, validate: Validation = "strict") -> tuple[Case, ...]:
    """All cases of a file. Raises BadManifest (each fault on a line of its own)."""
    text = text_of(data, file)
    cases: list[Case] = []
    faults: list[BadManifest] = []
    try:
        for index, node in enumerate(read_nodes(text, file)):
            decoding = _Decoding(text, Source(file, node.line, index), node, load, validate=validate)
            case = decoding.case()
            faults += decoding.faults
            if case is not None:
                cases.append(case)
    except BadManifest as fault:
        faults.append(fault)
    if faults:
        raise combined(faults)
    return tuple(cases)


def in_sequence(cases: Iterable[Case]) -> list[tuple[Case, ...]]:
    """Cases that are states of one test together, in their order; the others alone."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(f"group {case.step.group}" if case.step else f"{case.source}", []).append(case)
    return [tuple(sorted(each, key=lambda case: case.step.index if case.step else 0)) for each in groups.values()]


# Decoding


def _subject(manifest: SyntaxNode) -> str:
    """`Deployment web`."""
    metadata = manifest.get("metadata")
    kind, name = manifest.get("kind"), metadata.get("name") if metadata is not None else None
    return " ".join(each.text for each in (kind, name) if each is not None)


class _Decoding(Struct, frozen=True):
    """One document; `faults` collects what is wrong with it."""

    text: str
    source: Source
    node: SyntaxNode
    load: Load
    faults: list[BadManifest] = field(default_factory=list)
    validate: Validation = "strict"
    warnings: list[str] = field(default_factory=list)

    def case(self) -> Case | None:
        """None: see `faults`."""
        document = self._document()
        if document is None:
            return None
        written = [*self._policies(document.policies), *self._from_manifests(document.manifests)]
        policies = tuple(each for each, _ in written if not isinstance(each, Namespace))
        pods = tuple(map(pod_of, document.pods))
        self._refuse_twins([("namespaces", [each.name for each in document.namespaces])])
        self._refuse_twins([("policies", [POLICY_KINDS.key(each) for each in policies])])
        self._refuse_twins([("nodes", [each.name for each in document.nodes]), ("pods", [each.key for each in pods])])
        self._refuse_shared_addresses(pods)
        known = {str(pod.key): tuple(pod.status.addresses) for pod in pods}
        probes = tuple(self._probe(index, each, known) for index, each in enumerate(document.probes))
        if self.faults:
            return None
        step = document.sequence
        return Case(
            name=document.name,
            source=self.source,
            step=Step(step.group, step.index) if step is not None else None,
            namespaces=tuple(_namespaces(document, [each for each, _ in written])),
            nodes=tuple(map(node_of, document.nodes)),
            pods=pods,
            policies=policies,
            probes=probes,
            policy_sources={
                POLICY_KINDS.key(each): source for each, source in written if not isinstance(each, Namespace)
            },
            warnings=tuple(self.warnings),
        )

    def _document(self) -> Document | None:
        where = f"{self.source.file}:{self.node.line}"
        if self.node.shape != "mapping":
            self.faults.append(BadManifest("not a case", where=where, hint="a case begins with its name"))
            return None
        if self.node.get("kind") is not None and self.node.get("apiVersion") is not None:
            self.faults.append(NotACase(_subject(self.node), where))
            return None
        self._refuse_unknown(self.node, Document)
        if self.faults:
            return None
        value = without_nulls(Document, plain_value(self.node, len(self.text), where))
        try:
            return msgspec.convert(value, Document, dec_hook=from_text)
        except msgspec.ValidationError:
            written = SourceText(self.node, self.text, self.source.file)
            self.faults.append(diagnose((), type_errors(Document, value), Document, written))
            return None

    def _refuse_unknown(self, node: SyntaxNode, kind: type[Part]) -> None:
        """Fields that mean nothing here, each with the nearest one that does."""
        fields = kind.__struct_encode_fields__
        for key, value in node.entries:
            part = PARTS.get((kind, key.text))
            for each in value.items if value.shape == "list" else (value,):
                if part is not None:
                    self._refuse_unknown(each, part)
            if key.text not in fields:
                hint = suggest(key.text, fields)
                where = f"{self.source.file}:{key.line}"
                self.faults.append(BadManifest(f"unknown field {key.text!r}", where=where, hint=hint))

    def _policies(self, given: Iterable[dict[str, Any]]) -> Iterator[tuple[Object, PolicySource]]:
        for index, value in enumerate(given):
            node, line = descend(self.node, ("policies", index))
            where = f"{self.source.file}:{line}"
            kind = _POLICIES.get(str(value.get("kind")))
            if kind is None or value.get("apiVersion") != kind.API_VERSION:
                what = f"{value.get('kind')} of {value.get('apiVersion')} is no policy that is known here"
                versions = (f"{each.KIND} of {each.API_VERSION}" for each in _POLICIES.values())
                self.faults.append(BadManifest(what, where=where, hint=f"there are {' and '.join(versions)}"))
                continue
            written = SourceText(node, self.text, self.source.file)
            self._unknown(unknown_field_errors(kind, value, written))
            try:
                policy = object_of(kind, value, written)
            except BadManifest as fault:
                self.faults.append(fault)
            else:
                yield with_namespace(policy), PolicySource(self.source.file, node)

    def _unknown(self, fields: Iterable[BadManifest]) -> None:
        if self.validate == "strict":
            self.faults.extend(fields)
        elif self.validate == "warn":
            self.warnings.extend(map(str, fields))

    def _from_manifests(self, paths: Iterable[str]) -> Iterator[tuple[Object, PolicySource]]:
        """The policies and namespaces of manifests; whatever else they hold is not a test's."""
        for index, path in enumerate(paths):
            try:
                manifests = self.load(path)
            except BadManifest as fault:
                where = f"{self.source.file}:{descend(self.node, ('manifests', index))[1]}"
                self.faults.extend(BadManifest(str(each), where=where) for each in fault.parts)
                continue
            self.faults.extend(manifests.faults)
            self.warnings.extend(map(str, manifests.skipped_that_matter))
            self._unknown(manifests.unknown)
            for each in manifests.entries:
                if isinstance(each.object, (Namespace, *POLICY_KINDS.object_types)):
                    yield each.object, PolicySource(each.source.file, manifests.written.node(each.source))

    def _probe(self, index: int, entry: ProbeEntry, pods: dict[str, tuple[str, ...]]) -> Probe:
        for side, end in (("from", entry.from_), ("to", entry.to)):
            if end in pods or ("/" not in end and _is_address(end)):
                continue
            what = f"probes[{index}].{side}: {end} is no pod of this case" + ("" if "/" in end else ", and no address")
            line = descend(self.node, ("probes", index, side))[1]
            hint = did_you_mean(end, pods) or "write namespace/pod or an address"
            self.faults.append(BadManifest(what, where=f"{self.source.file}:{line}", hint=hint))
        families = [{":" in each for each in pods.get(end, (end,))} for end in (entry.from_, entry.to)]
        if not families[0] & families[1]:
            where = f"{self.source.file}:{descend(self.node, ('probes', index))[1]}"
            self.faults.append(BadManifest(f"probes[{index}]: its ends have no family in common", where=where))
        return Probe(
            source=entry.from_,
            destination=entry.to,
            protocol=entry.protocol,
            port=entry.port,
            allowed=entry.allowed,
            line=descend(self.node, ("probes", index))[1],
            doubt=entry.doubt,
        )

    def _refuse_twins(self, lists: Iterable[tuple[str, list[Any]]]) -> None:
        for section, names in lists:
            for index, name in enumerate(names):
                if name in names[:index]:
                    line = descend(self.node, (section, index))[1]
                    what = f"{section}[{index}]: {name} is there twice"
                    self.faults.append(BadManifest(what, where=f"{self.source.file}:{line}"))

    def _refuse_shared_addresses(self, pods: Sequence[Pod]) -> None:
        """Of two pods that run, with an address of their own, one would get the other's verdicts."""
        owners: dict[bytes, ObjectKey] = {}
        for index, pod in enumerate(map(facts_of, pods)):
            for address in pod.addresses:
                owner = owners.setdefault(address, pod.key)
                if owner != pod.key:
                    line = descend(self.node, ("pods", index))[1]
                    what = f"pods[{index}]: {pod.key} has the address {ip_address(address)}, and so has {owner}"
                    self.faults.append(BadManifest(what, where=f"{self.source.file}:{line}"))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _namespaces(document: Document, written: Iterable[Object]) -> Iterator[Namespace]:
    """Those of manifests and of the case, which counts more, and those that pods and policies are in."""
    labels = {each.metadata.name: each.metadata.labels for each in written if isinstance(each, Namespace)}
    labels |= {each.name: each.labels for each in document.namespaces}
    wanted = [*labels, *(pod.namespace for pod in document.pods)]
    wanted += [each.metadata.namespace for each in written if each.metadata.namespace is not None]
    for name in dict.fromkeys(wanted):
        yield Namespace(metadata=ObjectMeta(name=name, labels=labels.get(name, {})))
