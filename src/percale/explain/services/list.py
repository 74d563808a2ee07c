"""Services, each in a line. Called by `percale service list`; pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from msgspec import Struct

from percale.explain.services.show import PortView, ServiceView
from percale.model.service import Service
from percale.service.resolved_service import ResolvedPort


class Row(Struct, frozen=True):
    """One Service, in a line. `used` and `known` count endpoints' addresses, of the family that has most; None: not ours."""

    service: Service
    addresses: tuple[str, ...]
    ports: tuple[str, ...]
    strategy: str | None
    affinity: int | None
    used: int | None
    known: int | None
    unproxied_reason: str | None

    @property
    def cells(self) -> list[str]:
        """As HEAD names them."""
        affinity = "-" if self.affinity is None else f"{self.affinity} s"
        counts = "-" if self.used is None else f"{self.used}/{self.known}"
        addresses = ", ".join(self.addresses) or (self.unproxied_reason or "-").partition(":")[0]
        ports = ", ".join(self.ports) or "-"
        type_ = self.service.spec.type
        return [str(self.service.key), type_, addresses, ports, self.strategy or "-", affinity, counts]


HEAD = ["SERVICE", "TYPE", "ADDRESSES", "PORTS", "STRATEGY", "AFFINITY", "ENDPOINTS"]


def row(seen: ServiceView) -> Row:
    """A view of no node in particular: what some node uses."""
    vips = [vip for each in seen.ports for vip in each.port.vips]
    first = seen.ports[0].port.spec if seen.ports else None
    return Row(
        service=seen.service,
        addresses=tuple(dict.fromkeys(str(ip_address(vip.address)) for vip in vips if vip.address)),
        ports=tuple(dict.fromkeys(_port_cell(each.port) for each in seen.ports)),
        strategy=first.strategy.name if first is not None else None,
        affinity=first.affinity if first is not None else None,
        used=_most(_used(each) for each in seen.ports) if seen.ports else None,
        known=_most({one.record[:-2] for one in each.endpoints} for each in seen.ports) if seen.ports else None,
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
