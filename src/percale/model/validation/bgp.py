"""Validates Calico's BGPConfiguration, BGPPeer and BGPFilter. Source: the validators of its API.

What is valid here can be written into a router's configuration: no text of a user gets there as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any

from percale.model.addresses import is_address, is_network, port_number
from percale.model.bgp import as_number
from percale.model.calico_selector import parse_selector
from percale.model.field_path import FieldPath
from percale.model.validation.field_errors import (
    FieldErrors,
    forbidden,
    invalid,
    is_number,
    mapping,
    required,
    sequence,
    word,
)
from percale.model.validation.formats import is_object_name
from percale.model.validation.shared import check_metadata

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
LONGEST_RESTART = 4095
"""Seconds: the field of RFC 4724 has 12 bits."""
LONGEST_KEEPALIVE = 21845
"""Seconds: a third of the longest hold time of RFC 4271."""
_is_key = re.compile(r"[-._a-zA-Z0-9]{1,253}", re.ASCII).fullmatch


def seconds(duration: str) -> int:
    """`2m30s` in seconds, whole ones. Raises ValueError."""
    match = _DURATION.fullmatch(duration)
    if match is None or not duration or len(duration) > 20:
        raise ValueError("must be a duration of whole seconds, such as 120s or 2m")
    hours, minutes, rest = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + rest


def peer_address(text: str) -> tuple[str, int | None]:
    """Address and port of `192.0.2.1`, `192.0.2.1:1790`, `2001:db8::1`, `[2001:db8::1]:1790`. Raises ValueError."""
    if is_address(text):
        return _unzoned(text), None
    address, _, port = text.rpartition(":")
    bracketed = address.startswith("[") and address.endswith("]")
    inner = address[1:-1] if bracketed else address
    number = port_number(port)
    if number is None or not is_address(inner) or bracketed != (":" in inner):
        raise ValueError("must be an IP address, with or without a port")
    return _unzoned(inner), number


def _unzoned(text: str) -> str:
    address = ip_address(text)
    if "%" in text or address.is_link_local or address.is_unspecified or address.is_multicast or address.is_loopback:
        raise ValueError("must be the address of a router")
    return str(address)


def check_bgp_configuration(value: dict[str, Any]) -> FieldErrors:
    """All field errors of the object."""
    yield from check_metadata(value.get("metadata"))
    spec = mapping(value.get("spec"))
    yield from _check(as_number, spec.get("asNumber"), ("spec", "asNumber"))
    yield from _check_seconds(spec, "nodeMeshMaxRestartTime", LONGEST_RESTART)
    yield from _check_password(spec.get("nodeMeshPassword"), ("spec", "nodeMeshPassword"))
    for field in ("serviceClusterIPs", "serviceExternalIPs", "serviceLoadBalancerIPs"):
        for index, block in enumerate(sequence(spec.get(field))):
            cidr = mapping(block).get("cidr")
            if isinstance(cidr, str) and not is_network(cidr):
                yield invalid(("spec", field, index, "cidr"), cidr, "must be a valid CIDR value")


def check_bgp_peer(value: dict[str, Any]) -> FieldErrors:
    """All field errors of the object."""
    yield from check_metadata(value.get("metadata"))
    spec = mapping(value.get("spec"))
    for one, other in (("node", "nodeSelector"), ("peerIP", "peerSelector"), ("asNumber", "peerSelector")):
        if spec.get(one) and spec.get(other):
            yield forbidden(("spec", other), f"may not be set together with {one}")
    if not spec.get("peerIP") and not spec.get("peerSelector"):
        yield required(("spec", "peerIP"), "peerIP or peerSelector says with whom to peer")
    if spec.get("peerIP") and not spec.get("asNumber"):
        yield required(("spec", "asNumber"), "the AS number of the router at peerIP")
    if word(spec.get("peerIP")):
        yield from _check(peer_address, spec["peerIP"], ("spec", "peerIP"))
    for field in ("asNumber", "localASNumber"):
        yield from _check(as_number, spec.get(field), ("spec", field))
    for field in ("nodeSelector", "peerSelector"):
        if word(spec.get(field)):
            yield from _check(parse_selector, spec[field], ("spec", field))
    yield from _check_password(spec.get("password"), ("spec", "password"))
    yield from _check_seconds(spec, "maxRestartTime", LONGEST_RESTART)
    yield from _check_seconds(spec, "keepaliveTime", LONGEST_KEEPALIVE)
    for field, most in (("ttlSecurity", 255), ("numAllowedLocalASNumbers", 10)):
        number = spec.get(field)
        if is_number(number) and not 0 <= number <= most:
            yield invalid(("spec", field), number, f"must be from 0 to {most}")
    for index, name in enumerate(sequence(spec.get("filters"))):
        if isinstance(name, str) and not is_object_name(name):
            yield invalid(("spec", "filters", index), name, "must be the name of a BGPFilter")


def check_bgp_filter(value: dict[str, Any]) -> FieldErrors:
    """All field errors of the object."""
    yield from check_metadata(value.get("metadata"))
    spec = mapping(value.get("spec"))
    for field, version in (("exportV4", 4), ("importV4", 4), ("exportV6", 6), ("importV6", 6)):
        for index, rule in enumerate(sequence(spec.get(field))):
            yield from _check_rule(mapping(rule), version, ("spec", field, index))


def _check_rule(rule: Mapping[str, Any], version: int, path: FieldPath) -> FieldErrors:
    cidr = word(rule.get("cidr"))
    if bool(cidr) != bool(rule.get("matchOperator")):
        yield required((*path, "matchOperator" if cidr else "cidr"), "cidr and matchOperator belong together")
    if cidr and not is_network(cidr):
        yield invalid((*path, "cidr"), cidr, "must be a valid CIDR value")
    elif cidr and (":" in cidr) != (version == 6):
        yield invalid((*path, "cidr"), cidr, f"must be an IPv{version} network")
    lengths = rule.get("prefixLength")
    if isinstance(lengths, dict):
        if not cidr:
            yield required((*path, "cidr"), "prefixLength needs a cidr")
        longest = 32 if version == 4 else 128
        low, high = lengths.get("min"), lengths.get("max")
        for name, length in (("min", low), ("max", high)):
            if is_number(length) and not 0 <= length <= longest:
                yield invalid((*path, "prefixLength", name), length, f"must be from 0 to {longest}")
        if is_number(low) and is_number(high) and low > high:
            yield invalid((*path, "prefixLength"), "object", "min must not be above max")


def _check(parse: Callable[[Any], object], value: Any, path: FieldPath) -> FieldErrors:
    if isinstance(value, str) or is_number(value):
        try:
            parse(value)
        except ValueError as error:
            yield invalid(path, value, str(error))


def _check_seconds(spec: Mapping[str, Any], field: str, most: int) -> FieldErrors:
    def parse(value: Any) -> None:
        if not 1 <= seconds(str(value)) <= most:
            raise ValueError(f"must be from 1s to {most}s")

    yield from _check(parse, spec.get(field), ("spec", field))


def _check_password(value: Any, path: FieldPath) -> FieldErrors:
    reference = mapping(mapping(value).get("secretKeyRef"))
    for field, valid in (("name", is_object_name), ("key", _is_file_name)):
        text = reference.get(field)
        if isinstance(text, str) and not valid(text):
            yield invalid((*path, "secretKeyRef", field), text, f"must be the {field} of a Secret")


def _is_file_name(text: str) -> bool:
    return bool(_is_key(text)) and text not in (".", "..")
