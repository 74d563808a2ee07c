"""Selectors that select nothing, of policies and of Services."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from percale.model.field_path import FieldPath
from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.model.namespace import NAME_LABEL
from percale.model.selector import LabelSelector
from percale.policy.lint.finding import LintedPolicy, LintFindings, Severity, common_labels, finding, listed, places
from percale.policy.lint.inventory import ManifestInventory
from percale.policy.lint.labels import label_meant
from percale.policy.lint.namespaces import is_slip
from percale.policy.rule_terms import EVERYTHING, PodSelectorTerm
from percale.suggestion import did_you_mean


def empty_selectors(policies: Iterable[LintedPolicy], inventory: ManifestInventory) -> LintFindings:
    """A subject or a peer that selects no pod or no namespace of the manifests."""
    for policy in policies:
        subject, field = policy.compiled.subject, policy.compiled.subject_field
        yield from _empty_selector(policy, subject, field, _selector_fields(field)[1], inventory)
        for rule in policy.compiled.all_rules:
            for field, peer in rule.placed_peers:
                if isinstance(peer, PodSelectorTerm):
                    yield from _empty_selector(policy, peer, field, field[:_ITEM], inventory)


_MISSPELT = 0.8
"""The similarity from which a name is a misspelt one."""
_ITEM = len(("spec", "ingress", 0, "from", 0))


def _selector_fields(field: FieldPath) -> tuple[FieldPath, FieldPath]:
    """The fields of the namespace selector and of the pod selector, below a subject's or a peer's."""
    if field[-1] == "namespaces":
        return field, field
    return (*field, "namespaceSelector"), (*field, "podSelector")


def _empty_selector(
    policy: LintedPolicy, term: PodSelectorTerm, field: FieldPath, part: FieldPath, inventory: ManifestInventory
) -> LintFindings:
    where = term.namespaces
    namespaces_field, pods_field = _selector_fields(field)
    if isinstance(where, LabelSelector) and inventory.knows(where) and not inventory.matching_namespaces(where):
        yield finding(
            "selects-nothing",
            policy,
            part,
            f"{namespaces_field[-1]} selects no namespace",
            _namespaces_near(where, inventory),
            field=namespaces_field,
            severity=_severity(where, inventory),
        )
        return
    if term.pods == EVERYTHING or not inventory.knows_pods_of(term) or inventory.selected(term):
        return
    if inventory.may_be_made(term.pods):
        return
    there = inventory.matching_namespaces(where)
    yield finding(
        "selects-nothing",
        policy,
        part,
        f"{pods_field[-1]} selects no pod of {places(there)}",
        _pods_near(term, there, inventory),
        field=pods_field,
    )


def services_without_pods(inventory: ManifestInventory) -> LintFindings:
    """Services that select none of the pods, of those either that are in their node's network."""
    for service in inventory.services:
        spec = service.object.spec
        if not spec.selector or spec.type == "ExternalName" or any(inventory.behind(service.object)):
            continue
        namespace = service.object.metadata.namespace or DEFAULT_NAMESPACE
        term = PodSelectorTerm(namespace, LabelSelector(matchLabels=spec.selector))
        there = inventory.in_namespace(namespace)
        elsewhere = any(term.pods.matches(pod.labels) for pod in inventory.pods)
        if (there or elsewhere) and inventory.knows_pods_of(term) and not inventory.may_be_made(term.pods):
            what = f"its selector selects no pod of {places([namespace])}: it has no endpoints"
            hint = _pods_near(term, [namespace], inventory)
            yield finding("selects-nothing", service, (), what, hint, field=("spec", "selector"))


def _pods_near(term: PodSelectorTerm, there: Sequence[str], inventory: ManifestInventory) -> str:
    """Where pods with these labels are, the label that may be meant, or which labels the pods have in these namespaces."""
    elsewhere = {pod.namespace for pod in inventory.pods if term.pods.matches(pod.labels)}
    if elsewhere:
        return f"pods with these labels are in {places(sorted(elsewhere))}"
    here = [pod.labels for place in there for pod in inventory.in_namespace(place)]
    if (meant := label_meant(term.pods, here)) is not None:
        return f"did you mean {meant}?"
    return f"the pods there have {common_labels(here)}" if here else "the manifests have no pods there"


def _severity(where: LabelSelector, inventory: ManifestInventory) -> Severity:
    """Policies without their cluster name namespaces that only it has; a slip is one there too."""
    name = where.matchLabels.get(NAME_LABEL, "")
    certain = inventory.declared_namespaces or any(is_slip(name, known) for known in inventory.namespaces)
    return "warning" if certain else "info"


def _namespaces_near(where: LabelSelector, inventory: ManifestInventory) -> str:
    """What the namespaces have: the label of their names if `name` is taken for it, their names, or their other labels."""
    name = where.matchLabels.get("name")
    if name in inventory.namespaces:
        return f"a namespace's name is its label {NAME_LABEL}: write `{NAME_LABEL}: {name}`"
    if NAME_LABEL in where.matchLabels:
        names = sorted(inventory.namespaces)
        return did_you_mean(where.matchLabels[NAME_LABEL], names, cutoff=_MISSPELT) or (
            f"the namespaces here have the names {listed(names)}"
        )
    given = [{key: value for key, value in each.items() if key != NAME_LABEL} for each in inventory.namespaces.values()]
    return f"the namespaces here have {common_labels(given)}"
