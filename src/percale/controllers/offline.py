"""Completes manifests that were never in a cluster as its controllers would. Called by the commands that read manifests.

Services ─ service_allocator ─▶ cluster IPs, node ports ─┐
Pods, Nodes ─────────────────────────────────────────────┴─ endpointslices ─▶ EndpointSlices
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network

from percale.controllers.endpointslices import endpoint_slices_for
from percale.controllers.service_allocator import Allocations
from percale.model.addresses import IPNetwork
from percale.model.endpoints import EndpointSlice
from percale.model.meta import Object
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.service import Service

DEFAULT_SERVICE_CIDR = ip_network("10.96.0.0/12")


def with_generated_slices(objects: Sequence[Object], service_cidrs: Sequence[IPNetwork] = ()) -> list[Object]:
    """With EndpointSlices and cluster IPs if there are pods but no slices; otherwise the objects as they are."""
    pods = [each for each in objects if isinstance(each, Pod)]
    if not pods or any(isinstance(each, EndpointSlice) for each in objects):
        return list(objects)
    allocations = Allocations(service_cidrs or (DEFAULT_SERVICE_CIDR,))
    services = allocations.complete([each for each in objects if isinstance(each, Service)])
    nodes = [each for each in objects if isinstance(each, Node)]
    slices = [entry for service in services for entry in endpoint_slices_for(service, pods, nodes)]
    return [*(each for each in objects if not isinstance(each, Service)), *services, *slices]
