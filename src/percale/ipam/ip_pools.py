"""IP pools: from which of them a pod's addresses come, and which blocks of a pool are free. Pure.

    pod's annotation ─▶ namespace's annotation ─▶ selectors of the pools for node and namespace ─▶ else the node's subnet

A pool that is named need not select the node or the namespace; one that is disabled gives no address to anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

import msgspec
from msgspec import Struct

from percale.errors import AddressRefused
from percale.ipam.subnet_plan import free_numbers, own_place
from percale.model.addresses import IPAddress, IPNetwork
from percale.model.backend_options import BackendOptions
from percale.model.calico_selector import Matcher, parse_selector
from percale.model.ip_family import Family
from percale.model.ip_pool import POOL_ANNOTATIONS, IPPoolSpec
from percale.model.manifest.json_text import decode_json

Labels: TypeAlias = Mapping[str, str]

_NAMES: msgspec.json.Decoder[tuple[str, ...]] = msgspec.json.Decoder(tuple[str, ...])


class Pool(Struct, frozen=True):
    """A pool that can be used on this node's network."""

    name: str
    network: IPNetwork
    block_size: int
    nat: bool
    """Its pods reach the outside under their node's address."""
    enabled: bool
    automatic: bool
    """Also for pods that do not name it."""
    selects_node: Matcher
    selects_namespace: Matcher

    @classmethod
    def of(cls, name: str, spec: IPPoolSpec) -> Pool:
        """The spec is valid."""
        return cls(
            name=name,
            network=spec.network,
            block_size=spec.block_size,
            nat=spec.natOutgoing,
            enabled=not spec.disabled and ("Workload" in spec.allowedUses or not spec.allowedUses),
            automatic=spec.assignmentMode != "Manual",
            selects_node=parse_selector(spec.nodeSelector),
            selects_namespace=parse_selector(spec.namespaceSelector),
        )

    def check_enabled(self, where: str) -> None:
        """Raises AddressRefused."""
        if not self.enabled:
            raise AddressRefused(f"IP pool {self.name} is disabled, or not for workloads", where=where)

    def block_of(self, address: IPAddress) -> IPNetwork:
        """The block that an address of the pool would be in."""
        size = 1 << (self.network.max_prefixlen - self.block_size)
        return type(self.network)((int(address) - int(address) % size, self.block_size))


class PodRequest(Struct, frozen=True):
    """What decides on the pools of a pod. `pod` is its name in errors."""

    pod: str
    annotations: Labels
    namespace_annotations: Labels
    namespace_labels: Labels
    node_labels: Labels


def chosen_pools(pools: Iterable[Pool], family: Family, request: PodRequest) -> tuple[Pool, ...] | None:
    """In order of preference; None: there is no pool for the pod, it gets an address of the node's subnet.

    Raises AddressRefused for an annotation that cannot be read, or names a pool that is not there or gives no addresses.
    """
    mine = [pool for pool in pools if pool.network.version == family]
    key = POOL_ANNOTATIONS[family]
    for given, whose in ((request.annotations, ""), (request.namespace_annotations, "the namespace of ")):
        if (text := given.get(key)) is not None:
            where = f"annotation {key} of {whose}pod {request.pod}"
            return tuple(dict.fromkeys(_named(mine, word, where) for word in _words(text, where)))
    found = [
        pool
        for pool in mine
        if pool.enabled
        and pool.automatic
        and pool.selects_node(request.node_labels)
        and pool.selects_namespace(request.namespace_labels)
    ]
    return tuple(found) or None


def _words(text: str, where: str) -> tuple[str, ...]:
    try:
        words = decode_json(_NAMES, text.encode())
    except msgspec.DecodeError:
        words = ()
    if not words:
        raise AddressRefused("is not a list of pools", where=where, hint='write ["NAME"] or ["CIDR"]')
    return words


def _named(pools: Iterable[Pool], word: str, where: str) -> Pool:
    found = next((pool for pool in pools if word in (pool.name, str(pool.network))), None)
    if found is None:
        raise AddressRefused(f"there is no IP pool {word} of this family", where=where)
    found.check_enabled(where)
    return found


def usable_pools(
    specs: Mapping[str, IPPoolSpec], networks: Iterable[IPNetwork], subnets: Callable[[IPNetwork], bool]
) -> tuple[tuple[Pool, ...], tuple[str, ...]]:
    """The pools by name, and why others are left out.

    A pool lies in the pod network; `subnets` says whether nodes' own subnets may be in a network; pools do not overlap.
    """
    found: list[Pool] = []
    problems: list[str] = []
    for name, spec in sorted(specs.items()):
        network = spec.network
        other = next((pool for pool in found if _overlap(pool.network, network)), None)
        if not any(_within(network, each) for each in networks):
            problems.append(f"IPPool {name}: {network} is not in the pod network")
        elif subnets(network):
            problems.append(f"IPPool {name}: {network} overlaps the nodes' own subnets")
        elif other is not None:
            problems.append(f"IPPool {name}: {network} overlaps IPPool {other.name}")
        else:
            found.append(Pool.of(name, spec))
    return tuple(found), tuple(problems)


def tunnel_mode_problem(spec: IPPoolSpec, backend: str, options: BackendOptions) -> str | None:
    """A mode that is not the backend's, which is the same for all pools."""
    direct = options.uses_underlay_routes
    for field, tunnel, mode in (("ipipMode", "ipip", spec.ipipMode), ("vxlanMode", "vxlan", spec.vxlanMode)):
        has = ("CrossSubnet" if direct else "Always") if backend == tunnel else "Never"
        if mode not in (None, has):
            return f"spec.{field} {mode} has no effect: Backend.Type {backend} of net-conf.json makes it {has}"
    return None


def free_blocks(pool: Pool, taken: Iterable[IPNetwork], node: str) -> Iterator[IPNetwork]:
    """Blocks that overlap no taken network, from the node's own place on."""
    size = 1 << (pool.network.max_prefixlen - pool.block_size)
    start, count = int(pool.network.network_address), 1 << (pool.block_size - pool.network.prefixlen)
    spans = (
        ((int(each.network_address) - start) // size, (int(each.broadcast_address) - start) // size)
        for each in taken
        if _overlap(each, pool.network)
    )
    for number in free_numbers(spans, count, own_place(node, count)):
        yield type(pool.network)((start + number * size, pool.block_size))


def pool_of(pools: Iterable[Pool], address: IPAddress) -> Pool | None:
    """The pool that has this address."""
    return next((pool for pool in pools if address in pool.network), None)


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]
