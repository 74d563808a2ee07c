"""`percale preflight`: whether this host can run an agent, before one is installed; for each fault what to type."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from percale.cli.checked_host import checked, print_advice, print_table
from percale.cli.options import output_option
from percale.errors import PercaleError

if TYPE_CHECKING:
    from percale.checks.host import Host

_NO_STORE = "files:/nonexistent"
"""None is opened; its server's clock is looked at, where it has one."""


@click.command()
@click.option(
    "--config", metavar="FILE", type=Path, envvar="PERCALE_CONFIG", help="The agent's configuration, if there is one."
)
@click.option("--store", metavar="STORE", help="The agent's: only its server's clock is compared.")
@click.option("--network-file", metavar="FILE", help="net-conf.json (default: vxlan with its defaults).")
@click.option("--backend", type=click.Choice(["network", "none"]), help="none: policies over another plugin's network.")
@click.option("--iface", metavar="NAME|ADDRESS", multiple=True, help="Interface between nodes, as for the agent.")
@click.option("--lab", "with_lab", is_flag=True, help="Also what a lab needs, for the user who asks.")
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@output_option
def preflight(
    *,
    config: Path | None,
    store: str | None,
    network_file: str | None,
    backend: str | None,
    iface: tuple[str, ...],
    with_lab: bool,
    strict: bool,
    output: str | None,
) -> int:
    """Check this host before an agent is installed, as root: kernel, nftables, settings, firewalls, others, clock.

    Features are tried in network namespaces that are thrown away; nothing on the host is changed. Settings come as for
    the agent, from --config, PERCALE_… variables and flags. Exits with 1 on errors.
    """
    from percale.checks.check import findings
    from percale.checks.registry import LAB, NODE
    from percale.cli.json_output import format_json

    flags = {
        "networkFile": network_file and str(Path(network_file).absolute()),
        "backend": backend,
        "iface": iface,
        "store": store,
    }
    host = _host(config, {name: value for name, value in flags.items() if value not in (None, ())})
    found = list(findings((*NODE, *(LAB if with_lab else ())), host))
    document = checked(found)
    if output == "json":
        click.echo(format_json(document))
    else:
        print_table(found)
        print_advice(found)
    return 1 if document.error or (strict and document.warning) else 0


def _host(config: Path | None, flags: dict[str, object]) -> Host:
    from percale.agent.config import loader
    from percale.checks.host import Host, given_network

    if os.geteuid() != 0:
        raise PercaleError("preflight tries the kernel's features, which needs root", hint="sudo percale preflight")
    settings = loader.load(config, {"PERCALE_STORE": _NO_STORE, **os.environ}, flags)
    return Host(settings, given_network(settings))
