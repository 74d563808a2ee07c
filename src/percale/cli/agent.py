"""`percale agent`: the agent of one node; with --cleanup, the way back.

The flags are the settings of agent/config/settings.py by another name; docs/agent.md is the reference.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

_FLAGS = {
    "node": "node",
    "store": "store",
    "network_file": "networkFile",
    "backend": "backend",
    "established": "established",
    "iface": "iface",
    "iface_regex": "ifaceRegex",
    "iface_can_reach": "ifaceCanReach",
    "public_ip": "publicIP",
    "public_ipv6": "publicIPv6",
    "ip_masq": "ipMasq",
    "state_dir": "stateDir",
    "run_dir": "runDir",
    "http": "http",
    "log_format": "logFormat",
    "verbose": "verbose",
}
"""Each flag's setting."""


@click.command()
@click.option("--config", metavar="FILE", type=Path, envvar="PERCALE_CONFIG", help="YAML configuration file.")
@click.option("--node", metavar="NAME", help="This node's name (default: the host name).")
@click.option("--store", metavar="STORE", help="Where the cluster's objects are: files:/DIRECTORY.")
@click.option("--network-file", metavar="FILE", help="net-conf.json (default: the one in the store's ConfigMap).")
@click.option("--backend", type=click.Choice(["network", "none"]), help="none: policies over another plugin's network.")
@click.option("--established", type=click.Choice(["cut", "keep"]), help="Connections that a new policy forbids.")
@click.option("--iface", metavar="NAME|ADDRESS", multiple=True, help="Interface between nodes; the first that fits.")
@click.option("--iface-regex", metavar="REGEX", multiple=True, help="The same by a pattern of its name or address.")
@click.option("--iface-can-reach", metavar="ADDRESS", help="The interface by which this address is reached.")
@click.option("--public-ip", metavar="ADDRESS", help="IPv4 address at which peers reach this node.")
@click.option("--public-ipv6", metavar="ADDRESS", help="IPv6 address at which peers reach this node.")
@click.option("--ip-masq/--no-ip-masq", default=None, help="Source NAT for traffic that leaves the pod network.")
@click.option("--state-dir", metavar="DIR", help="What outlives a reboot (default: /var/lib/percale).")
@click.option("--run-dir", metavar="DIR", help="Pid file and sockets (default: /run/percale).")
@click.option("--http", metavar="ADDR", help="Health and metrics: HOST:PORT, unix:/PATH or none.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="For people or for machines.")
@click.option("-v", "--verbose", is_flag=True, default=None, help="Print each kernel change as a command line.")
@click.option("--cleanup", is_flag=True, help="Remove all that is ours on this node, give its subnet back, and end.")
def agent(config: Path | None, cleanup: bool, **flags: Any) -> int:
    """Run the agent of this node.

    Settings come from the configuration file, then PERCALE_… variables, then flags; the later wins.
    """
    from percale.agent.config import loader

    given = {_FLAGS[name]: value for name, value in flags.items() if value not in (None, ())}
    settings = loader.load(config, os.environ, given)
    if cleanup:
        from percale.agent.cleanup import clean_up

        for line in clean_up(settings):
            click.echo(line)
        return 0
    from percale.agent.main import run

    run(settings)
    return 0
