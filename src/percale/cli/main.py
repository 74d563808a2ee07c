"""`percale`: the entry point. Each command lives in a file of its own, which is imported only when that command is typed.

Every error ends here: what a user can do something about is one line each on stderr, without a traceback.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import TextIO

import click

from percale import __version__
from percale.cli.lab_option import group_lab_option
from percale.cli.lazy import LazyGroup
from percale.errors import BadManifests, PercaleError
from percale.printable import printable_output

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "agent": "Run the agent of this node: pod addresses, routes, tunnels.",
        "apply": "Create or change objects of a store: the agent's, without a lab.",
        "bgp": "BGP sessions and routes of this node, or of a lab's nodes.",
        "completion": "The script that completes words in bash, zsh or fish.",
        "delete": "Delete objects of a store, by file or by name.",
        "doctor": "What is wrong on a node, or in a lab, by what it is seen, and what to type.",
        "etcd": "The network's configuration and leases in an etcd, as flannel has them: write, show, reserve.",
        "get": "Show objects of a store: policies, services, leases, …",
        "ipam": "IP pools: what is in use, what leaks, and giving it back.",
        "lab": "A cluster on this machine: nodes and pods are network namespaces, agents and packets are real.",
        "matrix": "Who reaches whom on which ports, and what changed manifests would open and close.",
        "migrate": "This node from flannel to Percale, or back, while its pods' packets go on.",
        "mk-docker-opts": "Docker's options for this node's subnet, as flannel's script of this name writes them.",
        "plan": "Addresses that mean something: check the plan, name an address, the next free one.",
        "policy": "Check NetworkPolicies: errors as the API server's, and what people get wrong.",
        "preflight": "Check this host before an agent is installed, with what to type for each fault.",
        "service": "What Services mean on a node: addresses, endpoints, where a packet goes; and manifests checked.",
        "status": "Nodes, subnets, backends, peers, pods and the last error, as an agent sees them.",
        "support": "An archive of what a node, or a lab, has, for a bug report; without secrets.",
        "trace": "One real packet there and back, hop by hop: routes, rules, tunnels, and where it is lost.",
        "why": "May FROM reach TO, and which rule says so; the nearest rule when not.",
    }
)
"""Each command's help line, kept here so that `percale --help` imports none of them."""

_GC_THRESHOLD = 50_000
"""Allocations between two garbage collections: imports make no garbage, and looking for it would be a tenth of their time."""


@click.group(
    cls=LazyGroup,
    helps=COMMANDS,
    modules="percale.cli.{}",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@group_lab_option
@click.version_option(__version__, prog_name="percale", message="%(prog)s %(version)s")
def percale() -> None:
    """A whole Kubernetes network in Python: pod addresses and routes, policies, services, and why."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exits with 0, 1 (its answer is no), 2 (an error) or the command's own code.

    130: interrupted; 141: nobody reads what it prints.
    """
    _open_closed_streams()
    gc.set_threshold(_GC_THRESHOLD)
    try:
        with printable_output():
            code = _run(sys.argv[1:] if arguments is None else arguments)
    except BrokenPipeError:
        _discard(sys.stdout, sys.stderr)
        code = 128 + signal.SIGPIPE
    sys.exit(code)


def _open_closed_streams() -> None:
    """As of `>&-` in a shell: what would be printed goes nowhere, and no file or socket of ours gets the stream's number."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, number)
            setattr(sys, name, os.fdopen(number, mode))


def _discard(*streams: TextIO) -> None:
    """What they still have to write, too: the interpreter would complain at its exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())


def _run(arguments: Sequence[str]) -> int:
    try:
        if instruction := os.environ.get("_PERCALE_COMPLETE"):
            from percale.cli.completion import complete

            return complete(percale, instruction)
        with percale.make_context("percale", list(arguments)) as context:  # click's own `main` makes 1 of a closed pipe
            code = percale.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        return 130
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption) and error.option_name == "-f" and _takes_files(error.ctx):
            error = click.UsageError("the files are arguments: leave -f away", error.ctx)
        error.show()
        if _asks_for_json(arguments):
            _print_json(PercaleError(error.format_message(), hint=_help_of(error)))
        return error.exit_code
    except BrokenPipeError:
        raise
    except Exception as error:
        if _is_full_output(error):
            _discard(sys.stdout)
        known = error if isinstance(error, PercaleError) else _internal(error)
        _complain(error, known)
        if _asks_for_json(arguments):
            _print_json(known)
        return known.exit_code
    return code if isinstance(code, int) else 0


def _is_full_output(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None


def _internal(error: Exception) -> PercaleError:
    if _is_full_output(error):
        return PercaleError("the output cannot be written: no space left")
    hint = "please report it, with what PERCALE_DEBUG=1 shows"
    return PercaleError(f"internal error: {type(error).__name__}: {error}", hint=hint)


def _complain(error: Exception, known: PercaleError) -> None:
    if os.environ.get("PERCALE_DEBUG"):
        import traceback

        traceback.print_exception(error)
    for line in known.lines if isinstance(known, BadManifests) else (str(known),):
        print(f"percale: {' '.join(line.split())}", file=sys.stderr)


def _takes_files(context: click.Context | None) -> bool:
    parameters = context.command.params if context is not None else ()
    return any(isinstance(each, click.Argument) and (each.metavar or "").startswith("FILE") for each in parameters)


def _help_of(error: click.ClickException) -> str | None:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{context.command_path} --help" if context is not None else None


def _asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether `-o json` is among them; options may be wrong, so they are not parsed."""
    own = list(arguments)[: arguments.index("--")] if "--" in arguments else list(arguments)
    pairs = pairwise(own)
    return any(pair in (("-o", "json"), ("--output", "json")) for pair in pairs) or bool(
        {"-ojson", "--output=json"}.intersection(own)
    )


def _print_json(error: PercaleError) -> None:
    from percale.cli.json_output import format_errors

    print(format_errors(error))
