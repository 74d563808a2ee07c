"""The validator of each kind. Called by `manifest/decode.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias, get_args

import msgspec

from percale.model.bgp import BGPConfiguration, BGPFilter, BGPPeer
from percale.model.clusternetworkpolicy import ClusterNetworkPolicy
from percale.model.ip_pool import AddressBlock, IPPool, IPReservation
from percale.model.manifest.decoders import converted
from percale.model.meta import Object
from percale.model.networkpolicy import NetworkPolicy
from percale.model.selector import LabelSelector
from percale.model.validation.bgp import check_bgp_configuration, check_bgp_filter, check_bgp_peer
from percale.model.validation.clusternetworkpolicy import check_cluster_network_policy
from percale.model.validation.field_errors import FieldError, FieldErrors, invalid, mapping
from percale.model.validation.ip_pool import check_address_block, check_ip_pool, check_ip_reservation
from percale.model.validation.networkpolicy import check_network_policy
from percale.model.validation.shared import check_selector
from percale.model.workloads import Job, Workload

Validator: TypeAlias = Callable[[dict[str, Any]], FieldErrors]


def _check_workload(workload: dict[str, Any]) -> FieldErrors:
    spec = mapping(workload.get("spec"))
    errors = list(check_selector(spec.get("selector"), ("spec", "selector")))
    yield from errors
    if not errors and workload.get("kind") != Job.KIND:  # a Job's selector is generated
        yield from _selector_of_other_pods(spec)


def _selector_of_other_pods(spec: Mapping[str, Any]) -> FieldErrors:
    """The selector must select the template's pods. Source: ValidateDeploymentSpec and its siblings."""
    labels = mapping(mapping(mapping(spec.get("template")).get("metadata")).get("labels"))
    try:
        selector = converted(mapping(spec.get("selector")), LabelSelector)
    except msgspec.ValidationError:
        return  # the decoder says so
    if "selector" in spec and not selector.matches(labels):
        path = ("spec", "template", "metadata", "labels")
        yield invalid(path, labels, "`selector` does not match template `labels`")


_VALIDATORS: Mapping[type[Object], Validator] = MappingProxyType(
    {
        NetworkPolicy: check_network_policy,
        ClusterNetworkPolicy: check_cluster_network_policy,
        BGPConfiguration: check_bgp_configuration,
        BGPPeer: check_bgp_peer,
        BGPFilter: check_bgp_filter,
        IPPool: check_ip_pool,
        IPReservation: check_ip_reservation,
        AddressBlock: check_address_block,
        **dict.fromkeys(get_args(Workload), _check_workload),
    }
)


def has_validator(kind: type[Object]) -> bool:
    """Whether the kind has rules beyond its types."""
    return kind in _VALIDATORS


def field_errors(kind: type[Object], value: dict[str, Any]) -> tuple[FieldError, ...]:
    """All field errors of an object of this kind, given as plain dicts, lists and scalars."""
    validator = _VALIDATORS.get(kind)
    return tuple(validator(value)) if validator is not None else ()
