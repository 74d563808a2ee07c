"""flannel's net-conf.json as a checked value: the pod networks with their node subnets, and the backend.

The agent reads the text (file, inline, ConfigMap) and calls `parse_network_config`; ipam and backend use the value. All
checks apply in every mode. Keys match in any case, as flannel's do; an unknown key is an error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from percale.bounded_file import read_file, read_stream
from percale.errors import BadNetworkConfig
from percale.model.addresses import IPAddress, IPNetwork
from percale.model.backend_options import NOT_OFFERED, OPTIONS, BackendOptions
from percale.model.ip_family import Family
from percale.model.manifest.json_text import read_json_text
from percale.model.wireguard_key import decode_key
from percale.secret import Secret
from percale.suggestion import nearest

DEFAULT_BACKEND = "vxlan"
NET_CONF = "net-conf.json"
"""Its key in a ConfigMap."""


class SubnetRange(Struct, frozen=True):
    """One family's pod network and its node subnets: `first` to `last`, each of prefix length `length`."""

    network: IPNetwork
    length: int
    first: IPNetwork
    last: IPNetwork

    @property
    def count(self) -> int:
        """The number of node subnets."""
        step = self.first.num_addresses
        return (int(self.last.network_address) - int(self.first.network_address)) // step + 1


class PreviousBackend(Struct, frozen=True):
    """From which the cluster changes to the other: nodes have both meanwhile."""

    type: str
    options: BackendOptions


class NetworkConfig(Struct, frozen=True):
    """A valid net-conf.json; at least one family is configured, IPv4 first."""

    families: Mapping[Family, SubnetRange]
    backend_type: str
    options: BackendOptions
    previous: PreviousBackend | None = None

    @property
    def tunnel_ports(self) -> tuple[int, ...]:
        """UDP ports at which nodes take packets for pods."""
        return (*self.options.tunnel_ports, *(self.previous.options.tunnel_ports if self.previous is not None else ()))

    @property
    def networks(self) -> tuple[IPNetwork, ...]:
        """The pod networks, IPv4 first."""
        return tuple(subnets.network for subnets in self.families.values())


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="pascal"):
    """The top level, checked by type only; the field names are flannel's."""

    network: str | None = None
    ipv6_network: str | None = msgspec.field(default=None, name="IPv6Network")
    enable_ipv4: bool = msgspec.field(default=True, name="EnableIPv4")
    enable_ipv6: bool = msgspec.field(default=False, name="EnableIPv6")
    enable_nftables: bool = msgspec.field(default=False, name="EnableNFTables")
    """Accepted without effect: our rules are always nftables."""
    subnet_len: int | None = None
    subnet_min: str | None = None
    subnet_max: str | None = None
    ipv6_subnet_len: int | None = msgspec.field(default=None, name="IPv6SubnetLen")
    ipv6_subnet_min: str | None = msgspec.field(default=None, name="IPv6SubnetMin")
    ipv6_subnet_max: str | None = msgspec.field(default=None, name="IPv6SubnetMax")
    backend: dict[str, Any] = {}
    previous_backend: dict[str, Any] | None = None
    """Percale's own key."""

    def by_family(self) -> dict[Family, _Given]:
        return {
            Family.IPV4: _Given(self.enable_ipv4, self.network, self.subnet_len, self.subnet_min, self.subnet_max),
            Family.IPV6: _Given(
                self.enable_ipv6,
                self.ipv6_network,
                self.ipv6_subnet_len,
                self.ipv6_subnet_min,
                self.ipv6_subnet_max,
            ),
        }


class _Given(NamedTuple):
    """The fields of one family."""

    enabled: bool
    network: str | None
    length: int | None
    low: str | None
    high: str | None


class _Limits(NamedTuple):
    """The differences between the families: key prefix, limits and the default node subnet."""

    prefix: str
    longest: int
    """The longest SubnetLen: a tunnel device and a bridge need an address each."""
    smallest_network: int
    usual: int
    """The SubnetLen of networks that hold at least four of them."""
    example: str


_LIMITS = {
    Family.IPV4: _Limits("", longest=30, smallest_network=28, usual=24, example="10.244.0.0/16"),
    Family.IPV6: _Limits("IPv6", longest=126, smallest_network=124, usual=64, example="fd00:10:244::/48"),
}


def read_net_conf(file: str) -> str:
    """The text of a net-conf.json; `-` is standard input. Raises BadNetworkConfig."""
    try:
        return (read_stream(sys.stdin.buffer, file) if file == "-" else read_file(file)).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise BadNetworkConfig(f"cannot be read: {reason}", where=file) from error


def parse_network_config(text: str, source: str = "net-conf.json") -> NetworkConfig:
    """The checked value of a net-conf.json; `source` names it in errors. Raises BadNetworkConfig."""
    try:
        document = read_json_text(text, lambda pairs: _distinct(pairs, source))
    except json.JSONDecodeError as error:
        raise BadNetworkConfig(f"not JSON: {error.msg}", where=f"{source}:{error.lineno}") from error
    if not isinstance(document, dict):
        raise BadNetworkConfig('expected an object such as {"Network": "10.244.0.0/16"}', where=source)
    return network_config(document, source)


def network_config(document: Mapping[str, Any], source: str = "net-conf.json") -> NetworkConfig:
    """The same for a document that is decoded already (the agent's inline `network`). Raises BadNetworkConfig."""
    raw = _typed(_Document, document, "", source)
    backend_type, options = _backend(raw.backend, "Backend", source)
    if not (raw.enable_ipv4 or raw.enable_ipv6):
        raise BadNetworkConfig("EnableIPv4 and EnableIPv6 are both false", where=source, hint="enable one of them")
    families = {
        family: _subnet_range(family, given, source) for family, given in raw.by_family().items() if given.enabled
    }
    _check_families(backend_type, options, families, "Backend", source)
    return NetworkConfig(families, backend_type, options, _previous(raw, backend_type, options, families, source))


def _check_families(
    backend_type: str, options: BackendOptions, families: Collection[Family], key: str, source: str
) -> None:
    if beyond := [family for family in families if family not in options.families]:
        raise BadNetworkConfig(
            f'{key}.Type: "{backend_type}" does not carry IPv{beyond[0]}',
            where=source,
            hint="leave out EnableIPv6, or use vxlan",
        )
    if (problem := options.problem(families)) is not None:
        raise BadNetworkConfig(f"{key}.{problem}", where=source)


def _previous(
    raw: _Document, backend_type: str, options: BackendOptions, families: Collection[Family], source: str
) -> PreviousBackend | None:
    if raw.previous_backend is None:
        return None
    found = PreviousBackend(*_backend(raw.previous_backend, "PreviousBackend", source))
    _check_families(found.type, found.options, families, "PreviousBackend", source)
    if found.type == backend_type:
        raise BadNetworkConfig(
            f"PreviousBackend.Type: it is Backend.Type, {backend_type}, too",
            where=source,
            hint="leave out PreviousBackend",
        )
    for name, each in ((backend_type, options), (found.type, found.options)):
        if not each.kernel_alone:
            raise BadNetworkConfig(
                f"PreviousBackend: nodes have no {name} beside another backend",
                where=source,
                hint="leave it out: nodes are apart until the agents of both are restarted",
            )
    return found


def _distinct(pairs: list[tuple[str, Any]], source: str) -> dict[str, Any]:
    """An object without keys that differ only in case; JSON itself would silently take the last one."""
    seen: dict[str, str] = {}
    for key, _ in pairs:
        if (first := seen.get(key.lower())) is not None:
            raise BadNetworkConfig(f'"{first}" and "{key}" are the same key', where=source, hint="keep one of them")
        seen[key.lower()] = key
    return dict(pairs)


S = TypeVar("S", bound=msgspec.Struct)


def _typed(schema: type[S], document: Mapping[str, Any], path: str, source: str) -> S:
    """The document as a struct: keys normalized, null dropped, types and ranges checked."""
    names = {name.lower(): name for name in schema.__struct_encode_fields__}
    values: dict[str, Any] = {}
    _distinct([(key, None) for key in document], source)
    for key, value in document.items():
        name = names.get(key.lower())
        if name is None:
            raise BadNetworkConfig(
                f'unknown key "{path}{key}"', where=source, hint=_nearest(key, tuple(names.values()))
            )
        if value is not None:
            values[name] = value
    try:
        return msgspec.convert(values, schema, dec_hook=_key)
    except msgspec.ValidationError as error:
        what, _, field = str(error).replace(" | null", "").replace("`", "").partition(" - at $.")
        where = f"{path}{field}".rstrip(".")
        raise BadNetworkConfig(f"{where}: {what[0].lower()}{what[1:]}", where=source) from error


def _key(_type: type, value: Any) -> Secret:
    """The one type that JSON does not have. Raises TypeError, ValueError, without the value."""
    if not isinstance(value, str):
        raise TypeError("expected a string")
    return Secret(decode_key(value))


def _nearest(word: str, known: tuple[str, ...]) -> str:
    if (found := nearest(word, known)) is not None:
        return f'did you mean "{found}"?'
    return f"known are {', '.join(known)}" if known else "it takes no options"


def _backend(document: Mapping[str, Any], key: str, source: str) -> tuple[str, BackendOptions]:
    """The backend's lower-cased name and its options."""
    options = {key: value for key, value in document.items() if key.lower() != "type"}
    named = [value for key, value in document.items() if key.lower() == "type" and value is not None]
    if any(not isinstance(value, str) for value in named):
        raise BadNetworkConfig(f"{key}.Type: expected a string", where=source)
    name = named[0].lower() if named else DEFAULT_BACKEND
    if name in NOT_OFFERED:
        what, hint = NOT_OFFERED[name]
        raise BadNetworkConfig(f"{key}.Type: {what}", where=source, hint=hint)
    if name not in OPTIONS:
        raise BadNetworkConfig(
            f'{key}.Type: unknown backend "{name}"', where=source, hint=_nearest(name, tuple(OPTIONS))
        )
    return name, _typed(OPTIONS[name], options, f"{key}.", source)


def _subnet_range(family: Family, given: _Given, source: str) -> SubnetRange:
    """One family's network and subnets, with flannel's defaults and limits."""
    prefix = _LIMITS[family].prefix
    pod_network = _network(family, given.network, source)
    length = _subnet_length(_LIMITS[family], pod_network, given.length, source)
    step = 1 << (pod_network.max_prefixlen - length)

    def subnet(key: str, text: str | None, default: int) -> IPNetwork:
        if text is None:
            return family.network_type((default, length))
        address = _address(family, f"{prefix}{key}", text, source)
        if address not in pod_network:
            raise BadNetworkConfig(f"{prefix}{key}: {address} is not in {prefix}Network {pod_network}", where=source)
        if int(address) % step:
            below = family.network_type((int(address) - int(address) % step, length)).network_address
            raise BadNetworkConfig(
                f"{prefix}{key}: {address} is not on a /{length} boundary", where=source, hint=f"nearest below: {below}"
            )
        return family.network_type((int(address), length))

    start = int(pod_network.network_address)
    first = subnet("SubnetMin", given.low, start + step)
    last = subnet("SubnetMax", given.high, start + pod_network.num_addresses - step)
    if int(last.network_address) < int(first.network_address):
        raise BadNetworkConfig(
            f"{prefix}SubnetMin {first.network_address} is above {prefix}SubnetMax {last.network_address}", where=source
        )
    return SubnetRange(pod_network, length, first, last)


def _network(family: Family, text: str | None, source: str) -> IPNetwork:
    limits = _LIMITS[family]
    key = f"{limits.prefix}Network"
    if text is None:
        enabled = "EnableIPv6 is true" if family is Family.IPV6 else "EnableIPv4 is not false"
        raise BadNetworkConfig(f"{key} is missing, and {enabled}", where=source, hint=f'for example "{limits.example}"')
    _, slash, bits = text.partition("/")
    try:
        network = ip_network(text if slash and bits.isdecimal() else "", strict=False)  # no bare address, no netmask
    except ValueError as error:
        raise BadNetworkConfig(
            f'{key}: "{text}" is not a network', where=source, hint=f'write "{limits.example}"'
        ) from error
    if network.version != family:
        raise BadNetworkConfig(
            f"{key}: {network} is IPv{network.version}",
            where=source,
            hint=f'write a network such as "{limits.example}"',
        )
    return network


def _address(family: Family, key: str, text: str, source: str) -> IPAddress:
    try:
        address = ip_address(text)
    except ValueError as error:
        raise BadNetworkConfig(f'{key}: "{text}" is not an address', where=source) from error
    if address.version != family:
        raise BadNetworkConfig(f"{key}: {address} is IPv{address.version}", where=source)
    return address


def _subnet_length(limits: _Limits, network: IPNetwork, length: int | None, source: str) -> int:
    key = f"{limits.prefix}SubnetLen"
    if network.prefixlen > limits.smallest_network:
        raise BadNetworkConfig(
            f"{limits.prefix}Network {network} is too small",
            where=source,
            hint=f"the smallest useful network is a /{limits.smallest_network}",
        )
    if not length:  # flannel takes 0 for "not given"
        return limits.usual if network.prefixlen <= limits.usual - 2 else network.prefixlen + 2
    if length > limits.longest or length < 0:
        raise BadNetworkConfig(f"{key}: {length} is not a prefix length up to {limits.longest}", where=source)
    if length < network.prefixlen + 2:
        raise BadNetworkConfig(
            f"{key}: {network} holds fewer than four subnets of /{length}",
            where=source,
            hint=f"{key} must be {network.prefixlen + 2} to {limits.longest}",
        )
    return length
