"""nfnetlink's messages about tables: types and attributes as in linux/netfilter/nf_tables.h."""

from __future__ import annotations

import errno
import struct

from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import Request, attribute, text, u32_network
from percale.kernel.nftables.event_subscriptions import SUBSYSTEM, commit_batch
from percale.render.nft.objects import INPUT_CHAIN, TableFamily, TableName

NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
NEWCHAIN, GETCHAIN, DELCHAIN = 3, 4, 5
NEWRULE, GETRULE, DELRULE = 6, 7, 8
NEWSET, GETSET, DELSET = 9, 10, 11
NEWSETELEM, GETSETELEM, DELSETELEM = 12, 13, 14
NEWGENERATION = 15
NEWOBJECT, GETOBJECT = 18, 19

TABLE_OF_ANYTHING = 1
"""The attribute that names the table, of tables, chains, rules, sets, objects and element lists alike."""
TABLE_FLAGS, TABLE_USERDATA = 2, 6
CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE = 3, 4, 5, 7
RULE_CHAIN, RULE_HANDLE, RULE_EXPRESSIONS, RULE_USERDATA = 2, 3, 4, 7
LIST_SET, LIST_ELEMENTS = 2, 3
OBJECT_NAME, OBJECT_TYPE, OBJECT_DATA, OBJECT_USERDATA = 2, 3, 4, 8

FAMILIES: dict[TableFamily, int] = {"inet": 1, "ip": 2, "netdev": 5, "bridge": 7, "ip6": 10}
_HEADER = struct.Struct(">BBH")

_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_NF_INET_LOCAL_IN, _FILTER_PRIORITY, _NF_ACCEPT = 1, 0, 1
_INPUT_HOOK = (
    attribute(CHAIN_HOOK, u32_network(_HOOK_NUMBER, _NF_INET_LOCAL_IN) + u32_network(_HOOK_PRIORITY, _FILTER_PRIORITY))
    + u32_network(CHAIN_POLICY, _NF_ACCEPT)
    + text(CHAIN_TYPE, "filter")
)


def header(family: TableFamily) -> bytes:
    """The beginning of every message about this family's tables."""
    return _HEADER.pack(FAMILIES[family], 0, 0)


def table_header(table: TableName) -> bytes:
    """The beginning of every message about the table."""
    return header(table.family) + text(TABLE_OF_ANYTHING, table.name)


def hook_of(chain: str) -> bytes:
    """The hook of a transaction's chain as attributes, as the kernel dumps them; empty for all but one."""
    return _INPUT_HOOK if chain == INPUT_CHAIN else b""


def remove_table(socket: netlink.Socket, table: TableName) -> bool:
    """Remove a table of ours with all that is in it; False when there was none. Raises OSError."""
    failure = commit_batch(socket, [Request(SUBSYSTEM << 8 | DELTABLE, 0, table_header(table))])
    if failure is not None and failure.error.errno != errno.ENOENT:
        raise failure.error
    return failure is None


def has_table(socket: netlink.Socket, table: TableName) -> bool:
    """Whether there is a table of this name. Raises OSError."""
    try:
        socket.ask(SUBSYSTEM << 8 | GETTABLE, table_header(table))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True
