"""`percale bgp`: the routing daemon of a node. Its commands are the modules here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import click

from percale.cli.lazy import LazyGroup

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "routes": "Routes that BGP has brought, and addresses of Services that are advertised.",
        "status": "Sessions, as `calicoctl node status` shows them.",
    }
)
"""Each command's help line: the command NAME is in NAME.py."""


@click.group(cls=LazyGroup, helps=COMMANDS, modules="percale.cli.bgp.{}")
def bgp() -> None:
    """BGP on a node."""
