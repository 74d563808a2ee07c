"""How a person names the ends of a connection: one grammar for every command, read here and nowhere else; pure.

    NS/POD  POD  pod/POD        a pod; without NS in the namespace of `-n`, else in `default`
    deploy/NAME  deploy/NS/NAME the first pod of a workload; also sts, ds, rs, job, cronjob
    svc/NAME  svc/NS/NAME       a Service
    node/NAME  external/NAME    a node; a host outside, of a lab
    10.1.2.3  fd00::1           whoever has this address

    80  53/udp  9999/sctp  http  icmp   a port; behind TO as a word of its own, or as TO:PORT

Called by `why/targets.py` and `services/` for objects, and by lab/api for what runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Literal, NamedTuple, TypeAlias

from percale.errors import BadInput, NotFound
from percale.explain.pod_owners import Owners, owners
from percale.model.addresses import IPAddress, is_address, is_network, port_number
from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.model.meta import Object, ObjectKey
from percale.model.pod import Pod
from percale.model.workloads import KINDS_BY_ALIAS
from percale.policy.rule_terms import FlowProtocol
from percale.suggestion import did_you_mean, nearest, some_of


class PodName(NamedTuple):
    """A pod; `is_bare`: the name alone, which may be a name of a name server as well."""

    key: ObjectKey
    is_bare: bool


class WorkloadName(NamedTuple):
    """Of a kind, as in `deploy/NS/NAME`."""

    word: str
    kind: str
    key: ObjectKey


class ServiceName(NamedTuple):
    key: ObjectKey


class MachineName(NamedTuple):
    sort: Literal["node", "external"]
    name: str


Name: TypeAlias = IPAddress | PodName | WorkloadName | ServiceName | MachineName

_PODS = ("pod", "po", "pods")
_SERVICES = ("svc", "service", "services")
_ALIASES = {kind: word for word, kind in reversed(KINDS_BY_ALIAS.items())}
"""The word for a kind of workload, such as deploy."""
_FORMS = "write NS/POD, deploy/NS/NAME, svc/NS/NAME, node/NAME, external/NAME or an address"


def parse_name(text: str, namespace: str | None = None) -> Name:
    """`namespace`: of names without one. Raises BadInput."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if is_address(bare):
        return ip_address(bare)
    if is_network(bare):
        raise BadInput(f"{text} is a network, and no end of a connection", hint="name an address of it")
    word, *rest = text.split("/")
    if len(rest) > 2 or not all((word, *rest)):
        raise BadInput(f"{text!r} names nothing", hint=_FORMS)
    if not rest:
        return PodName(ObjectKey(namespace or DEFAULT_NAMESPACE, word), is_bare=True)
    if word in ("node", "external") and len(rest) == 1:
        return MachineName("node" if word == "node" else "external", rest[0])
    key = ObjectKey(*rest) if len(rest) == 2 else ObjectKey(namespace or DEFAULT_NAMESPACE, rest[0])
    return _of_kind(word, key) or _pod_of_namespace(text, word, rest)


def _of_kind(word: str, key: ObjectKey) -> Name | None:
    if word in _SERVICES:
        return ServiceName(key)
    if word in KINDS_BY_ALIAS:
        return WorkloadName(word, KINDS_BY_ALIAS[word], key)
    return PodName(key, is_bare=False) if word in _PODS else None


def _pod_of_namespace(text: str, namespace: str, rest: Sequence[str]) -> PodName:
    if len(rest) > 1:
        raise BadInput(f"{text!r} names nothing: {namespace} is no kind of end", hint=_FORMS)
    return PodName(ObjectKey(namespace, rest[0]), is_bare=False)


def suggest_end(key: ObjectKey, workloads: Owners, machines: Iterable[str], services: Iterable[ObjectKey] = ()) -> str:
    """The hint for a pod that is not there; `machines` are `node/NAME` and `external/NAME`, `services` where one may stand.

    Who else has this name, a pod with this prefix, what is similar, else some of what there is.
    """
    pods, others = [(each, str(each)) for each in sorted(workloads)], sorted(machines)
    made = sorted({each for each in workloads.values() if each.kind in _ALIASES}, key=str)
    makers = [(ObjectKey(each.namespace or "", each.name), f"{_ALIASES[each.kind or '']}/{each}") for each in made]
    fronts = [(each, f"svc/{each}") for each in sorted(services)]
    begins = [text for pod, text in pods if text.startswith((f"{key}-", f"{key.namespace}/{key.name}"))]
    as_pods = {f"{key.namespace}/{each.partition('/')[2]}": each for each in others}
    there = [as_pods[str(key)]] if str(key) in as_pods else []
    of_name = _named(key, pods) or _named(key, makers) or begins
    if meant := [*of_name[:1], *_named(key, fronts)[:1], *there]:
        return f"did you mean {' or '.join(meant)}?"
    is_machine = nearest(key.name, (each.partition("/")[2] for each in others), cutoff=0.5) is not None
    if is_machine and (all_machines := some_of(others)):
        return all_machines
    known = (*fronts, *makers, *pods)
    for word, words, cutoff in (
        (str(key), {str(each): text for each, text in known}, 0.6),
        (key.name, {each.name: text for each, text in known}, 0.75),
    ):
        if similar := nearest(word, words, cutoff=cutoff):
            return f"did you mean {words[similar]}?"
    here = [text for pod, text in pods if pod.namespace == key.namespace]
    return some_of(here or (text for _, text in pods)) or "there are no pods at all"


def _named(key: ObjectKey, known: Sequence[tuple[ObjectKey, str]]) -> list[str]:
    """Those of this name; first the one in its namespace."""
    same = [(other.namespace != key.namespace, text) for other, text in known if other.name == key.name]
    return [text for _, text in sorted(same)]


def split_port(text: str, port: str | None) -> tuple[str, str]:
    """`TO PORT` and `TO:PORT` alike as TO and PORT. Raises BadInput when there is not exactly one port."""
    found = None if is_address(text) else re.fullmatch(r"(\[[^][]*\]|[^][:]*):([^:]*)", text)
    if found is not None and port is not None:
        raise BadInput(f"{text!r} has a port, and {port!r} is another", hint="give the port once: TO PORT, or TO:PORT")
    target, own = found.groups() if found is not None else (text, port)
    if own is None:
        raise BadInput(f"{text!r} has no port", hint="write FROM TO PORT, or FROM TO:PORT; an IPv6 address in brackets")
    return target, own


# Ports

_PROTOCOLS: Mapping[str, FlowProtocol] = {"TCP": "TCP", "UDP": "UDP", "SCTP": "SCTP"}
ICMP_WORDS = ("icmp", "ping")


class NamedNumber(NamedTuple):
    """A port that a pod or a Service has."""

    name: str | None
    protocol: str
    number: int


def find_port(text: str, owner: str, ports: Iterable[NamedNumber]) -> tuple[FlowProtocol, int | None]:
    """A number of any protocol, or the name of one of the owner's ports. Raises BadInput."""
    known = list(ports)
    found = find_ports(text, known)
    if not found:
        raise BadInput(f"{owner} has no port named {text.partition('/')[0]}", hint=names_of_ports(known))
    return found[0]


def find_ports(text: str, ports: Iterable[NamedNumber]) -> list[tuple[FlowProtocol, int | None]]:
    """All that it means: a number means itself, a name each of these ports that has it. Raises BadInput."""
    if text.lower() in ICMP_WORDS:
        return [("ICMP", None)]
    name, slash, suffix = text.partition("/")
    protocol = _PROTOCOLS.get(suffix.upper())
    if not name or (slash and protocol is None):
        raise BadInput(f"{text!r} is not a port", hint="write 80, 80/tcp, 53/udp, 80/sctp, a port's name, or icmp")
    if (number := port_number(name)) is not None:
        return [(protocol or "TCP", number)]
    if name.isdecimal():
        raise BadInput(f"{name[:40]} is not a port", hint="ports are 1 to 65535")
    named = (port for port in ports if port.name == name and protocol in (None, port.protocol))
    return list(dict.fromkeys((_PROTOCOLS[port.protocol], port.number) for port in named))


def names_of_ports(ports: Iterable[NamedNumber], said: str = "it names") -> str:
    """The hint for a name that none of them has."""
    names = ", ".join(dict.fromkeys(port.name for port in ports if port.name))
    return f"{said} {names}" if names else f"write a number: {said} no ports"


# Workloads


def first_pod(objects: Iterable[Object], name: WorkloadName) -> ObjectKey:
    """The workload's pod that stands for it; one that lives comes first, then the name counts. Raises NotFound."""
    everything = list(objects)
    workloads = owners(everything)
    wanted = (name.kind, *name.key)
    pods = [
        each
        for each in everything
        if isinstance(each, Pod)
        and (workloads[each.key].kind, workloads[each.key].namespace, workloads[each.key].name) == wanted
    ]
    if not pods:
        known = [each for each in workloads.values() if each.kind == name.kind]
        elsewhere = sorted({str(each) for each in known if each.name == name.key.name})
        here = (each.name for each in known if each.namespace == name.key.namespace)
        near = did_you_mean(name.key.name, here, prefix=f"{name.word}/{name.key.namespace}/")
        some = near or some_of({f"{name.word}/{each}" for each in known})
        others = sorted(
            f"{(each.kind or Pod.KIND).lower()}/{each}"
            for each in workloads.values()
            if (each.namespace, each.name) == name.key
        )
        meant = [*(f"{name.word}/{each}" for each in elsewhere), *others]
        hint = f"did you mean {meant[0]}?" if meant else some
        raise NotFound(f"there is no pod of {name.kind.lower()} {name.key}", hint=hint)
    return min(pods, key=lambda pod: (pod.terminating, pod.status.phase != "Running", pod.key)).key
