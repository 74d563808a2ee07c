"""Deletes everything of ours, and nothing else, for `percale agent --cleanup`."""

from __future__ import annotations

from contextlib import closing

from percale.kernel import plan
from percale.kernel.netlink import socket as netlink
from percale.kernel.netns import NetnsExecutor
from percale.kernel.nftables.messages import has_table, remove_table
from percale.kernel.protocol import Change, Driver
from percale.render.network import fastpath
from percale.render.nft.objects import POLICY_TABLE, TableName
from percale.render.service import base_chains as service_base

_TABLES = (TableName("ip"), TableName("ip6"), TableName("bridge"), POLICY_TABLE, service_base.TABLE, fastpath.TABLE)


def owned_removals(driver: Driver) -> list[Change]:
    """The deletions of all owned objects, in order of dependency. Blocks; raises OSError."""
    return plan.order((obj for obj in driver.read().values() if plan.removable(obj)), {})


def remove_tables(netns: NetnsExecutor) -> list[str]:
    """Remove all tables of ours; the commands for that. Blocks; raises OSError."""
    with closing(netns.run(lambda: netlink.Socket(netlink.NETFILTER))) as socket:
        return [f"nft 'delete table {table}'" for table in _TABLES if remove_table(socket, table)]


def own_tables(netns: NetnsExecutor) -> list[str]:
    """Those of ours that there are. Blocks; raises OSError."""
    with closing(netns.run(lambda: netlink.Socket(netlink.NETFILTER))) as socket:
        return [str(table) for table in _TABLES if has_table(socket, table)]


def remove_service_table() -> None:
    """Delete the Services' table of a previous run. Blocks; raises OSError."""
    with closing(netlink.Socket(netlink.NETFILTER)) as socket:
        remove_table(socket, service_base.TABLE)
