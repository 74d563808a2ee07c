"""Which objects a command names, and how they are shown. Pure; called by the lab's verbs and by `in_store`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from msgspec import Struct

from percale.errors import BadInput
from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.model.manifest.encode import to_plain
from percale.model.meta import Object
from percale.model.namespace import Namespace
from percale.model.selector import LabelSelector
from percale.model.selector_text import parse_label_selector
from percale.objects import columns
from percale.objects.kind_names import full_name, kind_of
from percale.suggestion import did_you_mean

_ALL = ("Pod", "Service", "DaemonSet", "Deployment", "ReplicaSet", "StatefulSet", "CronJob", "Job")
"""What `get all` shows, as kubectl."""


class Wanted(Struct, frozen=True):
    """Objects of a kind: those of these names, or without any all."""

    kind: str
    names: tuple[str, ...] = ()


Kinds: TypeAlias = Sequence[tuple[type[Object], Sequence[str]]]
"""Each with the names of the wanted objects; none: all of them."""
Section: TypeAlias = dict[str, Any]
"""Objects of a kind: `head` and `rows` of their table, `objects` as plain data, and `names`."""


class Scope(Struct, frozen=True):
    """Where objects are looked for, and with which labels."""

    namespace: str | None = None
    """None: the default one."""
    everywhere: bool = False
    selector: str = ""

    @property
    def home(self) -> str:
        return self.namespace or DEFAULT_NAMESPACE


class Found(Struct, frozen=True):
    """Objects of each kind, the named ones that are missing, and what to say when there is nothing."""

    objects: Sequence[Sequence[Object]]
    missing: Sequence[str]
    nothing: str

    @property
    def all(self) -> Sequence[Object]:
        """Of all kinds."""
        return [obj for each in self.objects for obj in each]


def find(kinds: Kinds, scope: Scope, all_of: Callable[[type[Object]], Sequence[Object]]) -> Found:
    """`all_of` has all objects of a kind, and all Namespaces. Raises BadInput for a selector that is none."""
    labels = parse_label_selector(scope.selector)
    home, everywhere = scope.home, scope.everywhere
    found, missing, elsewhere = [], [], 0
    for kind, names in kinds:
        there = all_of(kind)
        inside = [obj for obj in there if everywhere or not kind.NAMESPACED or obj.metadata.namespace == home]
        elsewhere += len(there) - len(inside)
        found.append([obj for obj in inside if _fits(obj, names, labels)])
        known = {obj.metadata.name for obj in found[-1]}
        missing += [not_there(kind, name, home, there) for name in names if name not in known]
    nothing = _nothing([kind for kind, _ in kinds], None if everywhere else home, 0 if scope.selector else elsewhere)
    namespaces = [each.metadata.name for each in all_of(Namespace)]
    if home not in namespaces and (hint := did_you_mean(home, namespaces, prefix="-n ")) is not None:
        nothing = f"{nothing}; {hint}"
    return Found(found, missing, nothing)


def sections(
    found: Sequence[Sequence[Object]], context: columns.ColumnContext, scope: Scope, *, wide: bool
) -> list[Section]:
    """One for each kind that has objects."""
    made = []
    for objects in filter(None, found):
        head, *rows = columns.rows(objects, context, wide=wide, namespaces=scope.everywhere, kinds=len(found) > 1)
        plain, names = list(map(to_plain, objects)), list(map(full_name, objects))
        made.append({"head": head, "rows": rows, "objects": plain, "names": names})
    return made


def wanted_kinds(wanted: Sequence[Wanted]) -> Kinds:
    """Raises BadInput."""
    found: list[tuple[type[Object], Sequence[str]]] = []
    for each in wanted:
        if each.kind != "all":
            found.append((kind_of(each.kind), each.names))
        elif each.names:
            raise BadInput("`all` is several kinds, and takes no name", hint="name the kind: pod, service, …")
        else:
            found += [(kind_of(kind), ()) for kind in _ALL]
    return found


def not_there(kind: type[Object], name: str, namespace: str | None, known: Iterable[Object]) -> str:
    """What is said of an object that does not exist; `known` are those of its kind."""
    there = list(known)
    homes = sorted({obj.metadata.namespace or "" for obj in there if obj.metadata.name == name} - {namespace, ""})
    inside = sorted(obj.metadata.name for obj in there if not kind.NAMESPACED or obj.metadata.namespace == namespace)
    begins = next((each for each in inside if each.startswith(f"{name}-")), None)  # of a workload's name
    similar = f"did you mean {begins}?" if begins else did_you_mean(name, inside)
    hint = f"did you mean -n {homes[0]}?" if homes else similar
    return f"there is no {kind.KIND.lower()} {name}{_within(kind, namespace)}{f'; {hint}' if hint else ''}"


def _fits(obj: Object, names: Sequence[str], labels: LabelSelector) -> bool:
    return (not names or obj.metadata.name in names) and labels.matches(obj.metadata.labels)


def _nothing(kinds: Sequence[type[Object]], namespace: str | None, elsewhere: int) -> str:
    within = _within(kinds[0], namespace) if namespace is not None and kinds else ""
    plurals = ", ".join(kind.PLURAL for kind in kinds)
    return f"no {plurals}{within}" + (f"; {elsewhere} elsewhere: -A shows all" if elsewhere else "")


def _within(kind: type[Object], namespace: str | None) -> str:
    return f" in namespace {namespace}" if kind.NAMESPACED else ""
