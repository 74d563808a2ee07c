"""The document served at /status and printed by `percale status`.

`reporter.py` makes it, `http/server.py` sends it as JSON, cli/status.py reads it: the field names are an interface.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from percale.agent.problems import Problem


class Peer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Another node's lease; `problem` says why it is not reachable, or not in all of its address families.

    `path` is that of packets between the nodes' pods: by a tunnel, or direct; None: there is none.
    """

    node: str
    subnets: tuple[str, ...]
    publicIPs: tuple[str, ...]
    backend: str
    reached: bool
    path: Literal["direct", "tunnel"] | None = None
    problem: str | None = None


class Pod(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pod's interface on this node; `pod` is namespace/name, if the runtime passed them."""

    container: str
    ifname: str
    addresses: tuple[str, ...]
    pod: str | None = None


class BgpSession(msgspec.Struct, frozen=True, omit_defaults=True):
    """A session of this node's BGP speaker, in calicoctl's words; `node` is the neighbour's, None: a router outside."""

    address: str
    type: str
    state: str
    since: str
    info: str
    node: str | None = None


class BgpRoute(msgspec.Struct, frozen=True):
    """A route that BGP has brought."""

    network: str
    via: str | None
    dev: str | None


class BgpStatus(msgspec.Struct, frozen=True):
    """`services` are addresses of Services that this node advertises by themselves."""

    sessions: tuple[BgpSession, ...] = ()
    routes: tuple[BgpRoute, ...] = ()
    services: tuple[str, ...] = ()


class Addresses(msgspec.Struct, frozen=True):
    """Usage of one of this node's subnets."""

    subnet: str
    used: int
    free: int


class OtherBackend(msgspec.Struct, frozen=True):
    """Which this node has beside `backend`, while the cluster changes from one to another."""

    type: str
    waitingFor: tuple[str, ...]
    """The nodes that have the previous one alone, or are not to be reached by the new one, with the reason."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Fields that are not known yet are None or empty."""

    node: str
    version: str
    pid: int
    started: float
    ready: bool
    waitingFor: tuple[str, ...]
    """Why it is not ready."""
    backend: str | None
    otherBackend: OtherBackend | None
    mtu: int | None
    interface: str | None
    publicIPs: tuple[str, ...]
    networks: tuple[str, ...]
    subnets: tuple[str, ...]
    addresses: tuple[Addresses, ...]
    peers: tuple[Peer, ...]
    pods: tuple[Pod, ...]
    bgp: BgpStatus | None
    """Of the backend bgp."""
    problems: tuple[Problem, ...]
    lastError: Problem | None
