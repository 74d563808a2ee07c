"""What is wrong with a plan, or will be: overlaps, values that do not fit, sizes, what a node's subnet cannot say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_network
from itertools import combinations
from math import prod
from typing import Literal

from msgspec import Struct

from percale.counted import counted
from percale.ipam.address_plan.plan import NODE, Plan, first_unit, unit_depth
from percale.model.address_form import AddressForm, network_form
from percale.model.address_plan import NODE_LABEL, NODES, PODS, SERVICES, PlannedRange
from percale.model.addresses import IPNetwork, is_network, parse_network
from percale.model.field_path import FieldPath
from percale.model.validation.formats import label_key, label_value
from percale.suggestion import suggest

_NUMBER = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)
_LEAST_PODS = 110
"""Of a node: kubelet's default of --max-pods."""
_NOT_OF_PODS = 3
"""Addresses of a node's subnet: the network's, the node's own, and the last one."""
_SERVICE_BITS = 20
"""kube-apiserver takes no service network with more."""
_NOT_FOR_HOSTS: Sequence[IPNetwork] = tuple(
    map(
        ip_network,
        ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8"),
    )
)
_PRIVATE: Sequence[IPNetwork] = tuple(
    map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15", "fc00::/7"))
)


class PlanFinding(Struct, frozen=True):
    """`path` is the field of the plan that it is about."""

    path: FieldPath
    severity: Literal["error", "warning"]
    code: str
    message: str
    hint: str | None = None


def errors_of_names(plan: Plan) -> Iterator[PlanFinding]:
    """Names and bindings that mean nothing; without these errors a plan can be used."""
    spec = plan.spec
    if not spec.ranges:
        yield _error(("ranges",), "no-ranges", "there are none")
    fields = sorted({name for each in spec.ranges for name in each.addresses.names})
    for section, words in (("names", spec.names), ("bind", spec.bind)):
        for field in words:
            if field not in fields:
                yield _error((section, field), "unknown-field", f"no range has a field {field}", suggest(field, fields))
    for field, named in spec.names.items():
        yield from _names(field, named)
    for field, bound in spec.bind.items():
        key = bound.removeprefix(NODE_LABEL)
        if key == bound or any(label_key(key)):
            yield _error(("bind", field), "bind", f'"{bound}" is not understood', f"write `{NODE_LABEL}KEY`")
    for index, network in enumerate(spec.reserve):
        if not is_network(network):
            yield _error(("reserve", index), "reserve", f'"{network}" is not a network, such as 172.17.0.0/16')


def _names(field: str, named: Mapping[str, str]) -> Iterator[PlanFinding]:
    for value, name in named.items():
        path = ("names", field, value)
        if not _NUMBER.fullmatch(value):
            yield _error(path, "name", f'"{value}" is not a number', "write the field's value: 4: berlin")
        elif name.isdecimal() or any(label_value(name)) or not name:
            hint = "names are values of labels: letters, digits, '-', '_' and '.', and not digits alone"
            yield _error(path, "name", f'"{name}" cannot be a name', hint)
    if len(set(named.values())) < len(named):
        yield _error(("names", field), "name", "two values have the same name")


def findings(plan: Plan, routes: Iterable[tuple[IPNetwork, str]] = ()) -> Iterator[PlanFinding]:
    """All; `routes` are those of a host, with how they leave it. Call it on a plan without `errors_of_names`."""
    yield from _overlaps(plan)
    yield from _values_that_do_not_fit(plan)
    for index, each in enumerate(plan.spec.ranges):
        path: FieldPath = ("ranges", index)
        yield from _odd_addresses(path, each)
        if each.for_ not in (PODS, SERVICES):
            continue
        unit = first_unit(each)
        if unit is None:
            what = "a node's subnet" if each.for_ == PODS else "a cluster's service network"
            yield _error(path, "not-a-network", f"{what} is not a network: its addresses are no power of two in a row")
        elif each.for_ == PODS:
            yield from _pods(plan, path, each.addresses, unit)
        else:
            yield from _services(path, unit)
    yield from _routes(plan, routes)


def _overlaps(plan: Plan) -> Iterator[PlanFinding]:
    """Every pair of ranges and reserved networks."""
    hint = "give a field fewer values so that they have nothing in common, such as {room:0-95}"
    for (_, one), (second, other) in combinations(enumerate(plan.spec.ranges), 2):
        if (common := one.addresses.common_address(other.addresses)) is not None:
            words = f"{common} is {plan.words(one, common)}, and {plan.words(other, common)}"
            yield _error(("ranges", second), "overlap", f"{other.for_} overlaps {one.for_}: {words}", hint)
    for index, network in enumerate(plan.spec.reserve):
        for each in plan.spec.ranges:
            if (common := each.addresses.common_address(network_form(parse_network(network)))) is not None:
                words = f"{common} is {plan.words(each, common)}"
                yield _error(("reserve", index), "overlap", f"{network} lies in {each.for_}: {words}", hint)


def _values_that_do_not_fit(plan: Plan) -> Iterator[PlanFinding]:
    for field, named in plan.spec.named_values.items():
        for value, name in named.items():
            for each in plan.spec.ranges:
                found = each.addresses.field(field)
                if found is not None and value not in found.values:
                    message = f"{name} does not fit into {each.for_}: there {field} is {found.bounds}"
                    yield _error(("names", field, str(value)), "overflow", message)


def _odd_addresses(path: FieldPath, each: PlannedRange) -> Iterator[PlanFinding]:
    """Addresses that no host may have, and public ones."""
    form = each.addresses
    for network in _NOT_FOR_HOSTS:
        if (common := form.common_address(network_form(network))) is not None:
            yield _error(path, "special", f"{common} is of {network}, which no host may have")
    private = sum(_overlap_size(form, network) for network in _PRIVATE if network.version == form.family)
    if private < prod(map(len, form.groups)):
        yield _warning(path, "public", f"{each.for_} has addresses that are not private")


def _overlap_size(form: AddressForm, network: IPNetwork) -> int:
    """How many addresses of the form are of the network."""
    size = 1
    for ours, theirs in zip(form.groups, network_form(network).groups, strict=True):
        size *= sum(value in theirs for value in ours)
    return size


def _services(path: FieldPath, unit: IPNetwork) -> Iterator[PlanFinding]:
    limit = unit.max_prefixlen - _SERVICE_BITS
    if unit.prefixlen < limit:
        yield _error(path, "services", f"{unit} is larger than /{limit}, which kube-apiserver refuses")


def _pods(plan: Plan, path: FieldPath, form: AddressForm, unit: IPNetwork) -> Iterator[PlanFinding]:
    """A node has one subnet: what its pods' addresses say is said of their node."""
    if unit.num_addresses - _NOT_OF_PODS < _LEAST_PODS:
        message = f"a node's subnet is a /{unit.prefixlen}: room for {counted(max(unit.num_addresses - _NOT_OF_PODS, 0), 'pod')}"
        yield _warning(path, "small", message, f"kubelet's --max-pods is {_LEAST_PODS} by default")
    above = form.fields[: unit_depth(PODS, form)]
    free = [field.name for field in above if field.name != NODE and field.name not in plan.spec.bind]
    if free:
        words = " and ".join(free)
        message = f"{words} in a pod's address says where its node is, and no label of nodes is bound to it"
        yield _warning(path, "unbound", message, f"bind: {{{free[0]}: {NODE_LABEL}KEY}}")
    subnets = next((field.count for field in above if field.name == NODE), 1)
    hosts = _nodes_beside(plan, form)
    if hosts is not None and subnets < hosts:
        words = " and ".join(field.name for field in above if field.name != NODE) or "network"
        message = f"each {words} has subnets for {subnets} of {hosts} nodes that have addresses"
        yield _warning(path, "few-subnets", message, f"give the field `{NODE}` more bits, or `{NODES}` fewer")


def _nodes_beside(plan: Plan, pods: AddressForm) -> int | None:
    """How many nodes the plan has addresses for, for each choice of the fields that its pods' addresses have too."""
    for each in plan.spec.ranges:
        if each.for_ == NODES and each.addresses.family == pods.family:
            return prod(field.count for field in each.addresses.fields if field.name not in pods.names)
    return None


def _routes(plan: Plan, routes: Iterable[tuple[IPNetwork, str]]) -> Iterator[PlanFinding]:
    """Packets for pods and Services would leave by them."""
    for network, words in routes:
        form = network_form(network)
        for index, each in enumerate(plan.spec.ranges):
            if each.for_ in (PODS, SERVICES) and (common := each.addresses.common_address(form)) is not None:
                message = f"this host has a route for {network} {words}: {common} is {plan.words(each, common)}"
                yield _error(("ranges", index), "route", message)


def _error(path: FieldPath, code: str, message: str, hint: str | None = None) -> PlanFinding:
    return PlanFinding(path, "error", code, message, hint)


def _warning(path: FieldPath, code: str, message: str, hint: str | None = None) -> PlanFinding:
    return PlanFinding(path, "warning", code, message, hint)
