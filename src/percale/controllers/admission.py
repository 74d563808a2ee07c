"""Admission as in the API server: Services, EndpointSlices and Endpoints are checked, cluster IPs and node ports allocated. Pure.

    ManifestEntry ─ validate ─ allocate ─▶ ManifestEntry with its addresses, or BadManifest with all errors

Called by `lab up`, `lab apply` and `apply`. Services written directly into the store are completed by `services.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from percale.controllers import cluster_dns
from percale.controllers.service_allocator import AdmissionResult, Allocations
from percale.controllers.service_networks import ServiceNetworks
from percale.errors import BadManifest
from percale.model.endpoints import Endpoints, EndpointSlice
from percale.model.manifest.decode import ManifestEntry
from percale.model.manifest.diagnostics import combined
from percale.model.manifest.encode import to_json
from percale.model.meta import Object, ObjectKey
from percale.model.namespace import Namespace
from percale.model.service import Service
from percale.model.validation.field_errors import FieldError
from percale.model.validation.service import check_endpoint_slice, check_endpoints, check_service


def admit(found: Sequence[ManifestEntry], known: Iterable[Service], networks: ServiceNetworks) -> list[ManifestEntry]:
    """The objects in their order, Services with their addresses; `known` are the cluster's Services. Raises BadManifest."""
    validate(found)
    old = {service.key: service for service in known}
    new = {each.object.key: each for each in found if isinstance(each.object, Service)}
    services = [each.object for each in new.values() if isinstance(each.object, Service)]
    reserved = {cluster_dns.SERVICE: cluster_dns.dns_service(networks)} if cluster_dns.SERVICE not in new else {}
    allocations = Allocations(networks.cidrs, ({**reserved, **old}).values())
    results = dict(zip(new, allocations.admit_all(services, old), strict=True))
    errors = [error for key, result in results.items() for error in _located(new[key], result.errors)]
    if errors:
        raise combined(errors)
    return [_completed(each, new, results) for each in found]


def validate(found: Iterable[ManifestEntry]) -> None:
    """Raises BadManifest with all errors."""
    if errors := [error for each in found for error in _located(each, _validation_errors(each))]:
        raise combined(errors)


def _completed(
    each: ManifestEntry, new: Mapping[ObjectKey, ManifestEntry], results: Mapping[ObjectKey, AdmissionResult]
) -> ManifestEntry:
    """A Service with its addresses, a namespace with the label that has its name."""
    obj = each.object
    if isinstance(obj, Service):
        return replace(new[obj.key], object=results[obj.key].service)
    if isinstance(obj, Namespace):
        return replace(each, object=replace(obj, metadata=replace(obj.metadata, labels=dict(obj.labels))))
    return each


def _validation_errors(each: ManifestEntry) -> Iterator[FieldError]:
    if isinstance(each.object, Service):
        yield from check_service(_to_builtins(each.object))
    elif isinstance(each.object, EndpointSlice):
        yield from check_endpoint_slice(_to_builtins(each.object))
    elif isinstance(each.object, Endpoints):
        yield from check_endpoints(_to_builtins(each.object))


def _to_builtins(obj: Object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(to_json(obj))
    return found


def _located(each: ManifestEntry, errors: Iterable[FieldError]) -> list[BadManifest]:
    name = f"{each.object.KIND} {each.object.key}"
    return [BadManifest(f"{name}: {error}", where=str(each.source)) for error in errors]
