"""Endpoints → EndpointSlices, as Kubernetes' mirroring controller makes them. Called by `resolver.py` and the controllers.

A Service without a selector and Endpoints written by hand give an external database a Service name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from percale.model.endpoints import (
    MANAGER_LABEL,
    SERVICE_LABEL,
    SKIP_MIRROR_LABEL,
    Endpoint,
    EndpointAddress,
    EndpointConditions,
    EndpointPort,
    Endpoints,
    EndpointSlice,
    EndpointSubset,
)
from percale.model.ip_family import Family
from percale.model.meta import ObjectMeta, OwnerReference

MIRRORING_CONTROLLER = "endpointslicemirroring-controller.k8s.io"
MAX_ENDPOINTS_PER_SUBSET = 1000
"""The rest is left out."""

_LEADER_ANNOTATION = "control-plane.alpha.kubernetes.io/leader"
_NOT_COPIED = "kubectl.kubernetes.io/last-applied-configuration"


def is_mirrored(endpoints: Endpoints) -> bool:
    """Unless a label forbids it, or they are used for leader election. The caller checks whether the Service has a selector."""
    meta = endpoints.metadata
    return meta.labels.get(SKIP_MIRROR_LABEL) != "true" and _LEADER_ANNOTATION not in meta.annotations


def mirrored_slices(endpoints: Endpoints) -> list[EndpointSlice]:
    """One slice for each set of ports and each address family."""
    parts: dict[tuple[Family, tuple[EndpointPort, ...]], list[Endpoint]] = {}
    for subset in endpoints.subsets:
        for family, endpoint in islice(_endpoints_of(subset), MAX_ENDPOINTS_PER_SUBSET):
            parts.setdefault((family, subset.ports), []).append(endpoint)
    return [
        EndpointSlice(
            metadata=_metadata(endpoints, index),
            addressType=family.kubernetes,
            endpoints=tuple(found),
            ports=ports,
        )
        for index, ((family, ports), found) in enumerate(parts.items())
    ]


def _endpoints_of(subset: EndpointSubset) -> Iterator[tuple[Family, Endpoint]]:
    by_readiness: Sequence[tuple[Iterable[EndpointAddress], bool]] = (
        (subset.addresses, True),
        (subset.notReadyAddresses, False),
    )
    for addresses, ready in by_readiness:
        for each in addresses:
            yield (
                Family.IPV6 if ":" in each.ip else Family.IPV4,
                Endpoint(
                    addresses=(each.ip,),
                    conditions=EndpointConditions(ready=ready),
                    hostname=each.hostname,
                    nodeName=each.nodeName,
                    targetRef=each.targetRef,
                ),
            )


def _metadata(endpoints: Endpoints, index: int) -> ObjectMeta:
    meta = endpoints.metadata
    labels: Mapping[str, str] = {
        **{key: value for key, value in meta.labels.items() if key != SKIP_MIRROR_LABEL},
        SERVICE_LABEL: meta.name,
        MANAGER_LABEL: MIRRORING_CONTROLLER,
    }
    return ObjectMeta(
        name=f"{meta.name}-mirrored-{index}",
        namespace=meta.namespace,
        labels=dict(labels),
        annotations={key: value for key, value in meta.annotations.items() if key != _NOT_COPIED},
        ownerReferences=(
            OwnerReference(kind="Endpoints", name=meta.name, uid=meta.uid or "", apiVersion="v1", controller=True),
        ),
    )
