"""Validates a Service, an EndpointSlice or Endpoints as the API server does.

Called by the lab's admission and `percale service check`, not by the decoder: proxies must accept objects that an API server of
today would reject, and one invalid Service must not hide the others.

Source: pkg/apis/core/validation (ValidateService) and pkg/apis/discovery/validation.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import Any, Final

from percale.model.addresses import is_address
from percale.model.field_path import FieldPath
from percale.model.pod import PROTOCOL_NUMBERS
from percale.model.service import LONGEST_AFFINITY
from percale.model.validation.field_errors import (
    FieldErrors,
    duplicate,
    forbidden,
    invalid,
    is_number,
    mapping,
    required,
    sequence,
    too_many,
    unsupported,
    word,
)
from percale.model.validation.formats import cidr, dns_label, dns_subdomain, port_name, port_number
from percale.model.validation.shared import check_labels, check_metadata

_TYPES = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
_EXTERNAL = ("NodePort", "LoadBalancer")
_PROTOCOLS = tuple(PROTOCOL_NUMBERS)
_POLICIES = ("Cluster", "Local")
_FAMILIES = ("IPv4", "IPv6")
_DISTRIBUTIONS = ("PreferClose", "PreferSameZone", "PreferSameNode")
_IP = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
_SERVICE_NAME: Final = "[a-z]([-a-z0-9]*[a-z0-9])?"
_is_service_name = re.compile(_SERVICE_NAME, re.ASCII).fullmatch
_LIMITS = {"endpoints": 1000, "addresses": 100, "ports": 20000}


def check_service(service: Mapping[str, Any]) -> FieldErrors:
    """All field errors of the Service, except conflicts with other Services."""
    name: FieldPath = ("metadata", "name")
    for error in check_metadata(service.get("metadata")):
        if error.path != name or error.type == "Required value":  # a Service's name is more than a subdomain
            yield error
    yield from _check_name(mapping(service.get("metadata")).get("name"))
    spec = mapping(service.get("spec"))
    kind = word(spec.get("type")) or "ClusterIP"
    yield from _check_word(kind, _TYPES, ("spec", "type"))
    yield from _check_ports(spec, kind)
    yield from check_labels(spec.get("selector"), ("spec", "selector"))
    yield from _check_kind(spec, kind)
    yield from _check_affinity(spec)
    yield from _check_addresses(spec, kind)
    yield from _check_families(spec)
    yield from _check_policies(spec, kind)


def _check_name(name: Any) -> FieldErrors:
    if not isinstance(name, str) or not name:
        return
    if len(name) > 63:
        yield invalid(("metadata", "name"), name, "must be no more than 63 characters")
    if not _is_service_name(name):
        yield invalid(
            ("metadata", "name"),
            name,
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
            "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation "
            f"is '{_SERVICE_NAME}')",
        )


def _check_word(value: Any, words: Collection[str], path: FieldPath) -> FieldErrors:
    if isinstance(value, str) and value and value not in words:
        yield unsupported(path, value, words)


# Ports


def _check_ports(spec: Mapping[str, Any], kind: str) -> FieldErrors:
    ports = sequence(spec.get("ports"))
    if not ports and spec.get("clusterIP") != "None" and kind != "ExternalName":
        yield required(("spec", "ports"))
    names: set[str] = set()
    numbers: set[tuple[Any, Any]] = set()
    node_ports: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        if not isinstance(port, dict):
            continue
        path: FieldPath = ("spec", "ports", index)
        yield from _check_port_name(port.get("name"), names, (*path, "name"), needed=len(ports) > 1)
        number = port.get("port")
        yield from _check_number(number, (*path, "port"))
        protocol = word(port.get("protocol")) or "TCP"
        yield from _check_word(protocol, _PROTOCOLS, (*path, "protocol"))
        yield from _check_target(port.get("targetPort"), (*path, "targetPort"))
        yield from _check_node_port(port.get("nodePort"), protocol, kind, node_ports, (*path, "nodePort"))
        if is_number(number):
            if (number, protocol) in numbers:
                yield duplicate(path, {"protocol": protocol, "port": number})
            numbers.add((number, protocol))


def _check_port_name(name: Any, names: set[str], path: FieldPath, *, needed: bool) -> FieldErrors:
    if not name:
        if needed:
            yield required(path)
    elif isinstance(name, str):
        yield from (invalid(path, name, message) for message in dns_label(name))
        if name in names:
            yield duplicate(path, name)
        names.add(name)


def _check_number(number: Any, path: FieldPath) -> FieldErrors:
    if number is None or is_number(number):
        yield from (invalid(path, number or 0, message) for message in port_number(number or 0))


def _check_target(target: Any, path: FieldPath) -> FieldErrors:
    if is_number(target) and target:
        yield from _check_number(target, path)
    elif isinstance(target, str):
        yield from (invalid(path, target, message) for message in port_name(target))


def _check_node_port(
    number: Any, protocol: str, kind: str, taken: set[tuple[Any, Any]], path: FieldPath
) -> FieldErrors:
    if not is_number(number) or not number:
        return
    if kind in ("ClusterIP", "ExternalName"):
        yield forbidden(path, f"may not be used when `type` is '{kind}'")
    elif (number, protocol) in taken:
        yield duplicate(path, number)
    taken.add((number, protocol))


# The type of Service


def _check_kind(spec: Mapping[str, Any], kind: str) -> FieldErrors:
    headless = spec.get("clusterIP") == "None"
    if kind in _EXTERNAL and headless:
        yield invalid(("spec", "clusterIPs", 0), "None", f"may not be set to 'None' for {kind} services")
    if kind == "ExternalName":
        if spec.get("clusterIP") or sequence(spec.get("clusterIPs")):
            yield forbidden(("spec", "clusterIPs"), "may not be set for ExternalName services")
        name = spec.get("externalName")
        if not name:
            yield required(("spec", "externalName"))
        elif isinstance(name, str):
            yield from (
                invalid(("spec", "externalName"), name, message) for message in dns_subdomain(name.removesuffix("."))
            )
    if kind != "LoadBalancer":
        for key in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            if spec.get(key) is not None:
                yield forbidden(("spec", key), "may only be used when `type` is 'LoadBalancer'")


def _check_affinity(spec: Mapping[str, Any]) -> FieldErrors:
    affinity = spec.get("sessionAffinity")
    yield from _check_word(affinity, ("ClientIP", "None"), ("spec", "sessionAffinity"))
    config = mapping(spec.get("sessionAffinityConfig"))
    if config and affinity != "ClientIP":
        yield forbidden(("spec", "sessionAffinityConfig"), "must not be set when session affinity is None")
        return
    timeout = mapping(config.get("clientIP")).get("timeoutSeconds")
    if is_number(timeout) and not 0 < timeout <= LONGEST_AFFINITY:
        yield invalid(
            ("spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds"),
            timeout,
            f"must be greater than 0 and less than {LONGEST_AFFINITY}",
        )


# Addresses


def _check_addresses(spec: Mapping[str, Any], kind: str) -> FieldErrors:
    ips = sequence(spec.get("clusterIPs"))
    one = spec.get("clusterIP")
    if ips and one and ips[0] != one:
        yield invalid(("spec", "clusterIPs"), list(ips), "first value must match `clusterIP`")
    texts = [text for text in ips or (one,) if isinstance(text, str) and text]
    for index, text in enumerate(texts):
        if text == "None":
            if len(texts) > 1:
                yield invalid(("spec", "clusterIPs"), texts, "'None' must be the first and only value")
        elif not is_address(text):
            yield invalid(("spec", "clusterIPs", index), text, _IP)
    for version in (4, 6):
        if sum(is_address(text) and ip_address(text).version == version for text in texts) > 1:
            yield invalid(("spec", "clusterIPs"), texts, "may specify no more than one IP for each IP family")
    for index, text in enumerate(sequence(spec.get("externalIPs"))):
        if isinstance(text, str):
            yield from (invalid(("spec", "externalIPs", index), text, message) for message in _public_address(text))
    ranges = sequence(spec.get("loadBalancerSourceRanges"))
    if ranges and kind != "LoadBalancer":
        yield forbidden(("spec", "LoadBalancerSourceRanges"), "may only be used when `type` is 'LoadBalancer'")
    for index, text in enumerate(ranges):
        if isinstance(text, str):
            messages = cidr(text.strip())
            yield from (invalid(("spec", "loadBalancerSourceRanges", index), text, message) for message in messages)


_LINK_LOCAL = (ip_network("169.254.0.0/16"), ip_network("fe80::/10"))
_LINK_MULTICAST = (ip_network("224.0.0.0/24"), ip_network("ff02::/16"))


def _public_address(text: str) -> Iterator[str]:
    """Errors of an address that must be routable."""
    if not is_address(text):
        yield _IP
        return
    address = ip_address(text)
    if address.is_unspecified:
        yield f"may not be unspecified ({text})"
    if address.is_loopback:
        yield "may not be in the loopback range (127.0.0.0/8, ::1/128)"
    if any(address in network for network in _LINK_LOCAL if network.version == address.version):
        yield "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    if any(address in network for network in _LINK_MULTICAST if network.version == address.version):
        yield "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"


def _check_families(spec: Mapping[str, Any]) -> FieldErrors:
    seen = set()
    for index, family in enumerate(map(word, sequence(spec.get("ipFamilies")))):
        path: FieldPath = ("spec", "ipFamilies", index)
        yield from _check_word(family, _FAMILIES, path)
        if family and family in seen:
            yield duplicate(path, family)
        seen.add(family)
    yield from _check_word(
        spec.get("ipFamilyPolicy"), ("SingleStack", "PreferDualStack", "RequireDualStack"), ("spec", "ipFamilyPolicy")
    )


# Traffic


def _check_policies(spec: Mapping[str, Any], kind: str) -> FieldErrors:
    external = spec.get("externalTrafficPolicy")
    reachable = kind in _EXTERNAL or (kind == "ClusterIP" and bool(sequence(spec.get("externalIPs"))))
    if external and not reachable:
        yield invalid(("spec", "externalTrafficPolicy"), external, "may only be set for externally-accessible services")
    else:
        yield from _check_word(external, _POLICIES, ("spec", "externalTrafficPolicy"))
    yield from _check_word(spec.get("internalTrafficPolicy"), _POLICIES, ("spec", "internalTrafficPolicy"))
    yield from _check_word(spec.get("trafficDistribution"), _DISTRIBUTIONS, ("spec", "trafficDistribution"))
    check = spec.get("healthCheckNodePort")
    if check and not (kind == "LoadBalancer" and external == "Local"):
        yield invalid(
            ("spec", "healthCheckNodePort"),
            check,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        )


# EndpointSlices


def check_endpoint_slice(entry: Mapping[str, Any]) -> FieldErrors:
    """All field errors of the slice."""
    yield from check_metadata(entry.get("metadata"))
    family = entry.get("addressType")
    if not family:
        yield required(("addressType",))
    else:
        yield from _check_word(family, ("IPv4", "IPv6", "FQDN"), ("addressType",))
    endpoints, ports = sequence(entry.get("endpoints")), sequence(entry.get("ports"))
    for key, items in (("endpoints", endpoints), ("ports", ports)):
        if len(items) > _LIMITS[key]:
            yield too_many((key,), len(items), _LIMITS[key])
    for index, endpoint in enumerate(endpoints):
        if isinstance(endpoint, dict):
            yield from _check_endpoint(endpoint, family, ("endpoints", index))
    names: set[str] = set()
    for index, port in enumerate(ports):
        if isinstance(port, dict):
            yield from _check_slice_port(port, names, ("ports", index))


def _check_endpoint(endpoint: Mapping[str, Any], family: Any, path: FieldPath) -> FieldErrors:
    addresses = sequence(endpoint.get("addresses"))
    if not addresses:
        yield required((*path, "addresses"), "must contain at least 1 address")
    elif len(addresses) > _LIMITS["addresses"]:
        yield too_many((*path, "addresses"), len(addresses), _LIMITS["addresses"])
    for index, text in enumerate(addresses):
        if isinstance(text, str):
            yield from _check_endpoint_address(text, family, (*path, "addresses", index))
    for key, check in (("nodeName", dns_subdomain), ("hostname", dns_label)):
        value = endpoint.get(key)
        if isinstance(value, str) and value:
            yield from (invalid((*path, key), value, message) for message in check(value))
    for key in ("forNodes", "forZones"):
        hints = sequence(mapping(endpoint.get("hints")).get(key))
        if len(hints) > 8:
            yield too_many((*path, "hints", key), len(hints), 8)


def _check_endpoint_address(text: str, family: Any, path: FieldPath) -> FieldErrors:
    if family == "FQDN":
        yield from (invalid(path, text, message) for message in dns_subdomain(text.removesuffix(".")))
    elif family in _FAMILIES:
        if not is_address(text) or (ip_address(text).version == 6) != (family == "IPv6"):
            yield invalid(path, text, f"must be a valid {family} address")
        else:
            yield from (invalid(path, text, message) for message in _public_address(text))


def _check_slice_port(port: Mapping[str, Any], names: set[str], path: FieldPath) -> FieldErrors:
    name = word(port.get("name"))
    if name in names:
        yield duplicate((*path, "name"), name)
    names.add(name)
    if name:
        yield from (invalid((*path, "name"), name, message) for message in dns_label(name))
    if port.get("port") is not None:
        yield from _check_number(port["port"], (*path, "port"))
    yield from _check_word(port.get("protocol"), _PROTOCOLS, (*path, "protocol"))


# Endpoints


def check_endpoints(entry: Mapping[str, Any]) -> FieldErrors:
    """All field errors of the Endpoints."""
    yield from check_metadata(entry.get("metadata"))
    for index, subset in enumerate(sequence(entry.get("subsets"))):
        if isinstance(subset, dict):
            yield from _check_subset(subset, ("subsets", index))


def _check_subset(subset: Mapping[str, Any], path: FieldPath) -> FieldErrors:
    if not sequence(subset.get("addresses")) and not sequence(subset.get("notReadyAddresses")):
        yield required(path, "must specify `addresses` or `notReadyAddresses`")
    for key in ("addresses", "notReadyAddresses"):
        for index, address in enumerate(sequence(subset.get(key))):
            ip = mapping(address).get("ip")
            if isinstance(ip, str):
                yield from (invalid((*path, key, index, "ip"), ip, message) for message in _public_address(ip))
    names: set[str] = set()
    for index, port in enumerate(sequence(subset.get("ports"))):
        if isinstance(port, dict):
            yield from _check_slice_port(port, names, (*path, "ports", index))
