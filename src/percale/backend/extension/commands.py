"""Runs the operator's commands, each once: what was run is a file each, so a restart of the agent runs none of them again.

    pre-startup, post-startup, peers/LEASE: the command, its variables and input, what it printed, and what undoes it

After a reboot nothing that they did is there, and they are run again. One that fails is run again after a while.
"""

from __future__ import annotations

import os
import shlex
from asyncio import to_thread
from collections.abc import Iterable, Sequence
from pathlib import Path
from signal import SIGKILL
from subprocess import PIPE, STDOUT, Popen, TimeoutExpired
from tempfile import TemporaryFile
from typing import IO

import msgspec
from msgspec import Struct

from percale.atomic_file import replace_file
from percale.backend.protocol import LocalNode
from percale.boot_id import boot_id
from percale.errors import StateError
from percale.model.addresses import IPAddress, IPNetwork
from percale.model.backend_options import VARIABLE, ExtensionOptions
from percale.model.subnet_lease import SubnetLease, lease_name
from percale.printable import printable

_TIMEOUT = 10.0
"""Seconds for one command."""
_MOST_OUTPUT = 4096
"""Bytes of what a command prints that are kept: they go into the node's lease."""


class Run(Struct, frozen=True):
    """What is run, with flannel's variables."""

    boot: str
    command: str
    variables: dict[str, str] = {}
    stdin: str = ""
    undo: str = ""
    """Its opposite, with the same variables and input."""


class _Done(Struct, frozen=True):
    """The content of a file."""

    run: Run
    output: str


class ExtensionCommands:
    """See `BackendProcess`; there is none that runs all the time."""

    interval = 10.0

    def __init__(self, directory: Path, options: ExtensionOptions) -> None:
        self._directory = directory
        self._peers = directory / "peers"
        self._options = options
        self._boot = boot_id()

    def prepare(self) -> str:
        """Run PreStartupCommand, and return what it prints. Blocks; raises StateError."""
        return self._ensure(self._directory / "pre-startup", Run(self._boot, self._options.pre_startup_command))

    async def ensure(self, node: LocalNode, leases: Sequence[SubnetLease]) -> None:
        """Raises StateError: of PostStartupCommand, without which no peer's is run, or of the first peer; the others' are run."""
        await to_thread(self._ensure_all, node, leases)

    async def check(self) -> None:
        """Commands are not asked whether what they did is still there."""

    async def stop(self) -> None:
        """Run SubnetRemoveCommand for each peer. Raises StateError."""
        await to_thread(self._ensure_peers, {})

    def _ensure_all(self, node: LocalNode, leases: Sequence[SubnetLease]) -> None:
        own = Run(
            self._boot, self._options.post_startup_command, _variables(node.networks, node.subnets, node.public_ips)
        )
        self._ensure(self._directory / "post-startup", own)
        self._ensure_peers({lease_name(lease.spec.subnets): self._peer(lease) for lease in leases})

    def _peer(self, lease: SubnetLease) -> Run:
        texts = (each.data for each in lease.spec.families if isinstance(each.data, str))
        return Run(
            self._boot,
            self._options.subnet_add_command,
            _variables((), lease.spec.subnets, lease.spec.public_ips),
            next(texts, ""),
            self._options.subnet_remove_command,
        )

    def _ensure_peers(self, runs: dict[str, Run]) -> None:
        first: StateError | None = None
        for name in sorted({path.name for path in self._peers.glob("[!.]*")} | runs.keys()):
            try:
                self._ensure(self._peers / name, runs.get(name))
            except StateError as error:
                first = first or error
        if first is not None:
            raise first

    def _ensure(self, path: Path, run: Run | None) -> str:
        """Have this run, or nothing, be what was done last. What the command has printed. Raises StateError."""
        try:
            done = _read(path)
            if done is not None and done.run == run:
                return done.output
            failure = self._undo(path, done.run) if done is not None else None
            output = ""
            if run is not None:
                output = _execute(run.command, run)
                path.parent.mkdir(mode=0o700, exist_ok=True)
                replace_file(path, msgspec.json.encode(_Done(run, output)), mode=0o600)
        except OSError as error:
            raise StateError(f"cannot be kept: {error.strerror}", where=str(path)) from error
        if failure is not None:
            raise failure
        return output

    def _undo(self, path: Path, run: Run) -> StateError | None:
        """Once: what somebody else has undone need not be."""
        path.unlink()
        try:
            if run.boot == self._boot:
                _execute(run.undo, run)
        except StateError as error:
            return error
        return None


def _read(path: Path) -> _Done | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Done)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _variables(
    networks: Iterable[IPNetwork], subnets: Iterable[IPNetwork], public_ips: Iterable[IPAddress]
) -> dict[str, str]:
    """By flannel's names."""
    named: list[tuple[str, str, IPNetwork | IPAddress]] = [
        *(("NETWORK", "IPV6NETWORK", each) for each in networks),
        *(("SUBNET", "IPV6SUBNET", each) for each in subnets),
        *(("PUBLIC_IP", "PUBLIC_IPV6", each) for each in public_ips),
    ]
    return {ipv6 if each.version == 6 else ipv4: str(each) for ipv4, ipv6, each in named}


def _execute(command: str, run: Run) -> str:
    """What it prints. Without a shell: a variable's value stays one word, whatever is in it. Raises StateError."""
    words = [
        VARIABLE.sub(lambda name: run.variables.get(name[1] or name[2], ""), word) for word in shlex.split(command)
    ]
    if not words:
        return ""
    with TemporaryFile() as printed:  # not a pipe, which what the command leaves running may keep open
        try:
            code = _run(words, run, printed)
        except TimeoutExpired as error:
            raise _failure(words, f"it takes more than {_TIMEOUT:.0f} s") from error
        except OSError as error:
            raise _failure(words, str(error.strerror)) from error
        printed.seek(0)
        output = printable(printed.read(_MOST_OUTPUT).decode(errors="replace").strip())
    if code != 0:
        raise _failure(words, output.splitlines()[-1] if output else f"exit code {code}")
    return output


def _run(words: list[str], run: Run, printed: IO[bytes]) -> int:
    """The exit code. Raises OSError, TimeoutExpired."""
    environment = {**os.environ, **run.variables}
    with Popen(words, stdin=PIPE, stdout=printed, stderr=STDOUT, env=environment, start_new_session=True) as process:
        try:
            process.communicate(f"{run.stdin}\n".encode(), _TIMEOUT)
        except TimeoutExpired:
            os.killpg(process.pid, SIGKILL)
            raise
    return process.returncode


def _failure(words: list[str], reason: str) -> StateError:
    return StateError(f"{shlex.join(words)}: {reason}", where="Backend.Type extension")
