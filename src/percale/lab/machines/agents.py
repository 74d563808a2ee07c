"""The nodes' agents as processes: started by init, said to be ready by themselves, started again when they die.

    controller ─▶ Agents ─ {"start": node1} ─▶ init ─ fork ─▶ agent ─ READY=1 ─▶ notify.sock ─▶ Agents
                     ▲──────── {"ended": pid} ──┘

An agent that ends without being told to is started again after a pause, as the kubelet does with a DaemonSet's pod.
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

from msgspec import Struct

from percale.backoff import Backoff
from percale.errors import LabError
from percale.lab.process.init import Channel
from percale.lab.run_dir import NodePlace, last_words

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
"""Seconds before a dead agent is started again; doubled each time."""
_SETTLED = 10.0
"""An agent that lived so long, in seconds, begins with the first pause again."""


@dataclass(slots=True)
class _Agent:
    place: NodePlace
    notices: socket.socket
    wanted: bool = True
    pid: int | None = None
    started: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(FIRST_PAUSE, LONGEST_PAUSE))
    restarts: int = 0
    status: int | None = None
    """How it ended last; negative: by this signal."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Whoever ends it and starts it anew: two at once would start two."""
    waiting: asyncio.TimerHandle | None = None


class AgentState(Struct, frozen=True):
    """What `lab status` says of an agent."""

    pid: int | None
    ready: bool
    restarts: int


class Agents:
    """Used on the controller's event loop."""

    on_change: Callable[[], None] = staticmethod(lambda: None)
    """Called whenever an agent gets ready or ends."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._agents: dict[str, _Agent] = {}
        self._ready: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._loop = asyncio.get_running_loop()
        channel.setblocking(False)
        self._loop.add_reader(channel, self._hear)

    def start(self, place: NodePlace) -> None:
        """Have an agent run for this node from now on; its configuration is written already."""
        place.run.mkdir(parents=True, exist_ok=True)
        notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        notices.bind(str(place.notify_socket))
        agent = self._agents[place.name] = _Agent(place, notices)
        self._loop.add_reader(notices, self._noticed, agent)
        self._launch(agent)

    async def stop(self, name: str, patience: float = 5.0) -> None:
        """End the node's agent and do not start it again."""
        agent = self._agents[name]
        async with agent.changing:
            await self._end(agent, signal.SIGTERM, patience)
            del self._agents[name], self._ready[name]
            self._loop.remove_reader(agent.notices)
            agent.notices.close()

    async def restart(self, name: str, *, kill: bool, patience: float = 10.0) -> float:
        """End the agent, start it at once, and wait until it is ready; seconds it took. Raises LabError."""
        agent = self._agents[name]
        async with agent.changing:
            if self._agents.get(name) is not agent:
                raise LabError(f"{name} has left meanwhile")
            begun = time.monotonic()
            await self._end(agent, signal.SIGKILL if kill else signal.SIGTERM, patience)
            agent.wanted = True
            agent.backoff.reset()
            self._launch(agent)
            try:
                async with asyncio.timeout(patience):
                    await self._ready_or_ended(agent)
            except TimeoutError as error:
                what = f"the agent of {name} is not ready after {patience:.0f} s"
                raise LabError(what, hint=f"look at {agent.place.log}") from error
            return time.monotonic() - begun

    async def _ready_or_ended(self, agent: _Agent) -> None:
        ready = asyncio.create_task(self._ready[agent.place.name].wait())
        ended = asyncio.create_task(agent.ended.wait())
        try:
            await asyncio.wait((ready, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            ended.cancel()
        if agent.ended.is_set():
            raise LabError(f"the agent of {agent.place.name} ended: {last_words(agent.place.log)}")

    async def ready(self, name: str) -> None:
        """Wait until the node's agent serves pods."""
        await self._ready[name].wait()

    def state(self, name: str) -> AgentState:
        """How it is now."""
        agent = self._agents.get(name)
        if agent is None:
            return AgentState(None, ready=False, restarts=0)
        return AgentState(agent.pid, self._ready[name].is_set(), agent.restarts)

    def _launch(self, agent: _Agent) -> None:
        self._ready[agent.place.name].clear()
        agent.ended.clear()
        agent.waiting = None
        agent.started = time.monotonic()
        self._channel.send(json.dumps({"start": agent.place.name}).encode())

    async def _end(self, agent: _Agent, number: int, patience: float) -> None:
        """By this signal, or by SIGKILL when it takes too long; it is not started again."""
        agent.wanted = False
        if agent.waiting is not None:
            agent.waiting.cancel()
        if agent.pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(agent.pid, number)
        try:
            async with asyncio.timeout(patience):
                await agent.ended.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.kill(agent.pid, signal.SIGKILL)
            await agent.ended.wait()

    def _hear(self) -> None:
        """What init tells."""
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
                self._buried(agent, message["status"])

    def _buried(self, agent: _Agent, status: int) -> None:
        agent.pid = None
        agent.status = status
        self._ready[agent.place.name].clear()
        agent.ended.set()
        if agent.wanted:
            agent.restarts += 1
            if time.monotonic() - agent.started > _SETTLED:
                agent.backoff.reset()
            agent.waiting = self._loop.call_later(agent.backoff.next(), self._launch, agent)
        self.on_change()

    def _noticed(self, agent: _Agent) -> None:
        """What the agent tells, as it would tell systemd."""
        with suppress(BlockingIOError):
            lines = agent.notices.recv(4096).split(b"\n")
            if b"READY=1" in lines:
                self._ready[agent.place.name].set()
                self.on_change()
