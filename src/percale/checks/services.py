"""Services that nobody answers for: connections to them are refused."""

from __future__ import annotations

from collections.abc import Sequence

from percale.checks.check import Outcome, bad, doubtful, good
from percale.checks.commands import kubectl
from percale.checks.host import Host
from percale.counted import counted
from percale.errors import PercaleError
from percale.model.endpoints import SERVICE_LABEL, EndpointSlice
from percale.model.meta import ObjectKey
from percale.model.service import Service

_DNS = ObjectKey("kube-system", "kube-dns")
"""Pods ask it for every name."""
_SHOWN = 5


def endpoints(host: Host) -> Outcome | None:
    """Of those with a selector: who writes the endpoints of the others knows what they do."""
    try:
        services, slices = host.store.list(Service), host.store.list(EndpointSlice)
    except PercaleError:
        return None  # told by the check of the store
    known: dict[ObjectKey, list[bool]] = {}
    for each in slices:
        key = ObjectKey(each.metadata.namespace, each.metadata.labels.get(SERVICE_LABEL, ""))
        known.setdefault(key, []).extend(one.conditions.ready is not False for one in each.endpoints)
    selecting = [each for each in services if each.spec.selector and each.spec.type != "ExternalName"]
    empty = [each for each in selecting if not any(known.get(each.key, ()))]
    if not empty:
        return good(f"{counted(len(selecting), 'Service')} with endpoints")
    words = _words(empty, known)
    commands = _commands(host, empty[0], bool(known.get(empty[0].key)))
    if any(each.key == _DNS for each in empty):
        return bad(f"pods resolve no name: {words}", *commands)
    return doubtful(words, *commands)


def _words(empty: Sequence[Service], known: dict[ObjectKey, list[bool]]) -> str:
    told = [
        f"{each.key} {'has no endpoint that is ready' if known.get(each.key) else 'selects no pod'}"
        for each in empty[:_SHOWN]
    ]
    more = [f"and {len(empty) - _SHOWN} more"] if len(empty) > _SHOWN else []
    return ", ".join([*told, *more])


def _commands(host: Host, service: Service, has_pods: bool) -> Sequence[str]:
    name, namespace = service.metadata.name, service.metadata.namespace
    selector = ",".join(f"{label}={value}" for label, value in sorted((service.spec.selector or {}).items()))
    if has_pods:
        return (kubectl(host, f"describe pods -n {namespace} -l {selector}"),)
    return (
        kubectl(host, f"get pods -n {namespace} --show-labels") + f"   # which are meant by {selector}?",
        kubectl(host, f"get service {name} -n {namespace} -o yaml") + "   # correct its selector, and apply it",
    )
