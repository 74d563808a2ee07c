"""The BGP status of agents: this node's, or those of a lab. Used by the commands here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from percale.agent.status import BgpStatus, Status
from percale.cli.lab_option import given_lab
from percale.errors import BadInput
from percale.model.manifest.decoders import converted

F = TypeVar("F", bound=Callable[..., Any])


def agent_options(command: F) -> F:
    """Whose agents are asked, and the output."""
    command = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)(
        command
    )
    command = click.option("--lab", metavar="NAME", callback=given_lab, help="A lab: its nodes.")(command)
    command = click.option("--http", metavar="ADDR", help="Where the agent answers: HOST:PORT or unix:/PATH.")(command)
    command = click.option(
        "--config", metavar="FILE", type=Path, envvar="PERCALE_CONFIG", help="The agent's configuration file."
    )(command)
    return click.argument("node", required=False)(command)


def bgp_by_node(node: str | None, config: Path | None, http: str | None, lab: str | None) -> Mapping[str, BgpStatus]:
    """Of the nodes that are asked for. Raises PercaleError, as BadInput for another backend."""
    if lab is not None:
        from percale.cli.lab.requests import ask_lab

        answers = ask_lab(lab, "bgp", node=node)["nodes"]
        silent = [name for name, answer in answers.items() if answer is None]
        if silent:
            raise BadInput(f"the agent of {silent[0]} does not answer", hint=f"percale lab --lab {lab} status")
        found = [converted(answer, Status) for answer in answers.values()]
    else:
        from percale.agent.http import client

        found = [client.decode(client.fetch(client.address(config, os.environ, http)))]
        if node not in (None, found[0].node):
            raise BadInput(f"this is {found[0].node}, not {node}", hint=f"run it on {node}, or name a lab with --lab")
    return {status.node: _bgp(status) for status in found}


def _bgp(status: Status) -> BgpStatus:
    if status.bgp is None:
        backend = status.backend or "not known yet"
        raise BadInput(f"the backend of {status.node} is {backend}, not bgp", hint="see Backend.Type of net-conf.json")
    return status.bgp
