"""BIRD as a process that outlives the agent: started, configured by its socket, watched. A `BackendProcess`.

    bird.conf  as it runs (0600: passwords)      bird.ctl  its socket      bird.pid      bird.log

A new configuration is tried by `bird -p` first; a session at which that fails is left out and named. BIRD is started with -R,
which keeps the kernel's routes until neighbours have sent theirs again: it may be killed, and so may the agent.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from percale.atomic_file import replace_file
from percale.backend.bgp.bird_config import BirdConfig, bird_config
from percale.backend.bgp.bird_socket import LearnedRoute, Line, ProtocolState, ask, protocols, routes
from percale.backend.bgp.replaced_sessions import ReplacedSessions
from percale.backend.bgp.sessions import NodeSessions
from percale.backend.bgp.speaker import Session, Speaker
from percale.backend.bgp.world import BgpWorld
from percale.backend.protocol import LocalNode
from percale.errors import AgentError, StateError
from percale.kernel.rtnl.table_follower import flush_table
from percale.model.subnet_lease import SubnetLease

TABLE = 179
"""The kernel's routing table that is BIRD's alone."""
PROTOCOL = 12
"""Of routes that BIRD makes (RTPROT_BIRD)."""
_START, _END = 5.0, 5.0
"""Seconds until it answers, and until it has said goodbye to its neighbours."""
_GRACE = 10.0
"""Seconds for which a session may come up before it is a problem."""


Plan: TypeAlias = Callable[[LocalNode, Sequence[SubnetLease], BgpWorld], tuple[Speaker, NodeSessions]]
"""Makes the speaker."""


class SessionState(Struct, frozen=True):
    """A session and what BIRD says of it: `state` is up or start, `info` is BGP's own state, and perhaps an error."""

    session: Session
    state: str
    since: str
    info: str

    @property
    def established(self) -> bool:
        return self.info.split()[:1] == ["Established"]


class BirdProcess:
    """All methods are called on the event loop."""

    interval = 1.0

    def __init__(self, directory: Path, plan: Plan) -> None:
        self.world: BgpWorld | None = None
        """What the agent knows of the cluster; None: its objects are not known yet."""
        self._configured: tuple[LocalNode, Sequence[SubnetLease], BgpWorld] | None = None
        """What the configuration in force was made of."""
        self._directory = directory
        self._plan = plan
        self._config, self._socket, self._pid_file = (directory / f"bird.{each}" for each in ("conf", "ctl", "pid"))
        self._child: subprocess.Popen[bytes] | None = None
        self._replaced = ReplacedSessions()
        self._problems: tuple[str, ...] = ()
        self._down_since: dict[str, float] = {}
        self.sessions: tuple[Session, ...] = ()
        """As planned last: whether BIRD has them or not."""
        self.kept: tuple[Session, ...] = ()
        """That outlive the plan for a while."""
        self.states: tuple[SessionState, ...] = ()
        """As of the last check."""
        self.ignored: tuple[str, ...] = ()
        """Fields of the cluster's objects that have no effect."""

    @property
    def pid(self) -> int | None:
        """Of BIRD, if it runs: this one, not another process that has its number now."""
        if self._child is not None and self._child.poll() is None:
            return self._child.pid
        try:
            pid = int(self._pid_file.read_text())
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            ours = Path(f"/proc/{pid}/cwd").samefile(self._directory)
        except (OSError, ValueError):
            return None
        return pid if ours and state != "Z" else None

    async def ensure(self, node: LocalNode, leases: Sequence[SubnetLease]) -> None:
        """See `BackendProcess`. Until the cluster's objects are known, what was configured last is good enough."""
        running = self.pid is not None
        if self.world is None:
            if self._config.exists() and not running:
                await self._start()
            return
        given = (node, tuple(leases), self.world)
        if running and not self.kept and given == self._configured:
            return
        self._configured = None
        speaker, sessions = self._plan(*given)
        self.sessions, self._problems, self.ignored = sessions.sessions, sessions.problems, sessions.ignored
        learned = await self.learned() if running and self._replaced.waiting(speaker.sessions) else ()
        peers = {lease.spec.node for lease in leases}
        self.kept = self._replaced.update(speaker.sessions, learned, peers, time.monotonic())
        config = await self._checked(replace(speaker, sessions=(*speaker.sessions, *self.kept)))
        if not running:
            self._write(config.text)
            await self._start()
        elif self._config.read_text() != config.text:
            self._write(config.text)
            await self._ask("configure")
        self._configured = given

    async def _checked(self, speaker: Speaker) -> BirdConfig:
        """The configuration without the sessions that BIRD does not take. Raises AgentError."""
        while True:
            config = bird_config(speaker, str(self._directory / "bird.log"))
            if self._config.exists() and self._config.read_text() == config.text:
                return config
            draft = self._directory / "bird.new"
            self._write(config.text, draft)
            try:
                line, error = await self._try(draft)
            finally:
                draft.unlink(missing_ok=True)
            if error is None:
                return config
            bad = config.session_at(line)
            if bad is None:
                raise AgentError(f"BIRD does not take its configuration: {error}", where=str(self._config))
            self._problems += (f"session {bad} is left out: {error}",)
            speaker = replace(speaker, sessions=tuple(each for each in speaker.sessions if each.name != bad))

    async def _try(self, file: Path) -> tuple[int, str | None]:
        """The line and the error, if there is one."""
        done = await asyncio.to_thread(
            subprocess.run,
            [_program(), "-p", "-c", file.name],
            cwd=self._directory,
            capture_output=True,
            text=True,
            timeout=_START,
        )
        if done.returncode == 0:
            return 0, None
        last = done.stderr.strip().splitlines()[-1:]  # behind warnings
        place, _, said = "".join(last).partition(" ")[2].partition(" ")
        line = place.split(":")[1] if place.count(":") >= 2 else "0"
        return int(line) if line.isdecimal() else 0, said or done.stderr.strip()

    def _write(self, text: str, path: Path | None = None) -> None:
        try:
            replace_file(path or self._config, text.encode(), mode=0o600)
        except OSError as error:
            raise StateError(f"cannot be written: {error.strerror}", where=str(self._config)) from error

    async def _start(self) -> None:
        """Raises AgentError."""
        program = _program()
        with (self._directory / "bird.err").open("wb") as errors:
            self._child = subprocess.Popen(  # noqa: ASYNC220 - a fork, for a process that outlives this loop
                [program, "-f", "-R", "-c", self._config.name, "-s", self._socket.name, "-P", self._pid_file.name],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,  # a signal to the agent's group is not for it
            )
        deadline = time.monotonic() + _START
        while True:
            with suppress(OSError, TimeoutError):
                await ask(self._socket, "show status")
                return
            if self._child.poll() is not None or time.monotonic() > deadline:
                said = (self._directory / "bird.err").read_text(errors="replace").strip().splitlines()
                raise AgentError(
                    f"BIRD does not start: {said[-1] if said else 'it says nothing'}", where=str(self._config)
                )
            await asyncio.sleep(0.01)

    async def _ask(self, command: str) -> list[Line]:
        try:
            return await ask(self._socket, command)
        except (OSError, TimeoutError) as error:
            raise AgentError(f"BIRD does not answer: {error or 'in time'}", where=str(self._socket)) from error

    async def learned(self) -> tuple[LearnedRoute, ...]:
        """All routes of BIRD's, the best and the others. Raises AgentError."""
        found: list[LearnedRoute] = []
        for table in ("master4", "master6"):
            found += routes(await self._ask(f"show route table {table}"))
        return tuple(found)

    async def check(self) -> None:
        """Raises AgentError: it does not run, or sessions are down or left out."""
        if self.pid is None and not self.sessions and not self._config.exists():
            return
        self.states = ()
        seen = {each.name: each for each in protocols(await self._ask("show protocols"))}
        self.states = tuple(_state(session, seen.get(session.name)) for session in self.sessions)
        problems = [*self._problems, *self._down(time.monotonic())]
        if problems:
            more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
            raise AgentError(f"BGP: {problems[0]}{more}")

    def _down(self, now: float) -> list[str]:
        down = {each.session.name: each for each in self.states if not each.established}
        self._down_since = {name: self._down_since.get(name, now) for name in down}
        return [
            f"no session with {each.session.node or each.session.neighbor}: {each.info or each.state}"
            for name, each in down.items()
            if now - self._down_since[name] >= _GRACE
        ]

    async def stop(self) -> None:
        """Neighbours withdraw its routes at once; its table is emptied."""
        if self.pid is not None:
            with suppress(OSError, TimeoutError, AgentError):
                await ask(self._socket, "down")
            deadline = time.monotonic() + _END
            while (pid := self.pid) is not None:
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                    deadline = time.monotonic() + _END
                await asyncio.sleep(0.01)
        await asyncio.to_thread(flush_table, TABLE, PROTOCOL)


def _state(session: Session, seen: ProtocolState | None) -> SessionState:
    return (
        SessionState(session, seen.state, seen.since, seen.info)
        if seen is not None
        else SessionState(session, "left out", "", "")
    )


def find_bird() -> str | None:
    """The path of the program, which is not in everybody's PATH."""
    return shutil.which("bird", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _program() -> str:
    found = find_bird()
    if found is None:
        raise AgentError("the backend bgp needs BIRD 2", hint="sudo apt-get install -y bird2")
    return found
