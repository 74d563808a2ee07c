"""Leases that contradict each other, or the cluster's ranges: nodes that take each other's packets."""

from __future__ import annotations

from percale.backend.lease_conflicts import LeaseConflicts
from percale.backend.registry import make_backend
from percale.checks.check import Outcome, bad, good
from percale.checks.host import Host
from percale.counted import counted
from percale.errors import PercaleError
from percale.model.addresses import IPNetwork, parse_network
from percale.model.subnet_lease import SubnetLease

_TAKEN_OVER = ("flannel", "cni")
"""Devices of flannel's, which `percale migrate` takes over."""


def conflicts(host: Host) -> Outcome | None:
    """By the same comparison as the agent's: public addresses, VtepMACs or keys, subnets."""
    if host.network is None or host.backend_type is None:
        return None
    try:
        leases = host.store.list(SubnetLease)
        known = LeaseConflicts(make_backend(host.network).exclusive_ids)
    except PercaleError:
        return None  # told by the check of the store
    for lease in leases:
        if (reason := known.admit(lease)) is not None:
            own = (
                ["iface: eth1   # in the agents' configuration: the one between the nodes"]
                if "public" in reason
                else []
            )
            return bad(reason, *own, _delete(host, lease))
    outside = [
        (subnet, lease)
        for lease in leases
        for subnet in lease.spec.subnets
        if not any(_within(subnet, network) for network in host.network.networks)
    ]
    if outside:
        subnet, lease = outside[0]
        network = " and ".join(map(str, host.network.networks))
        words = f"subnet {subnet} of node {lease.spec.node} is outside the pod network, {network}"
        return bad(words, _delete(host, lease))
    return good(f"{counted(len(leases), 'lease')}, each with addresses of its own")


def ranges(host: Host) -> Outcome | None:
    """Host networks and routes of others within the pods' and the Services' networks: packets to one reach the other."""
    if host.network is None or host.backend_type is None:
        return None
    cluster: list[tuple[str, IPNetwork]] = [("the pod network", each) for each in host.network.networks]
    cluster += [("the Services' network", parse_network(each)) for each in host.config.services.cidrs]
    for index, (what, network) in enumerate(cluster):
        for other_what, other in cluster[:index]:
            if network.overlaps(other):
                return bad(f"{what} {network} overlaps {other_what} {other}", "choose another network")
    theirs = [(each.dst, each.dev) for each in host.underlay.routes if each.dst.prefixlen]
    if not host.network.options.routes_peers:
        leased = {subnet for lease in host.store.list(SubnetLease) for subnet in lease.spec.subnets}
        theirs = [each for each in theirs if each[0] not in leased]
    theirs += [(each.network, device.name) for device in host.underlay.interfaces for each in device.addresses]
    for network, device in theirs:
        if device.startswith(_TAKEN_OVER):
            continue
        for what, ours in cluster:
            if network.overlaps(ours):
                return bad(
                    f"{network} of {device} is within {what} {ours}",
                    f"ip route delete {network} dev {device}   # if nobody needs it; else choose another Network",
                )
    return good(f"no address or route of this host is in {', '.join(str(each) for _, each in cluster)}")


def _delete(host: Host, lease: SubnetLease) -> str:
    return f"percale delete --store {host.config.store} subnetlease {lease.metadata.name}"


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]
