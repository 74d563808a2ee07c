"""A plan as what programs read: net-conf.json, the labels of nodes, Calico's pools."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_network
from itertools import product
from typing import Any

from percale.errors import BadInput
from percale.ipam.address_plan.plan import Plan, first_unit
from percale.model.address_plan import NODES, PODS, PlannedRange
from percale.model.ip_family import Family
from percale.model.ip_pool import IPPool, IPPoolSpec
from percale.model.meta import ObjectMeta
from percale.model.node import Node

_BLOCK_SIZES = {Family.IPV4: range(20, 33), Family.IPV6: range(116, 129)}
"""Prefix lengths of a pool's blocks that Calico takes."""


def net_conf(plan: Plan) -> dict[str, Any]:
    """flannel's network configuration, without a backend. Raises BadInput where pods have more than one network."""
    found: dict[str, Any] = {}
    for each in plan.ranges_for(PODS):
        networks = each.addresses.networks({})
        if len(networks) > 1:
            words = " and ".join(map(str, networks[:2])) + (" and more" if len(networks) > 2 else "")
            raise BadInput(
                f"pods have {words}, and a net-conf.json has one network", hint="percale plan render ippools"
            )
        prefix = "IPv6" if each.addresses.family == Family.IPV6 else ""
        found |= {"EnableIPv6": True} if prefix else {}
        found |= {f"{prefix}Network": str(networks[0]), f"{prefix}SubnetLen": _block_length(each)}
    if "Network" not in found:
        found["EnableIPv4"] = False
    return found


def labels(plan: Plan, nodes: Iterable[Node]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Each node that has an address of the plan, and the labels that its address says."""
    keys = plan.spec.node_labels
    for node in nodes:
        for address in node.status.internal_ips:
            meaning = plan.meaning(ip_network(address))
            if meaning is not None and meaning.for_ == NODES:
                found = {
                    keys[each.field]: each.name or str(each.value) for each in meaning.fields if each.field in keys
                }
                yield node.metadata.name, found
                break


def pools(plan: Plan) -> Iterator[IPPool]:
    """Calico's IPPools: one for each choice of named values of the fields that labels of nodes are bound to.

    Raises BadInput.
    """
    keys = plan.spec.node_labels
    for each in plan.ranges_for(PODS):
        bound = [field for field in each.addresses.names if field in keys]
        for choice in product(*(plan.spec.named_values.get(field, {}).items() for field in bound)):
            fixed = {field: value for field, (value, _) in zip(bound, choice, strict=True)}
            selector = " && ".join(f'{keys[field]} == "{name}"' for field, (_, name) in zip(bound, choice, strict=True))
            names = [name.lower().replace("_", "-") for _, name in choice]
            for number, network in enumerate(each.addresses.networks(fixed)):
                family = ["ipv6"] if each.addresses.family == Family.IPV6 else []
                name = "-".join([PODS, *names, *family, *([str(number + 1)] if number else [])])
                yield _pool(name, str(network), _pool_block_length(each), selector)


def _pool(name: str, cidr: str, block: int, selector: str) -> IPPool:
    spec = IPPoolSpec(cidr=cidr, blockSize=block, natOutgoing=True, nodeSelector=selector or "all()")
    return IPPool(metadata=ObjectMeta(name=name), spec=spec)


def _block_length(each: PlannedRange) -> int:
    unit = first_unit(each)
    assert unit is not None, "checked before"
    return unit.prefixlen


def _pool_block_length(each: PlannedRange) -> int:
    """A node's subnet as one block. Raises BadInput."""
    length, allowed = _block_length(each), _BLOCK_SIZES[each.addresses.family]
    if length not in allowed:
        words = f"/{allowed.start} to /{allowed.stop - 1}"
        raise BadInput(f"a node's subnet is a /{length}, and the blocks of a pool are {words}")
    return length
