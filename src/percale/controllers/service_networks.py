"""The networks that Services get their addresses from, as the controllers take them."""

from __future__ import annotations

from msgspec import Struct

from percale.model.addresses import Network

_NAME_SERVER = 10
"""It has the tenth address, as kubeadm gives it."""


class ServiceNetworks(Struct, frozen=True):
    """One network for each address family, that of the pods' first one first."""

    cidrs: tuple[Network, ...]
    load_balancers: tuple[Network, ...]

    @property
    def name_servers(self) -> tuple[str, ...]:
        """The cluster IPs of kube-dns."""
        return tuple(str(cidr.network_address + _NAME_SERVER) for cidr in self.cidrs)
