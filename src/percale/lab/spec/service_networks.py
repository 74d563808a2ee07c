"""The networks of a lab's Services: cluster IPs, the name server's, load balancers'. Called by `up`. Pure.

pod network, segments, Lab document ─▶ ServiceNetworks ─▶ allocation, agents, the router, /etc/resolv.conf
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_network

from percale.controllers.service_networks import ServiceNetworks
from percale.errors import BadManifest
from percale.lab.spec.topology import LabSpec, Topology
from percale.model.addresses import IPNetwork

_CLUSTER_IPS = {4: ("10.96.0.0/16", "172.20.0.0/16", "192.168.0.0/20"), 6: ("fd00:96::/112", "fd00:97::/112")}
_LOAD_BALANCERS = {4: ("198.51.100.0/28", "192.0.2.0/28", "100.64.0.0/28"), 6: ("2001:db8:96::/124",)}
"""For each family the first that is not in use; load balancers' are reserved for documentation."""
_HOST_BITS = 4


def service_networks(spec: LabSpec, machines: Topology, pods: Sequence[IPNetwork], where: str) -> ServiceNetworks:
    """The document's networks, else ones that nothing else in the lab uses. Raises BadManifest."""
    taken = [*pods, *(net for segment in machines.segments for net in (segment.cidr, segment.cidr6))]
    versions = tuple(dict.fromkeys(net.version for net in pods))
    cidrs = _choose(spec.serviceCIDR, _CLUSTER_IPS, versions, taken, f"{where}: serviceCIDR")
    if missing := [version for version in versions if version not in {cidr.version for cidr in cidrs}]:
        what = f"pods have IPv{missing[0]} addresses, but Services would have none"
        raise BadManifest(what, where=f"{where}: serviceCIDR", hint="give both networks, with a comma")
    pools = _choose(spec.loadBalancers, _LOAD_BALANCERS, versions, [*taken, *cidrs], f"{where}: loadBalancers")
    return ServiceNetworks(cidrs, pools)


def _choose(
    written: str | None,
    usual: dict[int, tuple[str, ...]],
    versions: Sequence[int],
    taken: Sequence[IPNetwork],
    where: str,
) -> tuple[IPNetwork, ...]:
    if written is None:
        return tuple(next(_free(usual[version], taken)) for version in versions)
    networks = tuple(_read(part.strip(), where) for part in written.split(","))
    for net in networks:
        other = next((other for other in taken if _overlap(net, other)), None)
        if other is not None:
            raise BadManifest(f"{net} and {other}, which is in use, overlap", where=where, hint="choose another")
    if len({net.version for net in networks}) < len(networks):
        raise BadManifest("more than one network of an address family", where=where, hint="give one of each")
    return networks


def _read(text: str, where: str) -> IPNetwork:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise BadManifest(str(error), where=where, hint="write a network, as 10.96.0.0/16") from error
    if network.max_prefixlen - network.prefixlen < _HOST_BITS:
        raise BadManifest(f"{network} is too small", where=where, hint="16 addresses are the least")
    return network


def _free(texts: Iterable[str], taken: Sequence[IPNetwork]) -> Iterator[IPNetwork]:
    """The unused ones, then the last: a pod network may cover them all."""
    networks = [ip_network(text) for text in texts]
    yield from (net for net in networks if not any(_overlap(net, other) for other in taken))
    yield networks[-1]


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)
