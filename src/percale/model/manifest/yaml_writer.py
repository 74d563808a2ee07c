"""Writes plain values as YAML, as `kubectl get -o yaml` shows it. Called by commands and by the files store.

Apart from `encode.py`: most agents write none, and PyYAML takes a thirtieth of the time in which one is imported.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

try:
    from yaml import CSafeDumper as Dumper
except ImportError:  # PyYAML built without libyaml: slower, but the same
    from yaml import SafeDumper as Dumper  # type: ignore[assignment]


def plain_to_yaml(document: Any) -> str:
    """A document of plain values, keys in their order."""
    text: str = yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=1_000_000
    )
    return text


_WIDE_SPACES = "\u00a0\u3000" + "".join(map(chr, range(0x2000, 0x200C)))


class _Dumper(Dumper):
    """Multi-line texts as blocks; quotes around all that some YAML reader takes for another type."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
_Dumper.add_implicit_resolver(
    "tag:percale.io,2026:ambiguous",
    re.compile(
        r"(?:[yYnN]|[-+]?[0-9][0-9_]*(?:\.[0-9]*)?[eE][-+]?[0-9]+|0o?[0-9_]+"
        rf"|(?:\\[-*]|--|[–—−•‣◦·*{_WIDE_SPACES}]).*)\Z",  # what `paste_errors.py` takes for a mangled list item
        re.ASCII,
    ),
    list("yYnN-+0123456789\\–—−•‣◦·*" + _WIDE_SPACES),
)
