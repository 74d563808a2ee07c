"""flannel's rules, in iptables and in nftables: finds them, removes them. Called by `from_flannel.py` and `to_flannel.py`."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from percale.errors import PercaleError

_CHAINS = {"nat": ("POSTROUTING", "FLANNEL-POSTRTG"), "filter": ("FORWARD", "FLANNEL-FWD")}
"""flannel's chain of a table, and whence it jumps there."""
_NFT_TABLES = ("ip flannel-ipv4", "ip6 flannel-ipv6")
_LEGACY = {"iptables-legacy": "ip_tables_names", "ip6tables-legacy": "ip6_tables_names"}
"""Their tables come into being when somebody looks; these files say which there are."""


def flannel_rules() -> list[list[str]]:
    """The commands that remove them; [] when there are none."""
    commands = [
        command
        for program in _programs()
        for table in _CHAINS
        if _exists(program, table)
        for command in _removals(program, table)
    ]
    tables = _xtables(["nft", "list", "tables"]).splitlines() if shutil.which("nft") else []
    return commands + [["nft", "delete", "table", *name.split()] for name in _NFT_TABLES if f"table {name}" in tables]


def forwarding_depends_on_them() -> bool:
    """Others (Docker, firewalld) drop what is forwarded, and flannel's rules accept the pods' packets."""
    return any("-P FORWARD DROP" in _rules(program, "filter") for program in _programs() if _exists(program, "filter"))


def is_of_forwarding(command: list[str]) -> bool:
    """A command of `flannel_rules`."""
    return any("FLANNEL-FWD" in word for word in command)


def remove_rules(command: list[str]) -> None:
    """Raises PercaleError."""
    _xtables(command)


def _programs() -> Iterator[str]:
    found = [f"{name}-{variant}" for name in ("iptables", "ip6tables") for variant in ("nft", "legacy")]
    present = [name for name in found if shutil.which(name)]
    yield from present or [name for name in ("iptables", "ip6tables") if shutil.which(name)]


def _exists(program: str, table: str) -> bool:
    if program not in _LEGACY:
        return True
    names = Path("/proc/net", _LEGACY[program])
    return names.exists() and table in names.read_text().split()


def _removals(program: str, table: str) -> Iterator[list[str]]:
    base, chain = _CHAINS[table]
    rules = _rules(program, table)
    if f"-N {chain}" not in rules:
        return
    prefix = [program, "-w", "-t", table]
    for rule in rules:
        words = shlex.split(rule)
        if words[:2] == ["-A", base] and words[-2:] == ["-j", chain]:
            yield [*prefix, "-D", *words[1:]]
    yield [*prefix, "-F", chain]
    yield [*prefix, "-X", chain]


def _rules(program: str, table: str) -> list[str]:
    return _xtables([program, "-w", "-t", table, "-S"]).splitlines()


def _xtables(command: list[str]) -> str:
    program, *arguments = command
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PercaleError(f"cannot be run: {error}", where=" ".join(command)) from error
    if done.returncode != 0:
        raise PercaleError(done.stderr.strip() or f"exit code {done.returncode}", where=" ".join(command))
    return done.stdout
