"""Services, EndpointSlices and Endpoints as an API server lets them in: checked, with cluster IPs and node ports. Pure.

    ManifestEntry ─ validating ─ allocating ─▶ ManifestEntry with its addresses, or BadManifest with all that is wrong

Called by `starting` (`lab up`) and `object_verbs` (`lab apply`). What people write into the store, `servicing` completes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from percale.controllers import cluster_dns as name_objects
from percale.controllers.service_allocator import Allocations
from percale.controllers.service_networks import ServiceNetworks
from percale.errors import BadManifest
from percale.model.endpoints import Endpoints, EndpointSlice
from percale.model.manifest.decode import ManifestEntry
from percale.model.manifest.diagnostics import combined
from percale.model.manifest.encode import to_json
from percale.model.meta import Object
from percale.model.service import Service
from percale.model.validation.field_errors import FieldError
from percale.model.validation.service import check_endpoint_slice, check_endpoints, check_service


def admitted(
    found: Sequence[ManifestEntry], known: Iterable[Service], networks: ServiceNetworks
) -> list[ManifestEntry]:
    """The objects in their order, each Service with all that it needs; `known` are the cluster's. Raises BadManifest."""
    old = {service.key: service for service in known}
    faults = [fault for each in found for fault in _faults(each, _unfit(each))]
    if faults:
        raise combined(faults)
    new = {each.object.key: (each, each.object) for each in found if isinstance(each.object, Service)}
    reserved = {name_objects.SERVICE: name_objects.name_service(networks)} if name_objects.SERVICE not in new else {}
    allocations = Allocations(networks.cidrs, ({**reserved, **old}).values())
    complete = {}
    for key, (each, service) in sorted(new.items(), key=lambda item: not asks(item[1][1])):
        result = allocations.admit(service, old.get(key))
        faults += _faults(each, result.errors)
        complete[key] = replace(each, object=result.service)
    if faults:
        raise combined(faults)
    return [complete[each.object.key] if isinstance(each.object, Service) else each for each in found]


def _unfit(each: ManifestEntry) -> Iterator[FieldError]:
    if isinstance(each.object, Service):
        yield from check_service(_as_written(each.object))
    elif isinstance(each.object, EndpointSlice):
        yield from check_endpoint_slice(_as_written(each.object))
    elif isinstance(each.object, Endpoints):
        yield from check_endpoints(_as_written(each.object))


def _as_written(obj: Object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(to_json(obj))
    return found


def asks(service: Service) -> bool:
    """For an address or a port of its own: such ones come first, so that nobody else is given it."""
    spec = service.spec
    return bool(spec.clusterIP or spec.clusterIPs or any(port.nodePort for port in spec.ports))


def _faults(each: ManifestEntry, errors: Iterable[FieldError]) -> list[BadManifest]:
    name = f"{each.object.KIND} {each.object.key}"
    return [BadManifest(f"{name}: {error}", where=str(each.source)) for error in errors]
