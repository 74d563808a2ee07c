"""Writes docs/commands.md from the commands' own help, and docs/answers.md. `make docs` runs it; tests hold the files
against the commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click
from docs import answers

from percale.cli.main import percale

WIDTH = 100


def pages(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[str]:
    """The help of a command and of all below it."""
    settings = {**command.context_settings, "max_content_width": WIDTH, "terminal_width": WIDTH}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield f"## {context.command_path}\n\n```\n{command.get_help(context).strip()}\n```\n"
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            below = command.get_command(context, each)
            if below is not None:
                yield from pages(below, each, context)


def text() -> str:
    """The whole page."""
    head = "# Commands\n\nWritten by docs/generate.py from the commands' own help (`make docs`).\n"
    return "\n".join([head, *pages(percale, "percale")])


PAGES: Mapping[str, Callable[[], str]] = {"commands.md": text, "answers.md": answers.text}

if __name__ == "__main__":
    for name, page in PAGES.items():
        Path(__file__).with_name(name).write_text(page())
