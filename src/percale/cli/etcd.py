"""`percale etcd`: writes the network's configuration into an etcd, shows its leases, reserves a subnet for a node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from ipaddress import ip_address, ip_network
from typing import TypeVar

import click
from msgspec import Struct

from percale.cli.json_output import format_json
from percale.cli.store_option import store_option, with_store
from percale.errors import AddressRefused, BadConfig, Conflict, StoreUnavailable
from percale.ipam.subnet_plan import first_overlap, fitting
from percale.model.configmap import ConfigMap
from percale.model.ip_family import Family
from percale.model.meta import ObjectMeta
from percale.model.netconf import NET_CONF, NetworkConfig, parse_network_config, read_net_conf
from percale.model.subnet_lease import (
    RESERVED,
    LeasedFamily,
    NodeSubnets,
    SubnetLease,
    SubnetLeaseSpec,
    lease_name,
)
from percale.store.etcd.flannel_format import NETWORK
from percale.store.protocol import ReadProblem, Snapshot, Store
from percale.text_columns import table

R = TypeVar("R")

_store_option = store_option("etcd:http[s]://HOST:PORT[,…][?prefix=/PATH&…]")


class Lease(Struct, frozen=True, kw_only=True):
    """`node` is the public address where only flannel has written the lease."""

    subnets: list[str]
    node: str
    publicIPs: list[str]
    backend: str
    reserved: bool


class EtcdDocument(Struct, frozen=True, kw_only=True):
    """`network` is the net-conf.json's text."""

    network: str | None
    leases: list[Lease]
    problems: list[str]


@click.group()
def etcd() -> None:
    """Write the network's configuration into an etcd, show its leases, reserve subnets."""


@etcd.command(short_help="Write the network's configuration.")
@_store_option
@click.option("--replace", is_flag=True, help="Exchange a configuration that is there. Agents read it when they start.")
@click.argument("file", metavar="NET-CONF.JSON")
def init(address: str, replace: bool, file: str) -> None:
    """Write a net-conf.json (- for standard input), checked, as the network's configuration."""
    text = read_net_conf(file)
    parse_network_config(text, file)
    new = ConfigMap(metadata=ObjectMeta(name=NETWORK.name, namespace=NETWORK.namespace), data={NET_CONF: text})

    async def write(store: Store) -> None:
        try:
            await store.put(new, expect=None if replace else "")
        except Conflict as error:
            raise Conflict("it has a configuration already", where="etcd", hint="--replace exchanges it") from error

    _with_store(address, write)
    click.echo("network configuration written")


@etcd.command(short_help="Show the configuration and who has which subnet.")
@_store_option
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def show(address: str, output: str) -> None:
    """Show the network's configuration, who has which subnet, and keys that cannot be read."""
    found = _with_store(address, _contents)
    if output == "json":
        click.echo(format_json(found))
        return
    click.echo(
        f"network: {' '.join(found.network.split()) if found.network is not None else 'none; see percale etcd init'}\n"
    )
    rows = [
        (
            " ".join(each.subnets),
            each.node,
            " ".join(each.publicIPs),
            each.backend or "-",
            "yes" if each.reserved else "",
        )
        for each in found.leases
    ]
    if rows:
        click.echo(table([("SUBNETS", "NODE", "PUBLIC IPS", "BACKEND", "RESERVED"), *rows]))
    else:
        click.echo("no leases")
    for problem in found.problems:
        click.echo(f"problem: {problem}")


@etcd.command(short_help="Reserve a subnet for a node.")
@_store_option
@click.option(
    "--public-ip",
    "public_ips",
    metavar="ADDRESS",
    multiple=True,
    required=True,
    help="The node's, one a family.",
)
@click.option("--node", metavar="NAME", help="The node's name; without it, the node with this address has the subnet.")
@click.argument("subnets", metavar="SUBNET", nargs=-1, required=True)
def reserve(address: str, public_ips: tuple[str, ...], node: str | None, subnets: tuple[str, ...]) -> None:
    """Reserve a subnet, one for each family of the network, for a node: it is nobody else's, and never expires."""
    try:
        wanted = NodeSubnets(*sorted(map(ip_network, subnets), key=lambda each: each.version))
        addresses = {int(each.version): each for each in map(ip_address, public_ips)}
    except ValueError as error:
        raise BadConfig(str(error), hint="write a subnet as 10.244.7.0/24, an address as 192.0.2.7") from error
    if len({each.version for each in wanted}) < len(subnets) or len(addresses) < len(public_ips):
        raise BadConfig("two of one family", hint="give one subnet and one address for each")
    nets = {int(each.version): each for each in wanted}
    families = [LeasedFamily(family, nets.get(family), addresses.get(family), None) for family in Family]
    spec = SubnetLeaseSpec.of(node or public_ips[0], "", families)
    metadata = ObjectMeta(name=lease_name(wanted), annotations={RESERVED: "true"})

    async def write(store: Store) -> None:
        known = await _contents(store)
        if known.network is not None:
            _check_fits(parse_network_config(known.network, "etcd, config"), wanted)
        for lease in known.leases:
            if pair := first_overlap(wanted, map(ip_network, lease.subnets)):
                raise AddressRefused(f"{pair[0]} overlaps {pair[1]} of node {lease.node}", hint="choose another subnet")
        await store.put(SubnetLease(metadata=metadata, spec=spec), expect="")

    _with_store(address, write)
    click.echo(f"{wanted} reserved for {spec.node}")


def _check_fits(network: NetworkConfig, wanted: NodeSubnets) -> None:
    if fitting(network, wanted) != wanted:
        networks = " and ".join(map(str, network.networks))
        raise AddressRefused(
            f"{wanted} is no subnet for a node in {networks}", hint="see SubnetLen, SubnetMin and SubnetMax"
        )


async def _contents(store: Store) -> EtcdDocument:
    problems = []
    async with aclosing(store.watch(ConfigMap, SubnetLease)) as events:  # type: ignore[type-var]
        async for event in events:
            if isinstance(event, ReadProblem):
                if isinstance(event.error, StoreUnavailable):
                    raise event.error
                problems.append(f"{event.source}: {event.error}")
            if isinstance(event, Snapshot):
                break
    assert isinstance(event, Snapshot)
    network = next((each.data[NET_CONF] for each in event.of(ConfigMap) if each.key == NETWORK), None)
    leases = [
        Lease(
            subnets=list(map(str, lease.spec.subnets)),
            node=lease.spec.node,
            publicIPs=list(map(str, lease.spec.public_ips)),
            backend=lease.spec.backendType,
            reserved=RESERVED in lease.metadata.annotations,
        )
        for lease in event.of(SubnetLease)
    ]
    return EtcdDocument(network=network, leases=leases, problems=problems)


def _with_store(address: str, action: Callable[[Store], Awaitable[R]]) -> R:
    if not address.startswith("etcd:"):
        raise BadConfig(
            f'"{address}" is no etcd', where="store", hint="write etcd:http[s]://HOST:PORT[,…][?prefix=/PATH&…]"
        )

    return with_store(address, action)
