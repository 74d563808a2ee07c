"""Validates a NetworkPolicy as the API server does. Source: pkg/apis/networking/validation/validation.go."""

from __future__ import annotations

from typing import Any

from percale.model.addresses import parse_network
from percale.model.field_path import FieldPath
from percale.model.pod import PROTOCOL_NUMBERS
from percale.model.validation.field_errors import (
    FieldErrors,
    forbidden,
    invalid,
    is_number,
    mapping,
    required,
    sequence,
    unsupported,
)
from percale.model.validation.formats import cidr, port_name, port_number
from percale.model.validation.shared import check_metadata, check_selector

_PROTOCOLS = tuple(PROTOCOL_NUMBERS)
_TYPES = ("Ingress", "Egress")


def check_network_policy(policy: dict[str, Any]) -> FieldErrors:
    """All field errors of the policy."""
    yield from check_metadata(policy.get("metadata"))
    spec = mapping(policy.get("spec"))
    yield from check_selector(spec.get("podSelector"), ("spec", "podSelector"))
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(sequence(spec.get(direction))):
            yield from _check_rule(mapping(rule), peers, ("spec", direction, index))
    yield from _check_types(sequence(spec.get("policyTypes")), ("spec", "policyTypes"))


def _check_rule(rule: Any, peers: str, path: FieldPath) -> FieldErrors:
    for index, port in enumerate(sequence(rule.get("ports"))):
        yield from _check_port(mapping(port), (*path, "ports", index))
    for index, peer in enumerate(sequence(rule.get(peers))):
        if isinstance(peer, dict):
            yield from _check_peer(peer, (*path, peers, index))


def _check_port(port: Any, path: FieldPath) -> FieldErrors:
    protocol, which, end = (port.get(key) for key in ("protocol", "port", "endPort"))
    if isinstance(protocol, str) and protocol not in _PROTOCOLS:
        yield unsupported((*path, "protocol"), protocol, _PROTOCOLS)
    if is_number(which):
        yield from (invalid((*path, "port"), which, message) for message in port_number(which))
    elif isinstance(which, str):
        yield from (invalid((*path, "port"), which, message) for message in port_name(which))
    if is_number(end):
        yield from _check_end(end, which, (*path, "endPort"))


def _check_end(end: int, which: Any, path: FieldPath) -> FieldErrors:
    if which is None:
        yield invalid(path, end, "may not be specified when port is not specified")
    elif isinstance(which, str):
        yield invalid(path, end, "may not be specified when port is non-numeric")
    elif is_number(which):
        if end < which:
            yield invalid(path, end, "must be greater than or equal to port")
        yield from (invalid(path, end, message) for message in port_number(end))


def _check_peer(peer: dict[str, Any], path: FieldPath) -> FieldErrors:
    pods, namespaces, block = (peer.get(key) for key in ("podSelector", "namespaceSelector", "ipBlock"))
    yield from check_selector(pods, (*path, "podSelector"))
    yield from check_selector(namespaces, (*path, "namespaceSelector"))
    if isinstance(block, dict):
        yield from _check_block(block, (*path, "ipBlock"))
    selects = pods is not None or namespaces is not None
    if not selects and block is None:
        yield required(path, "must specify a peer")
    elif selects and block is not None:
        yield forbidden(path, "may not specify both ipBlock and another peer")


def _check_block(block: dict[str, Any], path: FieldPath) -> FieldErrors:
    whole = block.get("cidr")
    if not whole:
        yield required((*path, "cidr"))
        return
    if not isinstance(whole, str):
        return
    wrong = list(cidr(whole))
    yield from (invalid((*path, "cidr"), whole, message) for message in wrong)
    for index, part in enumerate(sequence(block.get("except"))):
        if isinstance(part, str) and not wrong:
            yield from _check_except(part, whole, (*path, "except", index))


def _check_except(text: str, whole: str, path: FieldPath) -> FieldErrors:
    wrong = list(cidr(text))
    yield from (invalid(path, text, message) for message in wrong)
    if wrong:
        return
    block, part = parse_network(whole), parse_network(text)
    inside = part.version == block.version and part.network_address in block and part.prefixlen > block.prefixlen
    if not inside:
        yield invalid(path, text, "must be a strict subset of cidr")


def _check_types(types: Any, path: FieldPath) -> FieldErrors:
    if len(types) > len(_TYPES):
        yield invalid(path, types, "may not specify more than two policyTypes")
        return
    for index, word in enumerate(types):
        if isinstance(word, str) and word not in _TYPES:
            yield unsupported((*path, index), word, _TYPES)
