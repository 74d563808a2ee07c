"""The nodes' agent processes: started by init, ready when they notify so, restarted when they exit.

    controller ─▶ Agents ─ {"start": node1} ─▶ init ─ fork ─▶ agent ─ READY=1 ─▶ notify.sock ─▶ Agents
                     ▲──────── {"ended": pid} ──┘

An agent that exits unexpectedly is restarted with backoff, as the kubelet does with a DaemonSet's pod.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from percale.agent.systemd import PROBLEM_STATUS
from percale.backoff import Backoff
from percale.errors import LabError
from percale.lab.machines.agent_state import AgentState
from percale.lab.process.init import Channel
from percale.lab.run_dir import NodeDir, log_tail

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
"""Seconds before an exited agent is restarted; doubled each time."""
_STABLE_AFTER = 10.0
"""Seconds of running after which the backoff is reset."""


@dataclass(slots=True)
class _Agent:
    node_dir: NodeDir
    notify_socket: socket.socket
    should_run: bool = True
    pid: int | None = None
    started: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(FIRST_PAUSE, LONGEST_PAUSE))
    restarts: int = 0
    problem: str | None = None
    """As it notified last."""
    status: int | None = None
    """The last exit status; negative: ended by this signal."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while it is stopped or restarted: two at once would start two processes."""
    restart_timer: asyncio.TimerHandle | None = None


class Agents:
    """Used on the controller's event loop."""

    on_change: Callable[[], None] = staticmethod(lambda: None)
    """Called whenever an agent gets ready or exits."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._agents: dict[str, _Agent] = {}
        self._ready: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._loop = asyncio.get_running_loop()
        channel.setblocking(False)
        self._loop.add_reader(channel, self._read_init_message)

    def start(self, node_dir: NodeDir) -> None:
        """Keep an agent running for this node; its configuration has been written."""
        node_dir.run.mkdir(parents=True, exist_ok=True)
        notify_socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        notify_socket.bind(str(node_dir.notify_socket))
        agent = self._agents[node_dir.name] = _Agent(node_dir, notify_socket)
        self._loop.add_reader(notify_socket, self._on_notification, agent)
        self._launch(agent)

    async def stop(self, name: str, timeout_seconds: float = 5.0) -> None:
        """End the node's agent for good."""
        agent = self._agents[name]
        async with agent.lock:
            await self._end(agent, signal.SIGTERM, timeout_seconds)
            del self._agents[name], self._ready[name]
            self._loop.remove_reader(agent.notify_socket)
            agent.notify_socket.close()

    async def restart(self, name: str, *, kill: bool, timeout_seconds: float = 10.0) -> float:
        """End the agent, start it at once, and wait until it is ready; seconds it took. Raises LabError."""
        agent = self._agents[name]
        async with agent.lock:
            if self._agents.get(name) is not agent:
                raise LabError(f"{name} has left meanwhile")
            begun = time.monotonic()
            await self._end(agent, signal.SIGKILL if kill else signal.SIGTERM, timeout_seconds)
            agent.should_run = True
            agent.restarts += 1
            agent.backoff.reset()
            self._launch(agent)
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._wait_ready_or_ended(agent)
            except TimeoutError as error:
                what = f"the agent of {name} is not ready after {timeout_seconds:.0f} s"
                raise LabError(what, hint=f"look at {agent.node_dir.log}") from error
            return time.monotonic() - begun

    async def _wait_ready_or_ended(self, agent: _Agent) -> None:
        ready = asyncio.create_task(self._ready[agent.node_dir.name].wait())
        ended = asyncio.create_task(agent.ended.wait())
        try:
            await asyncio.wait((ready, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            ended.cancel()
        if agent.ended.is_set():
            raise LabError(f"the agent of {agent.node_dir.name} ended: {log_tail(agent.node_dir.log)}")

    async def wait_ready(self, name: str) -> None:
        """Wait until the node's agent serves pods."""
        await self._ready[name].wait()

    def state(self, name: str) -> AgentState:
        """The agent's current state."""
        agent = self._agents.get(name)
        if agent is None:
            return AgentState()
        return AgentState(self._ready[name].is_set(), agent.pid, agent.restarts, agent.problem)

    def _launch(self, agent: _Agent) -> None:
        self._ready[agent.node_dir.name].clear()
        agent.ended.clear()
        agent.restart_timer = None
        agent.started = time.monotonic()
        self._channel.send(json.dumps({"start": agent.node_dir.name}).encode())

    async def _end(self, agent: _Agent, number: int, timeout_seconds: float) -> None:
        """Send this signal, and SIGKILL after the timeout; it is not restarted."""
        agent.should_run = False
        if agent.restart_timer is not None:
            agent.restart_timer.cancel()
        if agent.pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(agent.pid, number)
        try:
            async with asyncio.timeout(timeout_seconds):
                await agent.ended.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.kill(agent.pid, signal.SIGKILL)
            await agent.ended.wait()

    def _read_init_message(self) -> None:
        """A message of init: an agent has started or exited."""
        try:
            message: dict[str, Any] = json.loads(self._channel.recv(4096))
        except BlockingIOError:
            return
        if "started" in message:
            agent = self._agents.get(message["started"])
            if agent is not None:
                agent.pid = message["pid"]
            return
        for agent in self._agents.values():
            if agent.pid == message["ended"]:
                self._on_exit(agent, message["status"])

    def _on_exit(self, agent: _Agent, status: int) -> None:
        agent.pid = None
        agent.status = status
        agent.problem = None
        self._ready[agent.node_dir.name].clear()
        agent.ended.set()
        if agent.should_run:
            agent.restarts += 1
            if time.monotonic() - agent.started > _STABLE_AFTER:
                agent.backoff.reset()
            agent.restart_timer = self._loop.call_later(agent.backoff.next(), self._launch, agent)
        self.on_change()

    def _on_notification(self, agent: _Agent) -> None:
        """A notification of the agent, in systemd's protocol (sd_notify)."""
        with suppress(BlockingIOError):
            lines = agent.notify_socket.recv(4096).decode(errors="replace").split("\n")
            for line in lines:
                if line.startswith("STATUS="):
                    agent.problem = line.removeprefix(PROBLEM_STATUS) if line.startswith(PROBLEM_STATUS) else None
            if "READY=1" in lines:
                self._ready[agent.node_dir.name].set()
                self.on_change()
