"""A group of commands each of which is imported only when it is typed: `percale` itself, and `percale policy`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """The command NAME is the one of this name in its module."""

    def __init__(self, *arguments: Any, helps: Mapping[str, str], modules: str, **settings: Any) -> None:
        """`helps` has each command's help line, so that the group's help imports none; `modules` is as in `cli.{}`."""
        super().__init__(*arguments, **settings)
        self._helps = helps
        self._modules = modules

    def list_commands(self, _context: click.Context) -> list[str]:
        return sorted(self._helps)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in self._helps:
            return None
        module = vars(importlib.import_module(self._modules.format(name)))
        return next(each for each in module.values() if isinstance(each, click.Command) and each.name == name)

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(self._helps.items()))
