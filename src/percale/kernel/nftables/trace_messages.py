"""nftables' trace messages (NFT_MSG_TRACE), read: what each rule of whichever table did with a traced packet.

`trace.py` reads them for `percale lab watch`, `probe_trace.py` for `percale trace`.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

from msgspec import Struct

from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import Message, attributes, string
from percale.kernel.nftables.event_subscriptions import SUBSYSTEM
from percale.kernel.nftables.messages import FAMILIES
from percale.render.nft.objects import TableFamily

_GROUP = 9
"""The multicast group."""
BY_POLICY, BY_RULE = 1, 3
"""Types; the third, 2, is the end of a chain."""
DROP, ACCEPT, RETURN = 0, 1, -5
WITH_PORTS = frozenset({socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_SCTP})
"""Protocols whose header begins with two ports."""

_TRACE = 17
_TABLE, _CHAIN, _RULE, _TYPE, _VERDICT, _ID = 1, 2, 3, 4, 5, 6
_NETWORK, _TRANSPORT, _INPUT, _OUTPUT, _POLICY = 8, 9, 10, 12, 16
_VERDICT_CODE = 1
_FAMILY_NAMES: dict[int, TableFamily] = {number: name for name, number in FAMILIES.items()}


class TraceMessage(Struct, frozen=True):
    """One step of one packet; `packet` tells packets apart. Headers and devices come with the first message of a base chain."""

    family: TableFamily
    table: str
    chain: str
    handle: int
    """Of the rule; 0: the end of a chain."""
    type: int
    verdict: int | None
    """The rule's, or the chain's policy: negative for jump, goto, return, continue."""
    packet: int
    network: bytes = b""
    transport: bytes = b""
    input: int | None = None
    output: int | None = None

    @property
    def is_final(self) -> bool:
        """The packet's way through this base chain ends here."""
        return self.type == BY_POLICY or (self.type == BY_RULE and self.verdict in (DROP, ACCEPT))


class TraceSocket:
    """All trace messages of a network namespace from now on, whoever has enabled them."""

    def __init__(self) -> None:
        """In the caller's namespace. Raises OSError."""
        self._socket = netlink.Socket(netlink.NETFILTER, (_GROUP,))
        self.lost = 0
        """How often messages were lost: they came faster than they were read."""

    def fileno(self) -> int:
        """For poll."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def messages(self) -> Iterator[TraceMessage]:
        """Since the last call. Raises OSError."""
        while True:
            try:
                received = self._socket.receive(wait=False)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost += 1
                continue
            yield from filter(None, map(decode, received))


def decode(message: Message) -> TraceMessage | None:
    """None for another message of the group."""
    family = _FAMILY_NAMES.get(message.body[0])
    if message.type != SUBSYSTEM << 8 | _TRACE or family is None:
        return None
    found = attributes(message.body, 4)
    kind = _number(found.get(_TYPE))
    verdict = found.get(_POLICY) if kind == BY_POLICY else attributes(found.get(_VERDICT, b"")).get(_VERDICT_CODE)
    return TraceMessage(
        family,
        string(found.get(_TABLE, b"")),
        string(found.get(_CHAIN, b"")),
        _number(found.get(_RULE)),
        kind,
        int.from_bytes(verdict, "big", signed=True) if verdict else None,
        _number(found.get(_ID)),
        found.get(_NETWORK, b""),
        found.get(_TRANSPORT, b""),
        _number(found[_INPUT]) if _INPUT in found else None,
        _number(found[_OUTPUT]) if _OUTPUT in found else None,
    )


def _number(payload: bytes | None) -> int:
    return int.from_bytes(payload or b"", "big")
