"""`percale mk-docker-opts`: Docker's options from subnet.env, with the flags and the output of flannel's mk-docker-opts.sh."""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import IPv4Interface
from pathlib import Path

import click

from percale.atomic_file import replace_file
from percale.bounded_file import read_file
from percale.errors import AddressRefused, BadConfig, KernelError, StateError
from percale.kernel.rtnl.driver import opened
from percale.model.addresses import IPNetwork
from percale.model.subnet_env import read_variables

_OPTION = "DOCKER_OPT_"
_NOT_MASQUERADED = {"true": "false", "false": "true"}
"""Who masquerades, if flannel's side does: one of the two."""


@click.command("mk-docker-opts")
@click.option("-f", "env_file", metavar="FILE", default="/run/flannel/subnet.env", show_default=True)
@click.option(
    "-d", "output", metavar="FILE", default="/run/docker_opts.env", show_default=True, help="What Docker's unit reads."
)
@click.option("-i", "single", is_flag=True, help="A variable for each option.")
@click.option("-c", "combined", is_flag=True, help="One variable with all of them. Without -i and -c: both.")
@click.option("-m", "without_masq", is_flag=True, help="Leave --ip-masq out (Dockers before 1.9).")
@click.option("-k", "key", metavar="NAME", default="DOCKER_OPTS", show_default=True, help="The one variable's name.")
def mk_docker_opts(*, env_file: str, output: str, single: bool, combined: bool, without_masq: bool, key: str) -> None:
    """Write Docker's options for this node's subnet, as flannel's script of this name does."""
    if not key.isidentifier():
        raise BadConfig(f'"{key}" is no name of a variable', where="-k")
    variables = _read(env_file)
    subnet = _subnet(variables, env_file)
    environment = {**os.environ, **variables}
    options = {name: value for name, value in environment.items() if name.startswith(_OPTION)}
    options |= _options(variables, env_file, masq=not without_masq)
    text = _text(options, environment.get(key, ""), key, single=single or not combined, combined=combined or not single)
    if subnet is not None:
        _check_unrouted(subnet)
    try:
        replace_file(Path(output), text.encode(), mode=0o644)
    except OSError as error:
        raise StateError(f"cannot be written: {error.strerror}", where=output) from error


def _read(path: str) -> dict[str, str]:
    try:
        return read_variables(read_file(path).decode(), path)
    except FileNotFoundError as error:
        hint = "start the agent first: it writes this file once it has a subnet"
        raise StateError("no such file", where=path, hint=hint) from error
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"cannot be read: {getattr(error, 'strerror', 'not UTF-8 text')}", where=path) from error


def _subnet(variables: Mapping[str, str], where: str) -> IPNetwork | None:
    text = variables.get("FLANNEL_SUBNET")
    if not text:
        return None
    try:
        return IPv4Interface(text).network
    except ValueError as error:
        raise BadConfig(f'FLANNEL_SUBNET is "{text}"', where=where, hint="it is an address as 10.244.1.1/24") from error


def _options(variables: Mapping[str, str], where: str, *, masq: bool) -> dict[str, str]:
    """In the order of their names, which is that of the output."""
    found = {}
    if subnet := variables.get("FLANNEL_SUBNET"):
        found[f"{_OPTION}BIP"] = f"--bip={subnet}"
    if masq and (ours := variables.get("FLANNEL_IPMASQ")):
        if ours not in _NOT_MASQUERADED:
            raise BadConfig(f'FLANNEL_IPMASQ is "{ours}"', where=where, hint="it is true or false")
        found[f"{_OPTION}IPMASQ"] = f"--ip-masq={_NOT_MASQUERADED[ours]}"
    if mtu := variables.get("FLANNEL_MTU"):
        found[f"{_OPTION}MTU"] = f"--mtu={mtu}"
    return found


def _text(options: Mapping[str, str], earlier: str, key: str, *, single: bool, combined: bool) -> str:
    """`earlier` are options that the variable has in the environment: they stay."""
    lines = [f'{name}="{value}"\n' for name, value in sorted(options.items())] if single else []
    if combined:
        words = [f"{earlier} "] if earlier else [""]
        lines.append(f'{key}="{" ".join((*words, *(options[name] for name in sorted(options))))}"\n')
    return "".join(lines)


def _check_unrouted(subnet: IPNetwork) -> None:
    """A route to the own subnet over a gateway would lead answers away. Raises AddressRefused, KernelError."""
    try:
        with opened() as driver:
            routes = driver.underlay().routes
    except OSError as error:
        raise KernelError.from_os(error, where="reading the routes") from error
    for route in routes:
        if route.dst == subnet and route.via is not None:
            raise AddressRefused(
                f"there is a route to this node's subnet: {route.dst} via {route.via} dev {route.dev}",
                hint=f"type: ip route delete {route.dst} via {route.via}",
            )
