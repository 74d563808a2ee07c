"""Namespaces that nothing defines, above all those that are one letter from a known one."""

from __future__ import annotations

from collections.abc import Iterable

from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.policy.lint.finding import LintedObject, LintedPolicy, LintFindings, finding, listed
from percale.policy.lint.inventory import SYSTEM_NAMESPACES, ManifestInventory
from percale.suggestion import is_one_edit

_SHORTEST = 4
"""Letters of a name from which a similar one is taken for a slip: `dev` and `dex` may both be meant."""
_FIELD = ("metadata", "namespace")


def undefined_namespaces(objects: Iterable[LintedObject], inventory: ManifestInventory) -> LintFindings:
    """Of all objects those that are one edit from a known one; of policies any other too, when manifests define some."""
    declared = inventory.declared_namespaces
    defined = {*declared, *SYSTEM_NAMESPACES, DEFAULT_NAMESPACE}
    for each in objects:
        namespace = each.object.metadata.namespace
        if namespace is None or namespace in defined:
            continue
        has_pods = bool(inventory.in_namespace(namespace))
        known = defined if has_pods else defined.union(pod.namespace for pod in inventory.pods)
        meant = next((name for name in sorted(known) if is_slip(namespace, name)), None)
        if meant is not None:
            what = f"nothing defines the namespace {namespace}"
            yield finding("undefined-namespace", each, (), what, f"did you mean {meant}?", field=_FIELD)
        elif declared and not has_pods and isinstance(each, LintedPolicy):
            what, hint = f"no manifest defines the namespace {namespace}", f"there are {listed(sorted(declared))}"
            yield finding("undefined-namespace", each, (), what, hint, field=_FIELD, severity="info")


def is_slip(namespace: str, known: str) -> bool:
    """`shpo` for `shop`; `team-a` and `team-b`, `shop` and `shop2` are two."""
    if len(namespace) < _SHORTEST or not is_one_edit(namespace, known):
        return False
    different = set(namespace.split("-")) ^ set(known.split("-"))
    return all(len(part) > 1 and not part[-1].isdigit() for part in different)
