"""Loads the agent's configuration: a YAML file, PERCALE_… environment variables, flags; later ones take precedence.

    file ─▶ settings ┐
    environ ─▶ settings ┼─▶ each validated with its location ─▶ merged ─▶ AgentConfig
    flags ─▶ settings ┘

Callers: cli/agent.py, http/client.py, cli/, and the lab (for its own agents).
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Struct

from percale.agent.config.settings import AgentConfig, CniConfig, ServicesConfig
from percale.bounded_file import read_file
from percale.errors import BadConfig, BadManifest
from percale.model.backend_options import guarded_ports
from percale.model.manifest.json_text import read_json_text
from percale.model.manifest.syntax_tree import Node, meaning, plain_value
from percale.model.netconf import NetworkConfig
from percale.service.node_context import ServiceConfig
from percale.suggestion import did_you_mean

PREFIX = "PERCALE_"
_NOT_SETTINGS = frozenset({"PERCALE_DEBUG", "PERCALE_CONFIG", "PERCALE_CACHE", "PERCALE_LAB", "PERCALE_PLAN"})
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT(_\d+_\w+)?$")
"""Service links: environment variables that Kubernetes sets for a Service named percale-something; ignored."""


class Setting(Struct, frozen=True):
    """One given value: its name (`cni.socket`), and where it is written."""

    name: str
    value: Any
    where: str


_LONGEST_SHOWN = 100
"""Characters of a wrong value in an error."""
_NETWORKS = ("network", "networkFile")
"""Mutually exclusive."""
_GROUPS: Mapping[str, type[msgspec.Struct]] = {"cni": CniConfig, "services": ServicesConfig}
"""Nested settings."""


def _leaves() -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(AgentConfig):
        if field.name in _GROUPS:
            inside = msgspec.structs.fields(_GROUPS[field.name])
            yield from ((f"{field.name}.{inner.name}", inner.type) for inner in inside)
        else:
            yield field.name, field.type


TYPES: Mapping[str, Any] = dict(_leaves())
"""Every setting's dotted name and its type."""


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> AgentConfig:
    """The configuration; `flags` are by setting name, those not given left out. Raises BadConfig."""
    merged: dict[str, Any] = {"node": socket.gethostname()}
    groups: dict[str, dict[str, Any]] = {group: {} for group in _GROUPS}
    for given in (from_file(file) if file is not None else [], from_environment(environ), from_flags(flags)):
        networks = [each for each in given if each.name in _NETWORKS and each.value is not None]
        if len(networks) > 1:
            raise BadConfig("both network and networkFile are given", where=networks[1].where, hint="keep one of them")
        if networks:  # overrides a weaker source's, by either name
            merged = {name: value for name, value in merged.items() if name not in _NETWORKS}
        for setting in given:
            value = _checked(setting)
            group, _, name = setting.name.rpartition(".")
            (groups[group] if group else merged)[name] = value
    if "store" not in merged:
        raise BadConfig(
            "store is not set",
            hint="write `store: kubernetes:` or `store: files:/DIRECTORY` into the configuration, or pass --store",
        )
    return msgspec.convert({**merged, **groups}, AgentConfig)


def environment_name(setting: str) -> str:
    """`ipMasq` is PERCALE_IP_MASQ, `cni.socket` is PERCALE_CNI_SOCKET."""
    return PREFIX + _snake(setting).upper()


def flag_name(setting: str) -> str:
    """`publicIPv6` is --public-ipv6."""
    return "--" + _snake(setting).replace("_", "-").lower()


def _snake(setting: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", setting).replace(".", "_")


def from_file(path: Path) -> list[Setting]:
    """The settings of a YAML file, each with its line."""
    from percale.model.manifest.yaml_reader import read_yaml  # noqa: PLC0415 -- a DaemonSet has variables alone

    try:
        text = read_file(path).decode("utf-8-sig")
        roots = list(read_yaml(text, str(path)))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise BadConfig(f"cannot be read: {reason}", where=str(path)) from error
    except BadManifest as error:
        raise BadConfig(error.what, where=error.where, hint=error.hint) from error
    if len(roots) > 1:
        raise BadConfig("a second document", where=_line(path, roots[1]), hint="write all settings into the first")
    return [setting for root in roots for setting in _mapping(root, "", path, len(text))]


def _mapping(node: Node, prefix: str, path: Path, size: int) -> Iterator[Setting]:
    if node.shape != "mapping":
        what = f"{prefix.rstrip('.')}: " if prefix else ""
        raise BadConfig(f"{what}expected settings such as `store: files:/DIRECTORY`", where=_line(path, node))
    for key, value in node.entries:
        name, where = f"{prefix}{key.text}", _line(path, key)
        if name in _GROUPS:
            yield from _mapping(value, f"{name}.", path, size)
            continue
        if name not in TYPES:
            raise BadConfig(f'unknown setting "{name}"', where=where, hint=_nearest(name, TYPES))
        try:
            yield Setting(name, plain_value(value, size, where), f"{where}: {name}")
        except BadManifest as error:
            raise BadConfig(error.what, where=where, hint=error.hint) from error


def _line(path: Path, node: Node) -> str:
    return f"{path}:{node.line}"


def from_environment(environ: Mapping[str, str]) -> list[Setting]:
    """The PERCALE_… variables; empty ones count as unset. `PERCALE_IPMASQ` is accepted for `PERCALE_IP_MASQ`."""
    known = {environment_name(name): name for name in TYPES}
    known |= {PREFIX + name.replace(".", "_").upper(): name for name in TYPES}
    found = []
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX) or not text or variable in _NOT_SETTINGS:
            continue
        if variable not in known:
            if _SERVICE_LINK.search(variable):
                continue
            raise BadConfig(
                f'unknown variable "{variable}"',
                where="environment",
                hint=_nearest(variable, map(environment_name, TYPES)),
            )
        name, where = known[variable], f"environment {variable}"
        found.append(Setting(name, _from_text(text, TYPES[name], where), where))
    return found


def from_flags(flags: Mapping[str, Any]) -> list[Setting]:
    """Flags have their types already, except `none`."""
    return [
        Setting(name, None if value == "none" and _may_be_none(TYPES[name]) else value, flag_name(name))
        for name, value in flags.items()
    ]


def _from_text(text: str, kind: Any, where: str) -> Any:
    """Parse a variable by the setting's type: lists are comma-separated, `none` is None."""
    if text == "none" and _may_be_none(kind):
        return None
    words = {word for option in get_args(kind) if get_origin(option) is Literal for word in get_args(option)}
    if text not in words and any(get_origin(option) is tuple for option in (kind, *get_args(kind))):
        return [part.strip() for part in text.split(",")]
    if kind is bool:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(text.lower(), text)
    if float in get_args(kind):
        return meaning(text)
    if _is_object(kind):
        try:
            return read_json_text(text)
        except json.JSONDecodeError as error:
            raise BadConfig(f"not JSON: {error.msg}", where=where) from error
    return text


def _may_be_none(kind: Any) -> bool:
    return type(None) in get_args(kind)


def _is_object(kind: Any) -> bool:
    return any(get_origin(option) is dict for option in get_args(kind))


def _checked(setting: Setting) -> Any:
    """The value converted to its type. Raises BadConfig with its location."""
    try:
        value = msgspec.convert(setting.value, TYPES[setting.name])
        _CHECKS.get(setting.name, str)(value)
    except (ValueError, re.error) as error:  # msgspec's is a ValueError too
        reason = f" ({error})" if isinstance(error, re.error) else ""
        given = json.dumps(setting.value, default=str)
        given = given if len(given) <= _LONGEST_SHOWN else f"{given[: _LONGEST_SHOWN - 1]}…"
        raise BadConfig(f"expected {expected(setting.name)}, not {given}{reason}", where=setting.where) from error
    return value


def _patterns(values: tuple[str, ...]) -> None:
    for value in values:
        try:
            re.compile(value)
        except (RecursionError, OverflowError) as error:
            raise ValueError(value) from error


def _listen(value: str | None) -> None:
    if value is not None and not value.startswith("unix:") and int(value.rpartition(":")[2]) > 0xFFFF:
        raise ValueError(value)


_CHECKS: Mapping[str, Any] = {
    "http": _listen,
    "services.healthz": _listen,
    "services.metrics": _listen,
    "ifaceCanReach": lambda value: value is None or ip_address(value),
    "publicIP": lambda value: value is None or IPv4Address(value),
    "publicIPv6": lambda value: value is None or IPv6Address(value),
    "ifaceRegex": _patterns,
}

_EXPECTED = {
    "network": "a net-conf.json object",
    "iface": "a list of interface names or addresses",
    "ifaceRegex": "a list of regular expressions",
    "ifaceCanReach": "an address",
    "publicIP": "an IPv4 address",
    "publicIPv6": "an IPv6 address",
    "services.externalIPs": "any, none, or a list of networks, as 203.0.113.0/24",
}


def expected(setting: str) -> str:
    """A description of valid values, for errors and the reference."""
    if setting in _EXPECTED:
        return _EXPECTED[setting]
    kind = TYPES[setting]
    if kind is bool:
        return "true or false"
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if isinstance(kind, type(None) | type) or not get_args(kind):
        return "a text"
    options: Iterable[Any] = (kind, *get_args(kind))
    for option in options:
        for meta in getattr(option, "__metadata__", ()):
            return str(meta.description)
    return "a text"


def _nearest(word: str, known: Iterable[str]) -> str:
    return did_you_mean(word, known, cutoff=0.5) or "docs/agent.md lists what there is"


# Derived values


def listen_addresses(config: AgentConfig) -> dict[str, tuple[str, int]]:
    """Where the agent itself listens by TCP, by setting; "" is every address."""
    asked = {"http": config.http}
    if config.services.enabled:
        asked |= {"services.healthz": config.services.healthz, "services.metrics": config.services.metrics}
    found = {}
    for name, text in asked.items():
        if text and not text.startswith("unix:"):
            address, _, port = text.rpartition(":")
            found[name] = (address.strip("[]").replace("*", ""), int(port))
    return found


def listen_ports(config: AgentConfig) -> dict[str, int]:
    """The TCP ports that the agent itself listens on, by setting."""
    return {name: port for name, (_, port) in listen_addresses(config).items()}


def service_config(config: AgentConfig, network: NetworkConfig) -> ServiceConfig:
    """The configuration for resolving Services on this node. Raises BadConfig."""
    asked = config.services
    try:
        ports = tuple(map(ip_network, asked.nodePortAddresses))
        cidrs = tuple(map(ip_network, asked.cidrs))
        external = (
            asked.externalIPs if isinstance(asked.externalIPs, str) else tuple(map(ip_network, asked.externalIPs))
        )
    except ValueError as error:
        raise BadConfig(str(error), where="services", hint="give networks as 10.96.0.0/12") from error
    return ServiceConfig(
        node=config.node,
        pod_cidrs=tuple(network.networks),
        service_cidrs=cidrs,
        node_port_addresses=ports or None,
        external_ips=external,
        masquerade_all=asked.masqueradeAll,
        strategy=asked.strategy,
        tunnel_ports=guarded_ports(network.tunnel_ports),
    )
