"""Rules as nfnetlink expressions, both ways; pure. Written for `batch.py`, read for `dump.py`.

A match loads its operands into registers and compares: `Equals` and `Between` one, `InSet` several in a row. A rule is decoded
when encoding it again gives what the kernel dumped: anything else is a foreign rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from percale.kernel.netlink.socket import attribute, attribute_list, string
from percale.kernel.nftables import expressions
from percale.kernel.nftables.expressions import AT_LEAST, AT_MOST, EQUAL, FAMILIES, FIELDS
from percale.model.ip_family import Family
from percale.render.nft.objects import (
    Between,
    Dnat,
    Equals,
    InSet,
    MapUpdate,
    Match,
    Operand,
    Rule,
    SetMark,
    SlotExpr,
    Statement,
    Verdict,
)

_LIST_ELEMENT = 1
_COMMENT = 0
_SOURCES: dict[int, Operand] = {4: "ip saddr", 6: "ip6 saddr"}


# Writing


def encode(rule: Rule) -> bytes:
    """The rule's expressions, one list entry each."""
    return b"".join(_Writer().rule(rule))


class _Writer:
    """Encodes one rule. The packet's family is matched once."""

    def __init__(self) -> None:
        self._families: set[str] = set()

    def rule(self, rule: Rule) -> Iterator[bytes]:
        for match in rule.matches:
            yield from self._match(match)
        if rule.counter:
            yield expressions.COUNTER
        for statement in rule.statements:
            yield from self._statement(statement)
        if rule.verdict is not None:
            yield expressions.decide(rule.verdict)

    def _load(self, operands: Iterable[Operand]) -> Iterator[bytes]:
        """Load them in order, after matching the family that they need."""
        wanted = tuple(operands)
        for family in sorted({operand.split()[0] for operand in wanted} & FAMILIES.keys() - self._families):
            self._families.add(family)
            yield expressions.LOAD_FAMILY
            yield expressions.compare(EQUAL, FAMILIES[family], 1)
        word = 0
        for operand in wanted:
            yield expressions.load(operand, word)
            word += FIELDS[operand].words

    def _match(self, match: Match) -> Iterator[bytes]:
        match match:
            case Equals(operand, value):
                yield from self._load((operand,))
                yield expressions.compare(EQUAL, value, FIELDS[operand].size)
            case Between(operand, first, last):
                yield from self._load((operand,))
                yield expressions.compare(AT_LEAST, first, FIELDS[operand].size)
                yield expressions.compare(AT_MOST, last, FIELDS[operand].size)
            case InSet(operands, name):
                yield from self._load(operands)
                yield expressions.look_up(name)

    def _statement(self, statement: Statement) -> Iterator[bytes]:
        match statement:
            case SetMark(bits):
                yield expressions.set_mark(bits)
            case Dnat(version, operands, name, slot):
                yield from self._load(operands)
                if slot is not None:
                    yield expressions.load_slot(slot, _words(operands), _SOURCES[version])
                yield expressions.look_up(name, translate=True)
                yield expressions.translate(version)
            case MapUpdate(name, key, data):
                yield from self._load((*key, *data))
                yield expressions.update_map(name, _words(key))


def _words(operands: Iterable[Operand]) -> int:
    return sum(FIELDS[operand].words for operand in operands)


def encode_comment(comment: str) -> bytes:
    """A rule's user data, as nft has it."""
    if not comment:
        return b""
    said = comment.encode() + b"\0"
    return bytes((_COMMENT, len(said))) + said


def decode_comment(userdata: bytes, kind: int = _COMMENT) -> str:
    """The comment among user data (type, length, value); "" without one. A set's comment is of another `kind`."""
    return next((string(value) for found, value in userdata_items(userdata) if found == kind), "")


def userdata_items(userdata: bytes) -> Iterator[tuple[int, bytes]]:
    """What nft keeps with a rule or a set: kinds and values."""
    offset = 0
    while offset + 2 <= len(userdata):
        end = offset + 2 + userdata[offset + 1]
        yield userdata[offset], userdata[offset + 2 : end]
        offset = end


# Reading


def canonical(encoded: bytes) -> bytes:
    """The expressions with counters at zero."""
    return b"".join(
        expressions.COUNTER if expressions.is_counter(entry) else attribute(_LIST_ELEMENT, entry)
        for _, entry in attribute_list(encoded)
    )


def decode(encoded: bytes, userdata: bytes) -> Rule | None:
    """The rule; None for a foreign one."""
    try:
        rule = _Reader().rule((entry for _, entry in attribute_list(encoded)), decode_comment(userdata))
        same = encode(rule) == canonical(encoded) and encode_comment(rule.comment) == userdata
    except (LookupError, ValueError, OverflowError):
        return None
    return rule if same else None


class _Reader:
    """Decodes one rule, expression by expression."""

    def __init__(self) -> None:
        self._matches: list[Match] = []
        self._statements: list[Statement] = []
        self._loaded: list[Operand] = []
        self._lowest = 0
        self._slot: SlotExpr | None = None
        self._map = ""
        self._bits = 0

    def rule(self, entries: Iterable[bytes], comment: str) -> Rule:
        """Raises LookupError, ValueError."""
        counter = False
        verdict: Verdict | None = None
        for entry in entries:
            if expressions.is_counter(entry):
                counter = True
                continue
            what, value = expressions.decode(entry)
            if what == "operand":
                self._loaded.append(value)  # type: ignore[arg-type]
            elif what == "verdict":
                verdict = value  # type: ignore[assignment]
            else:
                self._step(what, value)
        return Rule(tuple(self._matches), verdict, comment, counter, tuple(self._statements))

    def _step(self, what: str, value: object) -> None:
        match what, value:
            case "compare", (int(how), int(number)):
                self._compare(how, number)
            case "look up", str(name):
                self._matches.append(InSet(self._taken(), name))
            case "slot", SlotExpr() as slot:
                self._slot = slot
                if slot.by == "source":
                    self._loaded.pop()
            case "look up in map", str(name):
                self._map = name
            case "translate", (4 | 6) as version:
                self._statements.append(Dnat(Family(version), self._taken(), self._map, self._slot))
                self._slot = None
            case "bits", int(bits):
                self._bits = bits
            case "set mark", _:
                self._statements.append(SetMark(self._bits))
            case "update map", (str(name), int(register)):
                operands = self._taken()
                starts = [expressions.register(_words(operands[:count])) for count in range(len(operands))]
                key = starts.index(register)
                self._statements.append(MapUpdate(name, operands[:key], operands[key:]))

    def _taken(self) -> tuple[Operand, ...]:
        taken, self._loaded = tuple(self._loaded), []
        return taken

    def _compare(self, how: int, number: int) -> None:
        if how == AT_LEAST:
            self._lowest = number
        elif operands := self._taken():  # without an operand it is the family that is compared
            (operand,) = operands
            self._matches.append(Equals(operand, number) if how == EQUAL else Between(operand, self._lowest, number))
