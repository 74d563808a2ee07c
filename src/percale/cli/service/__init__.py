"""`percale service`: what Services mean on a node. Its commands are the modules here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import click

from percale.cli.lazy import LazyGroup

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "check": "Errors of Services and EndpointSlices as the API server gives them, and what is odd.",
        "list": "Services with their addresses, ports, strategies, and how many endpoints are used.",
        "resolve": "Where a packet to a Service goes from a node, and whether its source is kept.",
        "show": "One Service on a node: each endpoint, used or why not, and what happens to whom.",
    }
)
"""Each command's help line: the command NAME is in NAME.py."""


@click.group(cls=LazyGroup, helps=COMMANDS, modules="percale.cli.service.{}")
def service() -> None:
    """What Services mean on a node."""
