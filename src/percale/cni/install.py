"""`percale-cni` as a file in the runtime's plugin directory. The agent calls at its start, before its conflist.

A first line that starts Python without site packages or user settings, then a few lines that call plugin.py where it is
installed, so that Python finds it compiled: half of the time that a pod may take is Python's start, compiling takes a tenth.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from percale.atomic_file import replace_file
from percale.cni import plugin
from percale.errors import StateError

NAME = "percale-cni"
_LONGEST_FIRST_LINE = 250
"""The kernel reads no more than this."""


def install_plugin(directory: Path, socket: str) -> Path:
    """Write it, unless it is up to date. Raises StateError."""
    path = directory / NAME
    content = _content(socket).encode()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_bytes() == content and os.access(path, os.X_OK):
            return path
        replace_file(path, content, mode=0o755)
    except OSError as error:
        raise StateError(f"the CNI plugin cannot be installed: {error.strerror}", where=str(path)) from error
    return path


def _content(socket: str) -> str:
    directory = str(Path(plugin.__file__).parent)
    start = _first_line(sys.executable)
    return f"{start}import sys\n\nsys.path.insert(0, {directory!r})\nimport plugin\n\nplugin.main({socket!r})\n"


def _first_line(python: str) -> str:
    line = f"#!{python} -IS\n"
    if len(line) <= _LONGEST_FIRST_LINE and " " not in python:
        return line
    # A shell finds the long name: to Python the second line is a string, to the shell a command.
    return f"#!/bin/sh\n''''exec '{python}' -I -S \"$0\" \"$@\" #'''\n"
