"""Names and short names of kinds, as kubectl's: `po`, `pod`, `pods`, `deploy`, … Called by the verbs."""

from __future__ import annotations

from collections.abc import Mapping

from percale.errors import BadInput
from percale.model.kinds import KINDS
from percale.model.meta import Object
from percale.suggestion import did_you_mean

_SHORT = {
    "po": "Pod",
    "no": "Node",
    "ns": "Namespace",
    "svc": "Service",
    "ep": "Endpoints",
    "deploy": "Deployment",
    "rs": "ReplicaSet",
    "sts": "StatefulSet",
    "ds": "DaemonSet",
    "cj": "CronJob",
    "cm": "ConfigMap",
    "ing": "Ingress",
    "netpol": "NetworkPolicy",
    "cnp": "ClusterNetworkPolicy",
    "ev": "Event",
    "lease": "SubnetLease",
    "leases": "SubnetLease",
}


def full_name(obj: Object) -> str:
    """`pod/web-0`, `deployment.apps/web`, as kubectl prints it."""
    group = obj.api_group()
    return f"{obj.KIND.lower()}{'.' + group if group else ''}/{obj.metadata.name}"


def _words() -> Mapping[str, type[Object]]:
    words = {short: KINDS[name] for short, name in _SHORT.items() if name in KINDS}
    for kind in KINDS.values():
        words[kind.KIND.lower()] = words[kind.PLURAL] = kind
    return words


WORDS = _words()


def kind_of(word: str) -> type[Object]:
    """The kind of this name. Raises BadInput."""
    found = WORDS.get(word.lower().partition(".")[0])
    if found is not None:
        return found
    known = ", ".join(sorted(kind.PLURAL for kind in KINDS.values()))
    raise BadInput(
        f"there is no kind {word!r}",
        hint=did_you_mean(word, WORDS) or f"write KIND NAME or KIND/NAME; kinds are {known}",
    )
