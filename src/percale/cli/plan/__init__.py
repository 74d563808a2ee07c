"""`percale plan`: addresses that mean something. Its commands are the modules here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import click

from percale.cli.lazy import LazyGroup

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "check": "Overlaps, values that do not fit, sizes, and this host's routes.",
        "name": "What addresses say by the plan; with - in any text.",
        "next": "The next free address, node's subnet or service network.",
        "render": "The plan as a net-conf.json, as labels of nodes, or as pools.",
    }
)
"""Each command's help line: the command NAME is in NAME.py."""


@click.group(cls=LazyGroup, helps=COMMANDS, modules="percale.cli.plan.{}")
def plan() -> None:
    """An address plan: in 10.4.7.21 the 4 is the machine room, the 7 the environment."""
