"""Services, each in a line. Called by `percale service list`; pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from msgspec import Struct, field

from percale.explain.services.show import PortView, ServiceView
from percale.model.meta import ObjectKey
from percale.service.resolved_service import ResolvedPort


class Row(Struct, frozen=True, rename="camel"):
    """One Service, as a line and as an object of `-o json`, whose field names are an interface.

    `endpoints_used` and `endpoints` count addresses, of the family that has most; None: not ours.
    """

    namespace: str | None
    name: str
    type: str
    addresses: tuple[str, ...]
    ports: tuple[str, ...]
    strategy: str | None
    affinity_seconds: int | None
    endpoints_used: int | None
    endpoints: int | None
    unproxied_reason: str | None = field(name="apart")

    @property
    def cells(self) -> list[str]:
        """As HEAD names them."""
        affinity = "-" if self.affinity_seconds is None else f"{self.affinity_seconds} s"
        counts = "-" if self.endpoints_used is None else f"{self.endpoints_used}/{self.endpoints}"
        addresses = ", ".join(self.addresses) or (self.unproxied_reason or "-").partition(":")[0]
        ports = ", ".join(self.ports) or "-"
        key = ObjectKey(self.namespace, self.name)
        return [str(key), self.type, addresses, ports, self.strategy or "-", affinity, counts]


HEAD = ["SERVICE", "TYPE", "ADDRESSES", "PORTS", "STRATEGY", "AFFINITY", "ENDPOINTS"]


def row(seen: ServiceView) -> Row:
    """A view of no node in particular: what some node uses."""
    vips = [vip for each in seen.ports for vip in each.port.vips]
    first = seen.ports[0].port.spec if seen.ports else None
    return Row(
        namespace=seen.service.metadata.namespace,
        name=seen.service.metadata.name,
        type=seen.service.spec.type,
        addresses=tuple(dict.fromkeys(str(ip_address(vip.address)) for vip in vips if vip.address)),
        ports=tuple(dict.fromkeys(_port_cell(each.port) for each in seen.ports)),
        strategy=first.strategy.name if first is not None else None,
        affinity_seconds=first.affinity if first is not None else None,
        endpoints_used=_most(_used(each) for each in seen.ports) if seen.ports else None,
        endpoints=_most({one.record[:-2] for one in each.endpoints} for each in seen.ports) if seen.ports else None,
        unproxied_reason=seen.unproxied_reason,
    )


def _port_cell(port: ResolvedPort) -> str:
    node_port = next((f":{vip.port}" for vip in port.spec.vips if vip.kind == "node-port"), "")
    return f"{port.spec.number}{node_port}/{port.name.protocol}"


def _used(seen: PortView) -> set[bytes]:
    return {record[:-2] for record in seen.port.records(seen.port.cluster)}


def _most(sets: Iterable[set[bytes]]) -> int:
    """Of the address family that has most."""
    families: dict[int, set[bytes]] = {4: set(), 16: set()}
    for each in sets:
        for address in each:
            families[len(address)].add(address)
    return max(map(len, families.values()))
