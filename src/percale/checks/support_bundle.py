"""What a bug report needs of a node, as texts by file name, without secrets. Called by `percale support`.

programs ip, bridge, nft, ss, …  ┐
/proc, agent's log, config       ├─▶ texts ─▶ redaction ─▶ an archive
status, doctor's findings        ┘
"""

from __future__ import annotations

import platform
import subprocess
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from percale import __version__
from percale.agent.http import client
from percale.backend.state_dir import BACKEND_STATE
from percale.backend.wireguard.backend import WireguardBackend
from percale.checks.host import Host
from percale.checks.redaction import redacted
from percale.errors import PercaleError
from percale.lab.run_dir import lab_of_node
from percale.model.backend_options import WireguardOptions
from percale.model.manifest.encode import to_json
from percale.model.subnet_lease import SubnetLease

_PATIENCE = 10.0
"""Seconds for a program."""
_LONGEST = 8 * 1024 * 1024
"""Bytes of a file: of a longer one the end."""
_LONGEST_SECRET = 64 * 1024
_PROGRAMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "net/links.txt": ("ip", "-details", "-statistics", "link"),
        "net/addresses.txt": ("ip", "address"),
        "net/rules.txt": ("ip", "rule"),
        "net/routes.txt": ("ip", "-4", "route", "show", "table", "all"),
        "net/routes6.txt": ("ip", "-6", "route", "show", "table", "all"),
        "net/neighbours.txt": ("ip", "neighbour"),
        "net/fdb.txt": ("bridge", "fdb"),
        "net/qdiscs.txt": ("tc", "qdisc"),
        "net/sockets.txt": ("ss", "-lntup"),
        "nft/ruleset.txt": ("nft", "-a", "list", "ruleset"),
        "nft/iptables-legacy.txt": ("iptables-legacy-save",),
    }
)
_COUNTERS = ("snmp", "snmp6", "netstat", "stat/nf_conntrack", "stat/arp_cache", "dev")
"""Of /proc/net."""
_LOG = ("journalctl", "--unit", "percale", "--lines", "20000", "--no-pager", "--output", "short-iso")
_VERSIONS = (("nft", "--version"), ("ip", "-Version"))


def texts(host: Host) -> Iterator[tuple[str, str]]:
    """Each with its file's name."""
    known = list(_secrets(host))
    for name, text in _raw(host):
        yield name, redacted(text, known)


def _raw(host: Host) -> Iterator[tuple[str, str]]:
    yield (
        "versions.txt",
        "\n".join([f"percale {__version__}", f"Python {platform.python_version()}", platform.platform(), *_versions()]),
    )
    yield "config.json", _json(host.config)
    yield (
        "network.json",
        _json(msgspec.to_builtins(host.network, enc_hook=str)) if host.network is not None else "none\n",
    )
    yield "status.json", _status(host)
    yield "leases.json", _leases(host)
    yield "state.txt", "\n".join(_state(Path(host.config.stateDir)))
    for name, command in _PROGRAMS.items():
        yield name, _output(command)
    for name in _COUNTERS:
        yield f"net/{name.replace('/', '-')}.txt", _file(host.proc / "thread-self/net" / name)
    yield "net/sysctl.txt", "\n".join(_sysctls(host.proc / "sys/net"))
    lab_dir = lab_of_node(Path(host.config.stateDir))
    yield "agent.log", _file(lab_dir.node(host.config.node).log) if lab_dir is not None else _output(_LOG)


def _sysctls(directory: Path) -> Iterator[str]:
    for path in sorted(directory.rglob("*")):
        with suppress(OSError):  # a directory, or one that can only be written
            yield f"{path.relative_to(directory.parent)} = {path.read_text().strip()}"


def _versions() -> Iterator[str]:
    yield from (_output(command).strip() for command in _VERSIONS)


def _status(host: Host) -> str:
    if host.config.http is None:
        return "the agent serves no HTTP\n"
    try:
        return _json(msgspec.json.decode(client.fetch(host.config.http)))
    except (PercaleError, msgspec.DecodeError) as error:
        return f"{error}\n"


def _leases(host: Host) -> str:
    try:
        return "\n".join(to_json(each).decode() for each in host.store.list(SubnetLease))
    except PercaleError as error:
        return f"{error}\n"


def _state(directory: Path) -> Iterator[str]:
    """Names and sizes: what is in there is the agent's, and a backend's keys."""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            yield f"{path.stat().st_size:>10} {path.relative_to(directory)}"


def _output(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=_PATIENCE)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{command[0]}: {error}\n"
    return done.stdout + done.stderr


def _file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LONGEST))
            return file.read(_LONGEST).decode(errors="replace")
    except OSError as error:
        return f"{path}: {error.strerror}\n"


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def _secrets(host: Host) -> Iterator[bytes]:
    """Those that are known, so that they are found wherever they were written: mounted Secrets, WireGuard's keys."""
    for directory in (Path(host.config.secretsDir), Path(host.config.stateDir) / BACKEND_STATE / WireguardBackend.type):
        for path in sorted(directory.rglob("*")):
            with suppress(OSError):
                if path.is_file() and path.stat().st_size <= _LONGEST_SECRET:
                    content = path.read_bytes()
                    yield from (content, b64encode(content))
    if host.network is not None and isinstance(host.network.options, WireguardOptions) and host.network.options.psk:
        yield b64encode(host.network.options.psk.reveal())
