"""The nat chains of `table inet percale` as a function: what a table's contents do with a new connection's first packet."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from tests.unit.render.simulated import Packet

from percale.model.pod import PROTOCOL_NUMBERS
from percale.render.nft.objects import Dnat, SetMark, Verdict
from percale.render.nft.table_state import TableState
from percale.render.service.base_chains import REJECT_CHAIN
from percale.service.service_ports import format_endpoint


@dataclass(frozen=True)
class Done:
    """As the resolver's answer; `masquerade`: whichever endpoint is chosen."""

    action: str
    endpoints: tuple[str, ...] = ()
    masquerade: bool = False


def served(held: TableState, source: str, target: str, port: int, protocol: str, *, own: bool) -> Done:
    """The first packet of a connection; `own`: this node sends it. Session affinity is not simulated."""
    client, address = ip_address(source).packed, ip_address(target).packed
    packet = Packet(client, address, protocol, port)
    version = packet.version
    at = bytes((PROTOCOL_NUMBERS[protocol], 0, 0, 0)) + port.to_bytes(2, "big") + b"\0\0"
    for name in ("output", "services") if own else ("services",):
        keys = {f"{name}{version}": address + at}
        if address in held.sets[f"nodeaddresses{version}"].elements:
            keys[f"{name}ports{version}"] = at
        for where, key in keys.items():
            verdict = held.sets[where].elements.get(key)
            if isinstance(verdict, Verdict):
                return _follow(held, packet, verdict, address, at, masquerade=False)
    if address in held.sets[f"clusterips{version}"].elements:
        return Done("reject")
    half = len(address)
    if any(each[:half] <= address <= each[half:] for each in held.sets[f"servicenets{version}"].elements):
        return Done("drop")
    return Done("none")


def _follow(held: TableState, packet: Packet, verdict: Verdict, address: bytes, at: bytes, *, masquerade: bool) -> Done:
    if verdict.code == "drop":
        return Done("drop")
    assert verdict.code == "goto"
    if verdict.chain == REJECT_CHAIN:
        return Done("reject")
    rules = held.chains[verdict.chain or ""]
    assert rules is not None
    for rule in rules:
        assert rule is not None
        if not all(packet.fits(match, held) for match in rule.matches):
            continue
        for statement in rule.statements:
            if isinstance(statement, SetMark):
                masquerade = True
            if isinstance(statement, Dnat) and statement.slot is not None:
                return Done("endpoints", _chosen(held, statement, address, at), masquerade)
        if rule.verdict is not None:
            return _follow(held, packet, rule.verdict, address, at, masquerade=masquerade)
    raise AssertionError(f"{verdict.chain} comes to an end")


def _chosen(held: TableState, translate: Dnat, address: bytes, at: bytes) -> tuple[str, ...]:
    """Every turn leads to an endpoint."""
    assert translate.slot is not None
    elements = held.sets[translate.map].elements
    key = at if "ports" in translate.map else address + at
    found = []
    for turn in range(translate.slot.modulus):
        value = elements[key + turn.to_bytes(4, "little")]
        assert isinstance(value, bytes)
        found.append(value)
    assert key + translate.slot.modulus.to_bytes(4, "little") not in elements
    size = len(address)
    records = sorted({each[: size + 2] for each in found})
    return tuple(format_endpoint(each[:size], int.from_bytes(each[size:])) for each in records)
