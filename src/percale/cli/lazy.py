"""A group of commands each of which is imported only when it is typed: `percale` itself, and `percale policy`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from percale.cli.lab_option import refuse_lab


class LazyGroup(click.Group):
    """The command NAME is the one of this name in its module."""

    def __init__(self, *arguments: Any, helps: Mapping[str, str], modules: str, **settings: Any) -> None:
        """`helps` has each command's help line, so that the group's help imports none; `modules` is as in `cli.{}`."""
        super().__init__(*arguments, **settings)
        self._helps = helps
        self._modules = modules

    def list_commands(self, _context: click.Context) -> list[str]:
        return sorted(self._helps)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self._helps:
            return None
        module = vars(importlib.import_module(self._modules.format(name.replace("-", "_"))))
        command = next(each for each in module.values() if isinstance(each, click.Command) and each.name == name)
        if context.resilient_parsing:  # a shell completes a word
            from percale.cli.completion import with_completers

            with_completers(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Of a command that is not there, the nearest one is named: click knows none of these names."""
        try:
            found = super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            raise click.NoSuchCommand(error.command_name, possibilities=self._helps, ctx=ctx) from None
        if found[1] is not None:
            refuse_lab(ctx, found[1])
        return found

    def shell_complete(self, context: click.Context, incomplete: str) -> list[CompletionItem]:
        """The names of the commands, without their modules, and the group's own options."""
        names = (CompletionItem(name, help=text) for name, text in sorted(self._helps.items()))
        options = click.Command.shell_complete(self, context, incomplete)
        return [*(each for each in names if each.value.startswith(incomplete)), *options]

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(self._helps.items()))
