"""FROM, TO and PORT as people type them → who and what is meant. Called by `percale why`; pure.

shop/web        a pod                   node/n1          a node
web             a pod of `default`      external/host    a host outside, of a lab
10.1.2.3        the pod, node or host with this address
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from msgspec import Struct

from percale.errors import BadInput, NotFound
from percale.explain.matrix.groups import owners
from percale.model.addresses import port_number
from percale.model.manifest.decode import DEFAULT_NAMESPACE
from percale.model.meta import Object, ObjectKey
from percale.model.pod import Pod
from percale.model.selector import LabelSelector
from percale.model.workloads import KINDS_BY_ALIAS
from percale.policy.evaluator import Evaluator
from percale.policy.pod_facts import PodFacts
from percale.policy.rule_terms import FlowProtocol
from percale.policy.verdict import FlowEnd
from percale.suggestion import did_you_mean, nearest

_PROTOCOLS: Mapping[str, FlowProtocol] = {"TCP": "TCP", "UDP": "UDP", "SCTP": "SCTP", "ICMP": "ICMP"}


class Target(Struct, frozen=True):
    """What a user's argument names. `unknown`: it has no address yet, and the parties' ones are placeholders."""

    name: str
    parties: tuple[FlowEnd, ...]
    """One for each address."""
    unknown: bool = False

    @property
    def pod(self) -> PodFacts | None:
        return next((party.pod for party in self.parties), None)


class TargetLookup(Struct, frozen=True):
    """Where names are looked up."""

    evaluator: Evaluator
    made_up: frozenset[ObjectKey] = frozenset()
    """Pods whose addresses are not the ones that they will have."""
    hosts: Mapping[str, tuple[str, ...]] | None = None
    """The addresses of a lab's hosts outside, by name; None where there is no lab."""
    owned: frozenset[ObjectKey] = frozenset()
    """Pods that a workload makes."""
    selectors: tuple[tuple[str, LabelSelector], ...] = ()
    """What else than policies selects pods, by namespace: Services and workloads."""

    def find(self, text: str) -> Target:
        """Who is meant. Raises NotFound with the nearest name that is known, BadInput."""
        try:
            return Target(text, (self.evaluator.flow_end(ip_address(text.strip("[]")).packed),))
        except ValueError:
            pass
        group, _, name = text.rpartition("/")
        if group == "node":
            return self._node(name)
        if group == "external":
            return self._host(name)
        if group in ("svc", "service"):
            raise BadInput(f"{text}: Services are not looked into here", hint="name a pod behind it")
        return self._pod(ObjectKey(group if group not in ("", "pod") else DEFAULT_NAMESPACE, name))

    def _pod(self, key: ObjectKey) -> Target:
        members = self.evaluator.selector_index
        pod = members.pod(key)
        if pod is None:
            raise NotFound(f"there is no pod {key}", hint=self._hint(key))
        addresses = pod.addresses if pod.host_addresses is None else pod.host_addresses
        if not addresses and key not in self.made_up:
            if pod.finished:
                raise NotFound(f"pod {key} has finished: its address is not its own any more")
            raise NotFound(
                f"pod {key} has no address of its own", hint="another pod, which runs, has the one it claims"
            )
        if pod.host_addresses is not None:
            return Target(str(key), tuple(FlowEnd(each, None, pod.node) for each in addresses), key in self.made_up)
        return Target(str(key), tuple(FlowEnd(each, pod) for each in addresses), key in self.made_up)

    def _hint(self, key: ObjectKey) -> str | None:
        """Another namespace's pod of this name, one with this prefix, or one with a similar name."""
        known = sorted(map(str, self.evaluator.selector_index.pod_ids))
        same = [each for each in known if each.endswith(f"/{key.name}")]
        begins = [each for each in known if each.startswith((f"{key}-", f"{key.namespace}/{key.name}"))]
        if near := next(iter((*same, *begins)), None) or nearest(str(key), known):
            return f"did you mean {near}?"
        if self.hosts is not None and key.name in self.hosts:
            return f"did you mean external/{key.name}?"
        if key.name in self.evaluator.node_index.addresses:
            return f"did you mean node/{key.name}?"
        return None if known else "there are no pods at all"

    def _node(self, name: str) -> Target:
        addresses = self.evaluator.node_index.addresses
        if name not in addresses:
            raise NotFound(f"there is no node {name}", hint=did_you_mean(name, addresses, prefix="node/", cutoff=0.3))
        if not addresses[name]:
            raise NotFound(f"node {name} has no address", hint="its Node object says none in status.addresses")
        return Target(f"node/{name}", tuple(FlowEnd(each, None, name) for each in addresses[name]))

    def _host(self, name: str) -> Target:
        if self.hosts is None:
            raise NotFound(f"external/{name} is a host of a lab", hint="name its address, or a lab by --lab")
        if name not in self.hosts:
            raise NotFound(
                f"there is no host {name}", hint=did_you_mean(name, self.hosts, prefix="external/", cutoff=0.3)
            )
        return Target(f"external/{name}", tuple(FlowEnd(ip_address(each).packed) for each in self.hosts[name]))


def find_port(text: str, destination: Target) -> tuple[FlowProtocol, int | None]:
    """`80`, `53/udp`, `icmp`, or the name of a port of the destination. Raises BadInput."""
    if text.lower() in ("icmp", "ping"):
        return "ICMP", None
    name, _, suffix = text.partition("/")
    protocol = _PROTOCOLS.get(suffix.upper()) if suffix else None
    if suffix and (protocol is None or protocol == "ICMP"):
        raise BadInput(f"{text!r} is not a port", hint="write 80, 80/tcp, 53/udp, 80/sctp, a port's name, or icmp")
    if (number := port_number(name)) is not None:
        return protocol or "TCP", number
    if name.isdecimal():
        raise BadInput(f"{name} is not a port", hint="ports are 1 to 65535")
    ports = destination.pod.ports if destination.pod is not None else ()
    named = [port for port in ports if port.name == name and protocol in (None, port.protocol)]
    if not named:
        known = ", ".join(dict.fromkeys(port.name for port in ports))
        hint = f"it names {known}" if known else "write a number: it names no ports"
        raise BadInput(f"{destination.name} has no port named {name}", hint=hint)
    return _PROTOCOLS[named[0].protocol], named[0].number


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
