"""Calico's objects for BGP: BGPConfiguration, BGPPeer, BGPFilter. Source: its projectcalico.org/v3 API.

What a cluster has them for is read as it is; a field that has no effect here is of type `Ignored`, and `without_effect` names it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, TypeAlias

import msgspec
import msgspec.structs

from percale.model.addresses import PortNumber
from percale.model.meta import Integer, Object, Part

Ignored: TypeAlias = Any
"""None if it is absent."""

DEFAULT_AS = 64512
REFLECTOR = "projectcalico.org/RouteReflectorClusterID"
"""Annotation or label of a Node: it reflects routes, as a member of this cluster of reflectors; an IPv4 address."""
AS_NUMBER = "projectcalico.org/ASNumber"
"""Annotation or label of a Node: its own AS number."""
NO_LOAD_BALANCER_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"


class CalicoObject(Object, frozen=True, kw_only=True):
    """As it is in the cluster's API; manifests have it as Calico's own API does, too."""

    API_VERSION: ClassVar[str] = "crd.projectcalico.org/v1"
    ALIASES: ClassVar[tuple[str, ...]] = ("projectcalico.org/v3",)
    NAMESPACED: ClassVar[bool] = False


class SecretKey(Part, frozen=True, kw_only=True):
    """A key of a Secret in the agents' namespace."""

    name: str
    key: str
    optional: bool = False


class Password(Part, frozen=True, kw_only=True):
    """Of TCP's MD5 signatures."""

    secretKeyRef: SecretKey | None = None


class ServiceBlock(Part, frozen=True, kw_only=True):
    """Addresses of Services that are advertised."""

    cidr: str


class BGPConfigurationSpec(Part, frozen=True, kw_only=True):
    """For all nodes when it is named `default`, for one when `node.NAME`, which has the first two fields at most."""

    asNumber: Integer | str | None = None
    listenPort: PortNumber | None = None
    nodeToNodeMeshEnabled: bool | None = None
    nodeMeshPassword: Password | None = None
    nodeMeshMaxRestartTime: str | None = None
    serviceClusterIPs: tuple[ServiceBlock, ...] = ()
    serviceExternalIPs: tuple[ServiceBlock, ...] = ()
    serviceLoadBalancerIPs: tuple[ServiceBlock, ...] = ()
    bindMode: Ignored = None
    communities: Ignored = None
    ignoredInterfaces: Ignored = None
    ipv4NormalRoutePriority: Ignored = None
    ipv6NormalRoutePriority: Ignored = None
    localWorkloadPeeringIPV4: Ignored = None
    localWorkloadPeeringIPV6: Ignored = None
    logSeverityScreen: Ignored = None
    prefixAdvertisements: Ignored = None
    programClusterRoutes: Ignored = None
    serviceLoadBalancerAggregation: Ignored = None


class BGPConfiguration(CalicoObject, frozen=True, kw_only=True):
    """Without one: a full mesh of AS 64512."""

    KIND: ClassVar[str] = "BGPConfiguration"
    PLURAL: ClassVar[str] = "bgpconfigurations"

    spec: BGPConfigurationSpec = BGPConfigurationSpec()


class BGPPeerSpec(Part, frozen=True, kw_only=True):
    """Which nodes (`node`, `nodeSelector`, neither: all) peer with whom: a router by `peerIP`, or nodes by `peerSelector`."""

    node: str = ""
    nodeSelector: str = ""
    peerIP: str = ""
    peerSelector: str = ""
    asNumber: Integer | str | None = None
    localASNumber: Integer | str | None = None
    password: Password | None = None
    filters: tuple[str, ...] = ()
    keepOriginalNextHop: bool = False
    nextHopMode: Literal["Auto", "Self", "Keep"] | None = None
    maxRestartTime: str | None = None
    keepaliveTime: str | None = None
    sourceAddress: Literal["UseNodeIP", "None"] | None = None
    ttlSecurity: Integer | None = None
    numAllowedLocalASNumbers: Integer | None = None
    failureDetectionMode: Literal["None", "BFDIfDirectlyConnected"] | None = None
    reversePeering: Literal["Auto", "Manual"] | None = None
    birdGatewayMode: Ignored = None
    externalNetwork: Ignored = None
    extensions: Ignored = None
    localWorkloadSelector: Ignored = None
    reachableBy: Ignored = None
    restartMode: Ignored = None


class BGPPeer(CalicoObject, frozen=True, kw_only=True):
    """A session beside the mesh, or instead of it."""

    KIND: ClassVar[str] = "BGPPeer"
    PLURAL: ClassVar[str] = "bgppeers"

    spec: BGPPeerSpec = BGPPeerSpec()


class PrefixLengths(Part, frozen=True, kw_only=True):
    """Both ends included."""

    min: Integer | None = None
    max: Integer | None = None


class BGPFilterRule(Part, frozen=True, kw_only=True):
    """All that is given must match; a rule that gives nothing matches every route."""

    action: Literal["Accept", "Reject"]
    cidr: str = ""
    matchOperator: Literal["Equal", "NotEqual", "In", "NotIn"] | None = None
    prefixLength: PrefixLengths | None = None
    source: Literal["RemotePeers"] | None = None
    interface: Ignored = None
    asPathPrefix: Ignored = None
    communities: Ignored = None
    operations: Ignored = None
    peerType: Ignored = None
    priority: Ignored = None


class BGPFilterSpec(Part, frozen=True, kw_only=True):
    """The first rule that matches decides; without one the route is accepted."""

    exportV4: tuple[BGPFilterRule, ...] = ()
    exportV6: tuple[BGPFilterRule, ...] = ()
    importV4: tuple[BGPFilterRule, ...] = ()
    importV6: tuple[BGPFilterRule, ...] = ()


class BGPFilter(CalicoObject, frozen=True, kw_only=True):
    """Peers name it."""

    KIND: ClassVar[str] = "BGPFilter"
    PLURAL: ClassVar[str] = "bgpfilters"

    spec: BGPFilterSpec = BGPFilterSpec()


def as_number(value: int | str) -> int:
    """`64512`, or dotted `1.10`. Raises ValueError."""
    text = str(value)
    high, dot, low = text.rpartition(".")
    parts = [high, low] if dot else [low]
    limit = 0xFFFF if dot else 0xFFFFFFFF
    if not all(part.isascii() and part.isdecimal() and int(part) <= limit for part in parts):
        raise ValueError(f"{value!r} is not an AS number")
    number = int(low) + (int(high) << 16 if dot else 0)
    if not number:
        raise ValueError("0 is not an AS number")
    return number


def without_effect(part: Part | Object, path: str = "") -> Iterator[str]:
    """The paths of fields that are given, and have no effect here: `spec.bindMode`."""
    for field in msgspec.structs.fields(part):
        value = getattr(part, field.name)
        here = f"{path}.{field.encode_name}" if path else field.encode_name
        if field.type is Any and value is not None:
            yield here
        for number, item in enumerate(value if isinstance(value, tuple) else ()):
            if isinstance(item, Part):
                yield from without_effect(item, f"{here}[{number}]")
        if isinstance(value, Part):
            yield from without_effect(value, here)
