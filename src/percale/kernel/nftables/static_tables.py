"""The reconciler's nft tables in one namespace: loads their text, changes their elements, reads both back.

A table's text is loaded by `nft` in one transaction that replaces the table. Its digest is in the table's comment, so that a
restart with an equal text changes nothing, unless the table was changed by others (`table_fingerprint`). Elements go directly
to the kernel in atomic batches. Called by `rtnl/driver.py`.
"""

from __future__ import annotations

import contextlib
import errno
import re
import struct
import subprocess
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice

from msgspec import Struct

from percale.kernel.commands import format_element, format_table
from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import Message, Request, attribute_list, attributes, nested, string, text
from percale.kernel.netns import NetnsExecutor
from percale.kernel.nftables import element_codec
from percale.kernel.nftables.commit import SUBSYSTEM, EventSubscriptions, commit_batch
from percale.kernel.nftables.element_codec import Raw, Shape
from percale.kernel.protocol import Change, Upsert
from percale.kernel.table_fingerprint import verify_fingerprint
from percale.render.objects import OWNER, Element, Family, KernelObject, Ruleset

NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
DELCHAIN, DELRULE = 5, 8
GETSET, DELSET = 10, 11
NEWSETELEM, GETSETELEM, DELSETELEM = 12, 13, 14

TABLE_OF_ANYTHING = 1
"""The attribute that names the table, of tables, chains, rules, sets and element lists alike."""
_TABLE_USERDATA = 6
_COMMENT = 0
_SET_NAME = 2
_LIST_SET, _LIST_ELEMENTS = 2, 3

_GETCHAIN, _GETRULE, _GETOBJECT = 4, 7, 19
_HANDLES = ((_GETCHAIN, 2), (_GETRULE, 3), (GETSET, 16), (_GETOBJECT, 6))
"""The parts of a table, and the attribute of their handles."""

INET, NETDEV = 1, 5
FAMILIES: dict[Family, int] = {"ip": 2, "ip6": 10, "bridge": 7}
FAMILY_NAMES = {number: name for name, number in FAMILIES.items()}

_HEADER = struct.Struct(">BBH")
_ELEMENTS_A_MESSAGE = 500
"""An attribute holds 64 KiB: elements of 16 + 16 + 16 bytes and their ends fit."""
_NFT_PATIENCE = 60
"""Seconds."""


class Encoded(Struct, frozen=True):
    """One element's encoded change; `position` is its index among the changes."""

    position: int
    put: bool
    family: Family
    set: str
    entries: bytes

    @property
    def run(self) -> tuple[bool, Family, str]:
        """What may share a message."""
        return self.put, self.family, self.set


class StaticTables:
    """One thread at a time applies changes; `has` and `shape` are thread-safe."""

    def __init__(self, socket: netlink.Socket, netns: NetnsExecutor, subscriptions: EventSubscriptions) -> None:
        """`socket` is closed with this."""
        self.subscriptions = subscriptions
        self._socket = socket
        self._netns = netns
        self._specs: dict[tuple[Family, str], Shape] = {}
        self.nft_pids: deque[int] = deque(maxlen=16)
        """Port ids of our last `nft` processes, whose notifications are ignored."""

    @property
    def port(self) -> int:
        return self._socket.port

    def close(self) -> None:
        self._socket.close()

    # Tables

    def load(self, ruleset: Ruleset, members: Sequence[Element] = ()) -> None:
        """Replace the whole table by this text and these elements, in one transaction. Raises OSError with nft's message.

        With its elements the new table is complete from its first packet on. When nft rejects them, it is loaded without,
        and `apply_elements` then finds the bad one.
        """
        self._forget(ruleset.family)
        if members:
            with contextlib.suppress(OSError):
                self._run_nft(script(ruleset, members))
                return
        self._run_nft(script(ruleset))

    def _run_nft(self, commands: str) -> None:
        with self.subscriptions.commit_lock:
            self._netns.run(lambda: run_nft(commands, self.nft_pids))

    def remove(self, family: Family) -> None:
        """Delete the table with all that is in it; that it is gone is no error. Raises OSError."""
        self._forget(family)
        kind = SUBSYSTEM << 8 | DELTABLE
        body = _header(family) + text(TABLE_OF_ANYTHING, OWNER)
        error = self._transaction([Request(kind, 0, body)])
        if error is not None and error.errno != errno.ENOENT:
            raise error

    def _forget(self, family: Family) -> None:
        self._specs = {key: shape for key, shape in self._specs.items() if key[0] != family}

    # Reading

    def read(self) -> Iterator[KernelObject]:
        """Every table of ours and the elements of its sets."""
        for message in self._socket.dump(SUBSYSTEM << 8 | GETTABLE, _HEADER.pack(0, 0, 0)):
            found = attributes(message.body, 4)
            family = FAMILY_NAMES.get(message.body[0])
            if family is None or string(found.get(TABLE_OF_ANYTHING, b"")) != OWNER:
                continue
            comment = comment_of(found.get(_TABLE_USERDATA, b""))
            yield Ruleset(family, verify_fingerprint(comment, self._handles(family)))
            yield from self._read_sets(family)

    def has(self, family: int) -> bool:
        """Whether a table of ours is there. Raises OSError."""
        try:
            self._socket.ask(SUBSYSTEM << 8 | GETTABLE, _HEADER.pack(family, 0, 0) + text(TABLE_OF_ANYTHING, OWNER))
        except FileNotFoundError:
            return False
        return True

    def _handles(self, family: Family) -> dict[int, bool]:
        """The handles of all chains, rules, sets and counters of a table; False for anonymous sets."""
        handles: dict[int, bool] = {}
        body = _header(family) + text(TABLE_OF_ANYTHING, OWNER)
        for kind, handle in _HANDLES:
            for message in self._socket.dump(SUBSYSTEM << 8 | kind, body):
                found = attributes(message.body, 4)
                if string(found.get(TABLE_OF_ANYTHING, b"")) == OWNER:
                    anonymous = (
                        kind == GETSET and element_codec.decode_shape(family, found).flags & element_codec.ANONYMOUS
                    )
                    handles[int.from_bytes(found[handle], "big")] = not anonymous
        return handles

    def _read_sets(self, family: Family) -> Iterator[Element]:
        body = _header(family) + text(TABLE_OF_ANYTHING, OWNER)
        for message in self._socket.dump(SUBSYSTEM << 8 | GETSET, body):
            shape = element_codec.decode_shape(family, attributes(message.body, 4))
            if not shape.ours_to_fill:
                continue
            self._specs[family, shape.name] = shape
            for match in element_codec.decode(shape, self._read_entries(shape)):
                yield Element(family, shape.name, match)

    def _read_entries(self, shape: Shape) -> Iterator[Raw]:
        body = _header(shape.family) + text(TABLE_OF_ANYTHING, OWNER) + text(_LIST_SET, shape.name)
        for message in self._socket.dump(SUBSYSTEM << 8 | GETSETELEM, body):
            yield from entries_of(message)[1]

    def shape(self, family: Family, name: str) -> Shape:
        """The shape of a set of ours. Raises OSError (ENOENT)."""
        known = self._specs.get((family, name))
        if known is None:
            body = _header(family) + text(TABLE_OF_ANYTHING, OWNER) + text(_SET_NAME, name)
            try:
                answer = self._socket.ask(SUBSYSTEM << 8 | GETSET, body)
            except FileNotFoundError as error:
                raise OSError(errno.ENOENT, f"no set {name} in table {family} {OWNER}") from error
            assert answer is not None
            known = self._specs[family, name] = element_codec.decode_shape(family, attributes(answer.body, 4))
        return known

    # Elements

    def apply_elements(self, changes: Sequence[Change]) -> list[OSError | None]:
        """Change elements in as few transactions as possible; one result each."""
        results: list[OSError | None] = [None] * len(changes)
        encoded: list[Encoded] = []
        for position, change in enumerate(changes):
            desired, put = change.object, isinstance(change, Upsert)
            assert isinstance(desired, Element)
            try:
                entries = element_codec.encode(self.shape(desired.family, desired.set), desired.match)
            except OSError as error:
                if put or error.errno != errno.ENOENT:
                    results[position] = error
                continue
            encoded.append(Encoded(position, put, desired.family, desired.set, entries))
        for batch in _batches(encoded, self._socket.most_bytes):
            self._commit(batch, results)
        return results

    def _commit(self, batch: Sequence[Encoded], results: list[OSError | None]) -> None:
        """Commit atomically; on failure bisect, until the bad element is found."""
        error = self._transaction(list(_element_messages(batch)))
        if error is None:
            return
        if len(batch) > 1:
            middle = len(batch) // 2
            self._commit(batch[:middle], results)
            self._commit(batch[middle:], results)
        elif batch[0].put or error.errno != errno.ENOENT:
            results[batch[0].position] = error

    def _transaction(self, requests: Sequence[Request]) -> OSError | None:
        """One atomic batch; its first error."""
        failure = self.subscriptions.commit(self._socket, requests)
        return failure.error if failure is not None else None


def run_nft(commands: str, nft_pids: deque[int]) -> None:
    """One `nft -f` in the caller's namespace; appends its pid to `nft_pids`. Raises OSError with nft's message."""
    try:
        process = subprocess.Popen(
            ["nft", "-f", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
    except FileNotFoundError as error:
        raise OSError(errno.ENOENT, "there is no nft program: install nftables") from error
    nft_pids.append(process.pid)
    with process:
        try:
            _, said = process.communicate(commands, timeout=_NFT_PATIENCE)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise OSError(errno.ETIMEDOUT, f"nft did not end within {_NFT_PATIENCE} s") from error
    if process.returncode != 0:
        words = re.sub(r"\s*\n\s*", " ", said).strip()
        raise OSError(errno.EPERM if "Operation not permitted" in said else errno.EINVAL, words)


def remove_table(socket: netlink.Socket, family: int, table: str = OWNER) -> bool:
    """Remove a table of ours with all that is in it; False when there was none. Raises OSError."""
    body = _HEADER.pack(family, 0, 0) + text(TABLE_OF_ANYTHING, table)
    failure = commit_batch(socket, [Request(SUBSYSTEM << 8 | DELTABLE, 0, body)])
    if failure is not None and failure.error.errno != errno.ENOENT:
        raise failure.error
    return failure is None


def script(ruleset: Ruleset, members: Iterable[Element] = ()) -> str:
    """The input of `nft -f -`: create or replace the table, with these elements."""
    added = "".join(f"add element {format_element(element)}\n" for element in members)
    return f"{format_table(ruleset)}\n{added}"


def entries_of(message: Message) -> tuple[str, list[Raw]]:
    """A set's name and the entries that a NEWSETELEM or DELSETELEM message holds."""
    found = attributes(message.body, 4)
    decoded = (element_codec.decode_entry(entry) for _, entry in attribute_list(found.get(_LIST_ELEMENTS, b"")))
    return string(found.get(_LIST_SET, b"")), [raw for raw in decoded if raw is not None]


def _header(family: Family) -> bytes:
    return _HEADER.pack(FAMILIES[family], 0, 0)


def comment_of(userdata: bytes) -> str:
    """The comment among a table's user data (type, length, value); "" without one."""
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == _COMMENT:
            return string(userdata[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return ""


def _batches(encoded: Sequence[Encoded], most: int) -> Iterator[list[Encoded]]:
    """Batches whose bytes fit one send."""
    batch: list[Encoded] = []
    size = 0
    for item in encoded:
        if batch and size + len(item.entries) > most:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += len(item.entries) + 8
    if batch:
        yield batch


def _element_messages(batch: Iterable[Encoded]) -> Iterator[Request]:
    for (put, family, name), run in groupby(batch, lambda item: item.run):
        kind, flags = (NEWSETELEM, netlink.CREATE) if put else (DELSETELEM, 0)
        head = _header(family) + text(TABLE_OF_ANYTHING, OWNER) + text(_LIST_SET, name)
        while some := list(islice(run, _ELEMENTS_A_MESSAGE)):
            body = head + nested(_LIST_ELEMENTS, *(item.entries for item in some))
            yield Request(SUBSYSTEM << 8 | kind, flags, body)
