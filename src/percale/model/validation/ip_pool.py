"""Validates IPPool, IPReservation (Calico's rules) and AddressBlock."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from percale.model.addresses import is_network
from percale.model.calico_selector import parse_selector
from percale.model.field_path import FieldPath
from percale.model.ip_family import Family
from percale.model.ip_pool import BLOCK_SIZES
from percale.model.subnet_lease import NodeSubnets, lease_name
from percale.model.validation.field_errors import FieldErrors, forbidden, invalid, is_number, mapping, sequence, word
from percale.model.validation.shared import check_metadata

_LENGTHS = {Family.IPV4: (20, 32), Family.IPV6: (116, 128)}


def check_ip_pool(value: dict[str, Any]) -> FieldErrors:
    """All field errors of the object."""
    yield from check_metadata(value.get("metadata"))
    spec = mapping(value.get("spec"))
    cidr = word(spec.get("cidr"))
    yield from _check_cidr(cidr, ("spec", "cidr"))
    if cidr and _is_exact(cidr):
        yield from _check_block_size(spec.get("blockSize"), cidr)
    modes = [field for field in ("ipipMode", "vxlanMode") if spec.get(field) not in (None, "", "Never")]
    if len(modes) > 1:
        yield forbidden(("spec", "vxlanMode"), "may not be set together with ipipMode")
    if "ipipMode" in modes and ":" in (cidr or ""):
        yield forbidden(("spec", "ipipMode"), "there is no IPIP of an IPv6 pool")
    for field in ("nodeSelector", "namespaceSelector"):
        if text := word(spec.get(field)):
            try:
                parse_selector(text)
            except ValueError as error:
                yield invalid(("spec", field), text, str(error))


def _check_block_size(length: Any, cidr: str) -> FieldErrors:
    network = ip_network(cidr)
    family = Family(network.version)
    if length is None and network.prefixlen > BLOCK_SIZES[family]:
        yield invalid(("spec", "cidr"), cidr, f"is smaller than a block of /{BLOCK_SIZES[family]}: set blockSize")
    if is_number(length):
        shortest, longest = _LENGTHS[family]
        if not shortest <= length <= longest:
            yield invalid(("spec", "blockSize"), length, f"must be from {shortest} to {longest}")
        elif length < network.prefixlen:
            yield invalid(("spec", "blockSize"), length, f"a block of /{length} does not fit into {cidr}")


def check_ip_reservation(value: dict[str, Any]) -> FieldErrors:
    """All field errors of the object."""
    yield from check_metadata(value.get("metadata"))
    for index, cidr in enumerate(sequence(mapping(value.get("spec")).get("reservedCIDRs"))):
        if isinstance(cidr, str) and not is_network(cidr):
            yield invalid(("spec", "reservedCIDRs", index), cidr, "must be a valid CIDR value")


def check_address_block(value: dict[str, Any]) -> FieldErrors:
    """All field errors of the object."""
    yield from check_metadata(value.get("metadata"))
    cidr = word(mapping(value.get("spec")).get("cidr"))
    yield from _check_cidr(cidr, ("spec", "cidr"))
    name = mapping(value.get("metadata")).get("name")
    if cidr and _is_exact(cidr) and name != (wanted := lease_name(NodeSubnets(ip_network(cidr)))):
        yield invalid(("metadata", "name"), name, f"must be {wanted}, by its cidr")


def _check_cidr(cidr: str | None, path: FieldPath) -> FieldErrors:
    if cidr and not _is_exact(cidr):
        yield invalid(path, cidr, "must be a valid CIDR value without host bits")


def _is_exact(cidr: str) -> bool:
    if not is_network(cidr):
        return False
    try:
        ip_network(cidr)
    except ValueError:
        return False
    return True
