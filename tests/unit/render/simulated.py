"""The chains of `table inet percale` as a function: what a table's contents do with a new connection's packet."""

from __future__ import annotations

from percale.model.pod import PROTOCOL_NUMBERS
from percale.render.nft.objects import INPUT_CHAIN, Between, Equals, InSet, Match
from percale.render.nft.table_state import TableState
from percale.render.policy.base_chains import EGRESS, EGRESS_NODE, INGRESS, SELF

_ICMP = {4: 1, 6: 58}


class Packet:
    """The first packet of a flow; `port` None for ICMP."""

    def __init__(self, source: bytes, destination: bytes, protocol: str, port: int | None) -> None:
        self.version = 4 if len(source) == 4 else 6
        ip = "ip" if self.version == 4 else "ip6"
        number = _ICMP[self.version] if port is None else PROTOCOL_NUMBERS[protocol]
        self.source, self.destination = source, destination
        self._operands = {
            f"{ip} saddr": source,
            f"{ip} daddr": destination,
            "l4proto": bytes((number, 0, 0, 0)),
            "th dport": (port or 0).to_bytes(2, "big") + b"\0\0",
        }
        self._numbers = {
            f"{ip} saddr": int.from_bytes(source, "big"),
            f"{ip} daddr": int.from_bytes(destination, "big"),
            "l4proto": number,
            "th dport": port or 0,
        }

    def fits(self, match: Match, held: TableState) -> bool:
        """One match of a rule."""
        match match:
            case Equals():
                return self._numbers.get(match.operand) == match.value
            case Between():
                return match.operand in self._numbers and match.first <= self._numbers[match.operand] <= match.last
            case InSet():
                return self._is_in(match, held)

    def _is_in(self, match: InSet, held: TableState) -> bool:
        if any(operand not in self._operands for operand in match.operands):
            return False
        shape, elements = held.sets[match.set]
        assert shape is not None
        key = b"".join(self._operands[operand] for operand in match.operands)
        if not shape.interval:
            return key in elements
        half, sizes = shape.key_size // 2, [len(self._operands[operand]) for operand in match.operands]
        for element in elements:
            first, last, start = element[:half], element[half:], 0
            for size in sizes:
                end = start + size
                if not first[start:end] <= key[start:end] <= last[start:end]:
                    break
                start = end
            else:
                return True
        return False


def passes(held: TableState, packet: Packet) -> bool:
    """What the static chain `policies` does with it."""
    if packet.source + packet.destination in held.sets[SELF[packet.version]].elements:
        return True
    for name, address in ((EGRESS[packet.version], packet.source), (INGRESS[packet.version], packet.destination)):
        verdict = held.sets[name].elements.get(address)
        if verdict is not None and not _returns(held, packet, getattr(verdict, "chain", "")):
            return False
    return True


def enters_node(held: TableState, packet: Packet) -> bool:
    """What the table does with a packet to the node itself."""
    if INPUT_CHAIN not in held.chains:
        return True
    verdict = held.sets[EGRESS_NODE[packet.version]].elements.get(packet.source)
    return verdict is None or _returns(held, packet, getattr(verdict, "chain", ""))


def _returns(held: TableState, packet: Packet, chain: str) -> bool:
    for rule in held.chains[chain] or ():
        assert rule is not None
        if all(packet.fits(match, held) for match in rule.matches):
            assert rule.verdict is not None
            match rule.verdict.code:
                case "return":
                    return True
                case "drop":
                    return False
                case "goto":
                    return _returns(held, packet, rule.verdict.chain or "")
    return True
