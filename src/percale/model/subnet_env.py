"""subnet.env: what docker and CNI plugins read about the node's pod network. Names and order are flannel's.

Written by `agent/network/subnet_file.py`; read by `percale mk-docker-opts` and `percale migrate`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_interface, ip_network
from typing import TypeVar

from msgspec import Struct

from percale.errors import BadConfig
from percale.model.addresses import IPNetwork
from percale.model.ip_family import Family

T = TypeVar("T")

FILE = "subnet.env"
_NAMES = {
    Family.IPV4: ("FLANNEL_NETWORK", "FLANNEL_SUBNET"),
    Family.IPV6: ("FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET"),
}


def subnet_env(networks: Iterable[IPNetwork], subnets: Iterable[IPNetwork], mtu: int, *, ip_masq: bool) -> str:
    """The file's text; a subnet is written as its gateway's address, `10.1.17.1/24`."""
    by_version = {subnet.version: subnet for subnet in subnets}
    lines = []
    for network in networks:
        of_network, of_subnet = _NAMES[Family(network.version)]
        subnet = by_version[network.version]
        gateway = ip_interface((subnet.network_address + 1, subnet.prefixlen))
        lines += [f"{of_network}={network}", f"{of_subnet}={gateway}"]
    return "\n".join((*lines, f"FLANNEL_MTU={mtu}", f"FLANNEL_IPMASQ={str(ip_masq).lower()}", ""))


class SubnetEnv(Struct, frozen=True):
    """The file's values; `subnets` are the node's by the networks that they are of."""

    subnets: Mapping[IPNetwork, IPNetwork]
    mtu: int
    ip_masq: bool


def parse_subnet_env(text: str, where: str) -> SubnetEnv:
    """Raises BadConfig."""
    given = read_variables(text, where)
    subnets = {}
    for of_network, of_subnet in _NAMES.values():
        if of_network in given or of_subnet in given:
            network = _value(ip_network, given, of_network, where)
            subnets[network] = _value(ip_interface, given, of_subnet, where).network
    if not subnets:
        raise BadConfig("no subnet in it", where=where, hint="it has FLANNEL_NETWORK and FLANNEL_SUBNET")
    mtu = _value(int, given, "FLANNEL_MTU", where)
    return SubnetEnv(subnets, mtu, given.get("FLANNEL_IPMASQ") == "true")


def _value(parse: Callable[[str], T], given: Mapping[str, str], name: str, where: str) -> T:
    try:
        return parse(given.get(name, ""))
    except ValueError as error:
        raise BadConfig(
            f'{name} is "{given.get(name, "")}"', where=where, hint="start flanneld again: it writes it"
        ) from error


def read_variables(text: str, where: str) -> dict[str, str]:
    """NAME=VALUE lines as a shell reads them. Raises BadConfig."""
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise BadConfig(f"not a line of a shell: {str(error).lower()}", where=f"{where}:{number}") from error
        for word in words:
            name, equals, value = word.partition("=")
            if not equals or not name.isidentifier():
                raise BadConfig("expected NAME=VALUE", where=f"{where}:{number}")
            found[name] = value
    return found
