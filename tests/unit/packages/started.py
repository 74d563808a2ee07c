"""The programs that Python code starts, read from its text.

What `subprocess` is given is followed through variables, through helpers that pass a command on, through programs that
start another one, and through shell lines. What is known only when it runs is not found here.
"""

from __future__ import annotations

import ast
import itertools
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

_PROGRAM = re.compile(r"[a-z][a-z0-9_.+-]*")
_UNKNOWN = "UNKNOWN"
_WRAPPERS = ("env", "exec", "nsenter", "setsid", "timeout", "unshare")
_SHELL_WORDS = {"!", "do", "elif", "else", "if", "then", "until", "while", "{"}
_SHELL_BUILTINS = {
    *(
        "[",
        "break",
        "case",
        "cd",
        "command",
        "continue",
        "done",
        "echo",
        "esac",
        "eval",
        "exit",
        "export",
        "false",
        "fi",
        "for",
        "kill",
    ),
    *("local", "printf", "read", "return", "set", "shift", "test", "trap", "true", "ulimit", "umask", "unset", "wait"),
}

# A word of a command: known, or an expression that is not.
Word = str | ast.expr


class Kind(Enum):
    """What of a call is the command."""

    WORDS = auto()  # one argument, a list of words
    REST = auto()  # all arguments from one on
    LINE = auto()  # one argument, for a shell
    NAME = auto()  # one argument, the program


@dataclass(frozen=True)
class Starter:
    """A function that starts what it is given."""

    name: str
    kind: Kind
    position: int


@dataclass(frozen=True)
class _Site:
    call: ast.Call
    within: tuple[ast.AST, ...]
    """The module and the functions around it, the innermost last."""


_STARTERS = (
    Starter("subprocess.run", Kind.WORDS, 0),
    Starter("subprocess.Popen", Kind.WORDS, 0),
    Starter("subprocess.check_output", Kind.WORDS, 0),
    Starter("asyncio.create_subprocess_exec", Kind.REST, 0),
    Starter("os.execvpe", Kind.WORDS, 1),
    Starter("shutil.which", Kind.NAME, 0),
)


class Code:
    """Some files' calls and variables."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._sites: dict[str, list[_Site]] = defaultdict(list)
        self._values: dict[tuple[ast.AST | None, str], list[ast.expr]] = defaultdict(list)
        self._inside: list[list[Word]] = []
        for text in texts:
            module = ast.parse(text)
            self._read(module, (module,))

    def _read(self, node: ast.AST, within: tuple[ast.AST, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Call):
                name = ast.unparse(child.func)
                words = [_known(argument) for argument in child.args]
                if "lab" in words and "--" in words:  # percale lab exec POD -- COMMAND
                    self._inside.append(words[words.index("--") + 1 :])
                for each in {name, f".{name.rpartition('.')[2]}"} if "." in name else {name}:
                    self._sites[each].append(_Site(child, within))
            if isinstance(child, ast.Assign):
                for target in child.targets:
                    if isinstance(target, ast.Name):
                        self._values[within[-1], target.id].append(child.value)
                    elif isinstance(target, ast.Attribute):
                        self._values[None, target.attr].append(child.value)
            self._read(child, (*within, child) if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else within)

    def programs(self) -> set[str]:
        """The names of what is started."""
        found = {end for inside in self._inside for end in _ends(inside) if isinstance(end, str)}
        seen, waiting = set(_STARTERS), list(_STARTERS)
        while waiting:
            starter = waiting.pop()
            for site in self._sites[starter.name]:
                for command in self._commands(site, starter):
                    for end in _ends(command):
                        if isinstance(end, str):
                            found.add(end)
                        else:
                            new = set(_passed_on(site, *end)) - seen
                            seen |= new
                            waiting += new
        return found

    def _commands(self, site: _Site, starter: Starter) -> list[list[Word]]:
        arguments = site.call.args[starter.position :]
        match starter.kind:
            case Kind.REST:
                return self._words(ast.List(arguments), site)
            case Kind.WORDS:
                return self._words(arguments[0], site) if arguments else []
            case Kind.LINE:
                return [["sh", "-c", *line] for line in self._words(ast.List(arguments[:1]), site)]
            case Kind.NAME:
                return self._words(ast.List(arguments[:1]), site)

    def _words(self, value: ast.expr, site: _Site, depth: int = 0) -> list[list[Word]]:
        """What a list may hold, one way after the other."""
        if isinstance(value, ast.List | ast.Tuple):
            ways: list[list[Word]] = [[]]
            for element in value.elts:
                ends = (
                    self._words(element.value, site, depth) if isinstance(element, ast.Starred) else [[_known(element)]]
                )
                ways = [[*way, *end] for way in ways for end in ends]
            return ways
        if isinstance(value, ast.BinOp):
            return [
                [*one, *two]
                for one in self._words(value.left, site, depth)
                for two in self._words(value.right, site, depth)
            ]
        if isinstance(value, ast.IfExp):
            return self._words(value.body, site, depth) + self._words(value.orelse, site, depth)
        if isinstance(value, ast.Call) and ast.unparse(value.func) == "list" and value.args:
            return self._words(value.args[0], site, depth)
        values: list[ast.expr] = []
        if isinstance(value, ast.Name):
            values = next(
                (self._values[scope, value.id] for scope in reversed(site.within) if (scope, value.id) in self._values),
                [],
            )
        elif isinstance(value, ast.Attribute):
            values = self._values[None, value.attr]
        if depth == 3 or not values:
            return [[ast.Starred(value)]]
        return [way for each in values for way in self._words(each, site, depth + 1)]


def in_shell(text: str, functions: Sequence[str] = ()) -> set[str]:
    """The programs a shell text starts, where these functions of its own run their arguments."""
    return {end for end in _line(text, functions) if isinstance(end, str)}


def _known(value: ast.expr) -> Word:
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else value


def _text(value: Word) -> str | None:
    """A text with a word for each part that is not known."""
    if isinstance(value, str):
        return value
    if isinstance(value, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else _UNKNOWN for part in value.values)
    if isinstance(value, ast.BinOp):
        return (_text(_known(value.left)) or _UNKNOWN) + (_text(_known(value.right)) or _UNKNOWN)
    return None


End = str | tuple[Kind, ast.expr]


def _ends(command: Sequence[Word], shell: bool = False, functions: Sequence[str] = ()) -> Iterator[End]:
    """The programs of a command, and what of it somebody else knows."""
    words = list(command)
    while len(words) > 1 and isinstance(words[0], ast.Starred) and not isinstance(words[0].value, ast.Name):
        words.pop(0)
    if not words:
        return
    first, rest = words[0], words[1:]
    if isinstance(first, ast.Starred):
        yield Kind.REST, first.value
    elif isinstance(first, ast.expr):
        yield Kind.NAME, first
    elif shell and (first in _SHELL_WORDS or re.match(r"\w+=", first)):
        yield from _ends(rest, shell, functions)
        return
    elif _PROGRAM.fullmatch(first) and first not in (*functions, *(_SHELL_BUILTINS if shell else ())):
        yield first
    inner = _started_by(first, rest, functions)
    if first in ("sh", "bash"):
        for flag, line in itertools.pairwise(rest):
            if isinstance(flag, str) and re.fullmatch(r"-\w*c", flag):
                text = _text(line)
                if text is not None:
                    yield from _line(text, functions)
                elif isinstance(line, ast.expr):
                    yield Kind.LINE, line
    elif inner:
        yield from _ends(inner, shell, functions)


def _started_by(first: Word, rest: Sequence[Word], functions: Sequence[str]) -> Sequence[Word]:
    """The command within a command."""
    if first in _WRAPPERS:
        options = (index for index, word in enumerate(rest) if not re.match(r"-|\d|\w+=", _text(word) or ""))
        return rest[next(options, len(rest)) :]
    if first in functions:
        return rest
    for index, word in enumerate(rest):
        if word == "--":
            return rest[index + 1 :]
        if first == "ip" and word == "exec":
            return rest[index + 2 :]
    return ()


def _line(text: str, functions: Sequence[str]) -> Iterator[End]:
    for inner in re.findall(r"\$\(([^()]*)\)", text):
        yield from _line(inner, functions)
    text = re.sub(r"<<-?'?(\w+)'?\n.*?\n\1\b", "", text, flags=re.DOTALL).replace("\\\n", " ")
    text = re.sub(r"^\s*#.*|\s#\s.*", "", text, flags=re.MULTILINE).replace("\n", ";")
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    command: list[Word] = []
    for word in [*lexer, ";"]:
        if re.fullmatch(r"[();|&]+", word):
            yield from _ends(command, True, functions)
            command = []
        else:
            command.append(word)


def _passed_on(site: _Site, kind: Kind, value: ast.expr) -> Iterator[Starter]:
    """The function around, where it was given this."""
    function = site.within[-1]
    if not isinstance(value, ast.Name) or not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    names = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
    method = names[:1] == ["self"]
    position = -1
    if function.args.vararg and function.args.vararg.arg == value.id:
        position = len(names)
    elif value.id in names:
        position, kind = names.index(value.id), Kind.WORDS if kind is Kind.REST else kind
    if position >= 0:
        yield Starter(f".{function.name}" if method else function.name, kind, position - method)


def python_files(*folders: Path) -> Iterator[Path]:
    """All of these folders' code."""
    for folder in folders:
        yield from sorted(folder.rglob("*.py"))
