"""`percale policy`: what can be said of policies before they reach a cluster. Its commands are the modules here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import click

from percale.cli.lazy import LazyGroup

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "check": "Errors as the API server gives them, and warnings of what people get wrong.",
        "test": "Who must reach whom: tests of policies, by the evaluator or with real packets.",
    }
)
"""Each command's help line: the command NAME is in NAME.py."""


@click.group(cls=LazyGroup, helps=COMMANDS, modules="percale.cli.policy.{}")
def policy() -> None:
    """Check NetworkPolicies and ClusterNetworkPolicies."""
