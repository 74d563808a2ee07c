"""`deploy/web` as FROM or TO means the first pod of that workload. Called by `percale why`; pure."""

from __future__ import annotations

from collections.abc import Sequence

from percale.errors import NotFound
from percale.explain.matrix.groups import owners
from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.model.meta import Object, ObjectKey
from percale.model.pod import Pod
from percale.model.workloads import KINDS_BY_ALIAS


def first_pod(objects: Sequence[Object], text: str) -> ObjectKey | None:
    """Of `deploy/NAME` (in the namespace default) or `deploy/NS/NAME`; one that lives comes first, then the name counts.

    None: it names no workload. Raises NotFound.
    """
    word, *rest = text.split("/")
    kind = KINDS_BY_ALIAS.get(word)
    if kind is None or len(rest) not in (1, 2):
        return None
    namespace, name = (DEFAULT_NAMESPACE, *rest)[-2:]
    workloads = owners(objects)
    pods = [
        each
        for each in objects
        if isinstance(each, Pod)
        and (workloads[each.key].kind, workloads[each.key].namespace, workloads[each.key].name)
        == (kind, namespace, name)
    ]
    if not pods:
        elsewhere = sorted({str(each) for each in workloads.values() if (each.kind, each.name) == (kind, name)})
        hint = f"did you mean {word}/{elsewhere[0]}?" if elsewhere else None
        raise NotFound(f"there is no pod of {kind.lower()} {namespace}/{name}", hint=hint)
    return min(pods, key=lambda pod: (pod.terminating, pod.status.phase != "Running", pod.key)).key
