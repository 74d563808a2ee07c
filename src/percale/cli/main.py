"""`percale`: the entry point. Each command lives in a file of its own, which is imported only when that command is typed.

Every error ends here: what a user can do something about is one line each on stderr, without a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import click

from percale import __version__
from percale.cli.lazy import LazyGroup
from percale.errors import BadManifests, PercaleError
from percale.printable import printable_output

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "agent": "Run the agent of this node: pod addresses, routes, tunnels.",
        "lab": "A cluster on this machine: nodes and pods are network namespaces, agents and packets are real.",
        "matrix": "Who reaches whom on which ports, and what changed manifests would open and close.",
        "policy": "Check NetworkPolicies: errors as the API server's, and what people get wrong.",
        "service": "What Services mean on a node: addresses, endpoints, where a packet goes; and manifests checked.",
        "status": "Nodes, subnets, backends, peers, pods and the last error, as an agent sees them.",
        "why": "May FROM reach TO, and which rule says so; the nearest rule when not.",
    }
)
"""Each command's help line, kept here so that `percale --help` imports none of them."""


@click.group(
    cls=LazyGroup,
    helps=COMMANDS,
    modules="percale.cli.{}",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="percale", message="%(prog)s %(version)s")
def percale() -> None:
    """A whole Kubernetes network in Python: pod addresses and routes, policies, services, and why."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; exits with 0, 1 (an error), 2 (wrong usage), 130 (interrupted) or the command's own code."""
    with printable_output():
        sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = percale.main(args=arguments, prog_name="percale", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its exit
        return 1
    except Exception as error:
        return _complain(error)
    return code if isinstance(code, int) else 0


def _complain(error: Exception) -> int:
    text = str(error)
    if not isinstance(error, PercaleError):
        text = f"internal error: {type(error).__name__}: {text}; please report it, with what PERCALE_DEBUG=1 shows"
    if os.environ.get("PERCALE_DEBUG"):
        import traceback

        traceback.print_exception(error)
    for line in error.lines if isinstance(error, BadManifests) else (text,):
        print(f"percale: {' '.join(line.split())}", file=sys.stderr)
    return error.exit_code if isinstance(error, PercaleError) else 1
