"""`percale ipam`: IP pools and nodes' blocks of them. Its commands are the modules here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import click

from percale.cli.lazy import LazyGroup

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "check": "Blocks that leak, and pods whose address is not their node's.",
        "release": "Give back blocks of nodes that are gone.",
        "show": "What of the IP pools is in use.",
    }
)
"""Each command's help line: the command NAME is in NAME.py."""


@click.group(cls=LazyGroup, helps=COMMANDS, modules="percale.cli.ipam.{}")
def ipam() -> None:
    """IP pools, and the blocks of them that nodes have."""
