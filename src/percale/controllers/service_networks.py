"""The networks of cluster IPs and load balancer addresses."""

from __future__ import annotations

from msgspec import Struct

from percale.model.addresses import IPNetwork

_DNS_INDEX = 10
"""Index of the DNS server's address, as in kubeadm."""


class ServiceNetworks(Struct, frozen=True):
    """One network for each address family, in the order of the pods' families."""

    cidrs: tuple[IPNetwork, ...]
    load_balancers: tuple[IPNetwork, ...]

    @property
    def name_servers(self) -> tuple[str, ...]:
        """The cluster IPs of kube-dns."""
        return tuple(str(cidr.network_address + _DNS_INDEX) for cidr in self.cidrs)
