"""`percale completion`: the shell's script for it, and what stands for each argument: labs, pods, kinds and names, files.

Tab ─▶ the script ─▶ `percale` with _PERCALE_COMPLETE ─▶ click ─▶ LazyGroup imports the one command ─▶ completers by metavar
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class
from click.types import StringParamType

from percale.errors import PercaleError
from percale.lab.commands import default_lab

VARIABLE = "_PERCALE_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="The script that completes words in bash, zsh or fish.")
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that completes commands, options, labs, pods, kinds and files.

    \b
    source <(percale completion bash)          # in ~/.bashrc
    source <(percale completion zsh)           # in ~/.zshrc
    percale completion fish | source           # in ~/.config/fish/config.fish
    """
    click.echo(_for_shell(shell, click.Group()).source())


def complete(root: click.Command, instruction: str) -> int:
    """Answer the script: `bash_complete`."""
    click.echo(_for_shell(instruction.partition("_")[0], root).complete())
    return 0


def _for_shell(shell: str, root: click.Command) -> ShellComplete:
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    return kind(root, {}, "percale", VARIABLE)


Words: TypeAlias = Iterable[str]
Completer: TypeAlias = Callable[[click.Context, str], Words]
"""All words that are possible where one begins so; those that do not fit are left out."""


class _Word(StringParamType):
    """A text that has a completer."""

    def __init__(self, completer: Completer) -> None:
        self._completer = completer

    def shell_complete(self, context: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            words = sorted(set(self._completer(context, incomplete)))
        except (PercaleError, OSError):
            return []  # no such lab: Tab says nothing
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]


class _File(StringParamType):
    """A path: the shell itself knows."""

    def shell_complete(self, _context: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


def with_completers(command: click.Command) -> None:
    """Give the options and arguments of a command, and of those below it, what completes them."""
    for each in command.commands.values() if isinstance(command, click.Group) else ():
        with_completers(each)
    for param in command.params:
        kind = _completed(command, param)
        if kind is not None and isinstance(param.type, StringParamType):
            param.type = kind


def _completed(command: click.Command, param: click.Parameter) -> StringParamType | None:
    if isinstance(param, click.Option):
        return next((_OPTIONS[name] for name in param.opts if name in _OPTIONS), None)
    word = param.metavar or (param.name or "").upper()
    if word.lstrip("[").startswith("KIND"):
        return _OBJECTS
    return _ARGUMENTS.get(f"{command.name} {word}") or _ARGUMENTS.get(word.strip("[]").rstrip(".…"))


# What a lab has


def _lab(context: click.Context) -> str:
    lab: str = context.params.get("lab") or default_lab()
    return lab


def _names(context: click.Context, *kinds: str) -> list[tuple[str, str | None, str]]:
    """Kind, namespace and name of the lab's objects. Raises PercaleError."""
    from percale.lab.api.client import get_objects
    from percale.lab.run_dir import locate

    answer = get_objects(locate(_lab(context)), [{"kind": kind} for kind in kinds], everywhere=True)
    objects = [each for section in answer["sections"] for each in section["objects"]]
    return [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in objects]


def _labs(_context: click.Context, _incomplete: str) -> Words:
    from percale.lab.run_dir import all_running

    return (lab_dir.name for lab_dir, _ in all_running())


def _namespaces(context: click.Context, _incomplete: str) -> Words:
    return (name for _, _, name in _names(context, "namespaces"))


def _nodes(context: click.Context, _incomplete: str) -> Words:
    return (name for _, _, name in _names(context, "nodes"))


def _pods(context: click.Context, incomplete: str) -> Words:
    return _in_namespace(context, _names(context, "pods"), incomplete)


def _services(context: click.Context, incomplete: str) -> Words:
    return _in_namespace(context, _names(context, "services"), incomplete)


def _in_namespace(context: click.Context, names: Iterable[tuple[str, str | None, str]], incomplete: str) -> Words:
    """`NAME` in the namespace of the command, `NAMESPACE/NAME` in others, and everywhere once there is a slash."""
    home = context.params.get("namespace") or "default"
    return (
        name if namespace == home and "/" not in incomplete else f"{namespace}/{name}" for _, namespace, name in names
    )


_SHORT = {
    "Service": "svc",
    "Deployment": "deploy",
    "StatefulSet": "sts",
    "DaemonSet": "ds",
    "Job": "job",
    "CronJob": "cronjob",
}


def _hosts(context: click.Context) -> Words:
    """Those outside the cluster."""
    from percale.lab.api.client import ask
    from percale.lab.run_dir import locate

    return (f"external/{name}" for name in ask(locate(_lab(context)), "hosts")["hosts"])


def _answering(context: click.Context, incomplete: str) -> Words:
    """Pods and hosts outside."""
    yield from _pods(context, incomplete)
    yield from _hosts(context)


def _places(context: click.Context, incomplete: str) -> Words:
    """Pods, nodes, hosts outside, Services and workloads: the ends of a connection."""
    names = _names(
        context, "pods", "nodes", "services", "deployments", "statefulsets", "daemonsets", "jobs", "cronjobs"
    )
    yield from _in_namespace(context, (each for each in names if each[0] == "Pod"), incomplete)
    for kind, namespace, name in names:
        if kind == "Node":
            yield f"node/{name}"
        elif kind in _SHORT:
            yield f"{_SHORT[kind]}/{namespace}/{name}"
    yield from _hosts(context)


def _objects(context: click.Context, incomplete: str) -> Words:
    """`KIND`, then `NAME`; or `KIND/NAME`."""
    from percale.objects.kind_names import WORDS

    kind, slash, _ = incomplete.partition("/")
    given = next((word for word in context.params.get("what") or () if not word.startswith("-")), None)
    if given is None and not slash:
        return WORDS if incomplete else {each.PLURAL for each in WORDS.values()}
    if "lab" not in context.params:  # a store: it may be far away
        return ()
    if given is None or "/" in given:
        return (f"{kind}/{name}" for _, _, name in _own(context, kind)) if slash else ()
    return (name for _, _, name in _own(context, given))


def _own(context: click.Context, kind: str) -> Iterable[tuple[str, str | None, str]]:
    home = context.params.get("namespace") or "default"
    everywhere = context.params.get("all_namespaces")
    return (each for each in _names(context, kind) if everywhere or each[1] in (None, home))


_OBJECTS = _Word(_objects)
_OPTIONS: Mapping[str, StringParamType] = {
    "--lab": _Word(_labs),
    "--namespace": _Word(_namespaces),
    "--pod": _Word(_places),
    "--node": _Word(_nodes),
    **dict.fromkeys(("-f", "--diff", "--batch", "--config"), _File()),
}
_ARGUMENTS: Mapping[str, StringParamType] = {
    "FILE|DIR": _File(),
    "LAB": _Word(_labs),
    "remove-node NAME": _Word(_nodes),
    **dict.fromkeys(("NODE", "NODE NODE"), _Word(_nodes)),
    "POD": _Word(_pods),
    "POD|external/NAME": _Word(_answering),
    "[NS/]NAME": _Word(_services),
    **dict.fromkeys(("FROM", "TO", "POD|node/NAME", "TO:PORT[/PROTO]"), _Word(_places)),
}
"""By metavar, without the brackets and dots around it; with the command's name where the metavar says too little."""
