"""Servers that this node's agent needs: those of its store, and its name servers. `node_services.py` passes them to the resolver.

A Service that got their addresses could cut the agent off from the store, or answer for the names in policies.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from percale.bounded_file import read_file
from percale.model.addresses import is_address, packed
from percale.store.protocol import Store

_RESOLV_CONF = Path("/etc/resolv.conf")


def needed_servers(store: Store, resolv_conf: Path = _RESOLV_CONF) -> frozenset[bytes]:
    """Packed addresses. A server that is given by its name has none here."""
    return frozenset(packed(each) for each in (*store.hosts, *_name_servers(resolv_conf)) if is_address(each))


def _name_servers(resolv_conf: Path) -> Iterator[str]:
    try:
        lines = read_file(resolv_conf).decode(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        match line.split():
            case ["nameserver", address, *_]:
                yield address.partition("%")[0]
