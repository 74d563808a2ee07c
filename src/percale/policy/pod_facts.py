"""The part of a pod that policies need, kept small: there may be 10,000 of them. Used by `selector_index.py`."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import NamedTuple

from msgspec import Struct

from percale.model.addresses import packed
from percale.model.meta import ObjectKey
from percale.model.pod import Pod

MAX_NAMED_PORTS = 256
"""Of a pod: each that a policy names is an element on the nodes with the policy's pods. Others have numbers only."""


class NamedPort(NamedTuple):
    name: str
    protocol: str
    number: int


class PodFacts(Struct, frozen=True, gc=False):
    """A pod as policies see it. `addresses` are packed and owned: if two pods claim one, the higher `rank` wins."""

    key: ObjectKey
    namespace: str
    labels: dict[str, str]
    addresses: tuple[bytes, ...]
    ports: tuple[NamedPort, ...]
    node: str | None
    host_addresses: tuple[bytes, ...] | None
    """Of a hostNetwork pod, which has no addresses of its own."""
    finished: bool
    rank: tuple[bool, bool, bool, str]
    """Which of two pods owns an address that both claim: attached by this agent, running, not terminating, newest."""
    uid: int = 0
    """A hash of the object's uid in this process; 0 without one."""
    unknown: bool = False
    """Nobody has told its labels: it is denied all that a policy may deny, and no selector of a peer means it."""

    @property
    def selectable(self) -> bool:
        """False for hostNetwork and completed pods."""
        return self.host_addresses is None and not self.finished


@lru_cache(maxsize=4096)
def _named(name: str, protocol: str, number: int) -> NamedPort:
    """Shared by all pods that have it."""
    return NamedPort(name, protocol, number)


def unknown_facts(key: ObjectKey) -> PodFacts:
    """The facts of a pod of which only the name is known."""
    return PodFacts(
        key=key,
        namespace=sys.intern(key.namespace or "default"),
        labels={},
        addresses=(),
        ports=(),
        node=None,
        host_addresses=None,
        finished=False,
        rank=(False, True, True, ""),
        unknown=True,
    )


def hash_of_uid(uid: str | None) -> int:
    """Small, and enough to tell a pod from the last one of its name."""
    return hash(uid) if uid else 0


def facts_of(pod: Pod) -> PodFacts:
    """The facts of a Pod object."""
    meta, spec = pod.metadata, pod.spec
    namespace = sys.intern(meta.namespace or "default")
    finished = pod.status.phase in ("Succeeded", "Failed")
    addresses = () if finished else tuple(dict.fromkeys(map(packed, pod.status.addresses)))
    return PodFacts(
        key=ObjectKey(meta.namespace and namespace, meta.name),
        namespace=namespace,
        labels={key: sys.intern(value) for key, value in meta.labels.items()},
        addresses=addresses if not spec.hostNetwork else (),
        ports=tuple(
            [
                _named(port.name, port.protocol, port.containerPort)
                for container in spec.containers
                for port in container.ports
                if port.name
            ][:MAX_NAMED_PORTS]
        ),
        node=spec.nodeName and sys.intern(spec.nodeName),
        host_addresses=addresses if spec.hostNetwork else None,
        finished=finished,
        uid=hash_of_uid(meta.uid),
        rank=(False, pod.status.phase == "Running", meta.deletionTimestamp is None, meta.creationTimestamp or ""),
    )
