"""Validates a ClusterNetworkPolicy as its CustomResourceDefinition (v1alpha2, experimental channel) does.

An unknown field is taken for one of a newer API: a peer that has only such fields is valid.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from percale.model.field_path import FieldPath, format_field_path
from percale.model.validation.field_errors import (
    FieldErrors,
    duplicate,
    forbidden,
    invalid,
    is_number,
    mapping,
    required,
    sequence,
    too_few,
    too_long,
    too_many,
    unsupported,
)
from percale.model.validation.formats import cidr
from percale.model.validation.shared import check_metadata, check_selector

_TIERS = ("Admin", "Baseline")
_ACTIONS = ("Accept", "Deny", "Pass")
_TRANSPORTS = ("tcp", "udp", "sctp")
_SOURCES = ("namespaces", "pods")
_DESTINATIONS = (*_SOURCES, "nodes", "networks", "domainNames")
_WITHOUT_PODS = frozenset(("nodes", "networks", "domainNames"))
_MOST = 25
"""Maximum rules of a direction, peers and protocols of a rule, networks and names of a peer."""
_LONGEST_NAME = 100
_LABEL = "[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?"
_DOMAIN = rf"^(\*\.)?({_LABEL}\.)+{_LABEL}\.?$"
_is_domain = re.compile(_DOMAIN, re.ASCII).fullmatch


def check_cluster_network_policy(policy: dict[str, Any]) -> FieldErrors:
    """All field errors of the policy."""
    yield from check_metadata(policy.get("metadata"))
    if not isinstance(policy.get("spec"), dict):
        return
    spec: dict[str, Any] = policy["spec"]
    yield from _check_word(spec.get("tier"), _TIERS, ("spec", "tier"))
    yield from _check_number(spec.get("priority"), 0, 1000, ("spec", "priority"))
    yield from _check_subject(spec.get("subject"), ("spec", "subject"))
    for direction, peers, fields in (("ingress", "from", _SOURCES), ("egress", "to", _DESTINATIONS)):
        rules = sequence(spec.get(direction))
        if len(rules) > _MOST:
            yield too_many(("spec", direction), len(rules), _MOST)
        for index, rule in enumerate(rules):
            if isinstance(rule, dict):
                yield from _check_rule(rule, peers, fields, ("spec", direction, index))


def _check_subject(value: Any, path: FieldPath) -> FieldErrors:
    """A subject of unknown fields is invalid: it selects nothing that is known."""
    if value is None:
        yield required(path)
    elif isinstance(value, dict):
        known = {key: value[key] for key in _SOURCES if key in value}
        yield from _check_one_of(known, _SOURCES, path)
        yield from _check_selectors(known, path)


def _check_rule(rule: Mapping[str, Any], peers: str, fields: Collection[str], path: FieldPath) -> FieldErrors:
    yield from _check_word(rule.get("action"), _ACTIONS, (*path, "action"))
    name = rule.get("name")
    if isinstance(name, str) and len(name) > _LONGEST_NAME:
        yield too_long((*path, "name"), _LONGEST_NAME)
    if rule.get(peers) is None:
        yield required((*path, peers))
    else:
        yield from _check_count(rule[peers], (*path, peers))
    if rule.get("protocols") is not None:
        yield from _check_count(rule["protocols"], (*path, "protocols"))
    for index, peer in enumerate(sequence(rule.get(peers))):
        if isinstance(peer, dict):
            yield from _check_peer(peer, fields, rule.get("action"), (*path, peers, index))
    for index, protocol in enumerate(sequence(rule.get("protocols"))):
        if isinstance(protocol, dict):
            yield from _check_protocol(protocol, (*path, "protocols", index))
    yield from _check_named_ports(rule, peers, path)


def _check_named_ports(rule: Mapping[str, Any], peers: str, path: FieldPath) -> FieldErrors:
    """Named ports are only allowed with pod peers."""
    named = any(mapping(each).get("destinationNamedPort") for each in sequence(rule.get("protocols")))
    if named and any(_WITHOUT_PODS & mapping(peer).keys() for peer in sequence(rule.get(peers))):
        yield invalid(
            path,
            "object",
            "networks/nodes/domainNames peer cannot be set with namedPorts "
            "since there are no namedPorts for networks/nodes/domainNames",
        )


def _check_peer(peer: Mapping[str, Any], fields: Collection[str], action: Any, path: FieldPath) -> FieldErrors:
    yield from _check_one_of(peer, fields, path)
    yield from _check_selectors(peer, path)
    if "nodes" in fields:
        yield from check_selector(peer.get("nodes"), (*path, "nodes"))
        yield from _check_networks(peer.get("networks"), (*path, "networks"))
        yield from _check_domains(peer.get("domainNames"), action, (*path, "domainNames"))


def _check_selectors(peer: Mapping[str, Any], path: FieldPath) -> FieldErrors:
    yield from check_selector(peer.get("namespaces"), (*path, "namespaces"))
    pods = peer.get("pods")
    if isinstance(pods, dict):
        if pods.get("podSelector") is None:
            yield required((*path, "pods", "podSelector"))
        for key in ("namespaceSelector", "podSelector"):
            yield from check_selector(pods.get(key), (*path, "pods", key))


def _check_networks(value: Any, path: FieldPath) -> FieldErrors:
    yield from _check_set(value, path)
    for index, text in enumerate(sequence(value)):
        if isinstance(text, str):
            yield from (invalid((*path, index), text, "Invalid CIDR format provided") for _ in cidr(text))


def _check_domains(value: Any, action: Any, path: FieldPath) -> FieldErrors:
    if value is not None and action in ("Deny", "Pass"):
        yield forbidden(path, "may only be specified when action is Accept")
    yield from _check_set(value, path)
    for index, name in enumerate(sequence(value)):
        if isinstance(name, str) and not _is_domain(name):
            here = (*path, index)
            yield invalid(here, name, f"{format_field_path(here)} in body should match '{_DOMAIN}'")


def _check_protocol(protocol: Mapping[str, Any], path: FieldPath) -> FieldErrors:
    yield from _check_one_of(protocol, (*_TRANSPORTS, "destinationNamedPort"), path)
    for key in _TRANSPORTS:
        ports = protocol.get(key)
        if isinstance(ports, dict):
            yield from _check_one_of(ports, ("destinationPort",), (*path, key))
            yield from _check_port(ports.get("destinationPort"), (*path, key, "destinationPort"))


def _check_port(port: Any, path: FieldPath) -> FieldErrors:
    if not isinstance(port, dict):
        return
    yield from _check_one_of(port, ("number", "range"), path)
    if port.get("number") is not None:
        yield from _check_number(port["number"], 1, 65535, (*path, "number"))
    ends = port.get("range")
    if isinstance(ends, dict):
        start, end = ends.get("start"), ends.get("end")
        yield from _check_number(start, 1, 65535, (*path, "range", "start"))
        yield from _check_number(end, 1, 65535, (*path, "range", "end"))
        if is_number(start) and is_number(end) and start >= end:
            yield invalid((*path, "range"), "object", "Start port must be less than End port")


# Schema rules for any field


def _check_word(value: Any, words: Collection[str], path: FieldPath) -> FieldErrors:
    if value is None:
        yield required(path)
    elif isinstance(value, str) and value not in words:
        yield unsupported(path, value, words)


def _check_number(value: Any, least: int, most: int, path: FieldPath) -> FieldErrors:
    if value is None:
        yield required(path)
    elif is_number(value) and value < least:
        yield invalid(path, value, f"{format_field_path(path)} in body should be greater than or equal to {least}")
    elif is_number(value) and value > most:
        yield invalid(path, value, f"{format_field_path(path)} in body should be less than or equal to {most}")


def _check_one_of(value: Mapping[str, Any], fields: Collection[str], path: FieldPath) -> FieldErrors:
    """Exactly one of the known fields, or only unknown ones."""
    there = [key for key, each in value.items() if each is not None]
    known = [key for key in there if key in fields]
    if not there:
        yield too_few(path, 0, 1, "properties")
    elif len(known) > 1:
        yield too_many(path, len(known), 1)


def _check_count(value: Any, path: FieldPath) -> FieldErrors:
    if isinstance(value, list):
        if not value:
            yield too_few(path, 0, 1, "items")
        elif len(value) > _MOST:
            yield too_many(path, len(value), _MOST)


def _check_set(value: Any, path: FieldPath) -> FieldErrors:
    yield from _check_count(value, path)
    items: Sequence[Any] = sequence(value)
    for index, item in enumerate(items):
        if item in items[:index]:
            yield duplicate((*path, index), item)
