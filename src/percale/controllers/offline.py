"""Manifests that no cluster has seen yet → what the cluster's controllers make of them. Called by `percale service resolve`.

Services ─ allocating ─▶ cluster IPs, node ports ─┐
Pods, Nodes ──────────────────────────────────────┴─ publishing ─▶ EndpointSlices
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network

from percale.controllers.endpointslices import published_slices
from percale.controllers.service_allocator import Allocations
from percale.model.addresses import Network
from percale.model.endpoints import EndpointSlice
from percale.model.meta import Object
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.service import Service

DEFAULT_SERVICE_CIDR = ip_network("10.96.0.0/12")


def played(objects: Sequence[Object], service_cidrs: Sequence[Network] = ()) -> list[Object]:
    """The objects, with slices and addresses where there are pods, but nobody has made any slices."""
    pods = [each for each in objects if isinstance(each, Pod)]
    if not pods or any(isinstance(each, EndpointSlice) for each in objects):
        return list(objects)
    allocations = Allocations(service_cidrs or (DEFAULT_SERVICE_CIDR,))
    services = allocations.complete([each for each in objects if isinstance(each, Service)])
    nodes = [each for each in objects if isinstance(each, Node)]
    slices = [entry for service in services for entry in published_slices(service, pods, nodes)]
    return [*(each for each in objects if not isinstance(each, Service)), *services, *slices]
