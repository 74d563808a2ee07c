"""One `kubectl exec` or `attach`: a program of this machine in a pod, over a WebSocket. Called by `kubelet_server`.

    channel 0 stdin   1 stdout   2 stderr   3 how it ended, a Status   4 the terminal's size   255 a channel ends

Each message begins with its channel (v5.channel.k8s.io).
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import struct
import sys
import termios
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec
from aiohttp import WSMsgType, web
from msgspec import Struct

from percale.lab.process.nsenter import ExecTarget

PROTOCOL = "v5.channel.k8s.io"
_STDIN, _STDOUT, _STDERR, _STATUS, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255
_CHUNK = 32768
_LAST_OUTPUT = 1.0
"""Seconds for the output's end after the program's: one that it has left behind may hold it open."""


class Streams(Struct, frozen=True):
    """Which the client wants."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Streams:
        """As the API server writes them."""
        return cls(*(query.get(name) in ("1", "true") for name in ("input", "output", "error", "tty")))


class _Size(Struct, frozen=True, rename="pascal"):
    width: int
    height: int


async def run_streams(
    socket: web.WebSocketResponse, target: ExecTarget, command: Sequence[str], streams: Streams
) -> None:
    """Until the program ends, or the client goes: then it is killed."""
    session = await (_Terminal.start if streams.tty else _Pipes.start)(target, command, streams)
    try:
        reading = asyncio.create_task(_read_client(socket, session))
        writing = asyncio.create_task(_write_output(socket, session, streams))
        ended = asyncio.create_task(session.process.wait())
        await asyncio.wait((reading, ended), return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            await asyncio.wait((writing,), timeout=_LAST_OUTPUT)
            with suppress(ConnectionError):
                await socket.send_bytes(bytes((_STATUS,)) + _status(ended.result()))
        for task in (reading, writing, ended):
            task.cancel()
        await asyncio.gather(reading, writing, ended, return_exceptions=True)
    finally:
        session.end()


async def _read_client(socket: web.WebSocketResponse, session: _Terminal | _Pipes) -> None:
    async for message in socket:
        if message.type != WSMsgType.BINARY or not message.data:
            continue
        channel, data = message.data[0], message.data[1:]
        if channel == _STDIN:
            await session.write(data)
        elif channel == _CLOSE and data[:1] == bytes((_STDIN,)):
            session.write_end()
        elif channel == _RESIZE:
            with suppress(msgspec.MsgspecError):
                session.resize(msgspec.json.decode(data, type=_Size))


async def _write_output(socket: web.WebSocketResponse, session: _Terminal | _Pipes, streams: Streams) -> None:
    async def pump(channel: int, output: asyncio.StreamReader, wanted: bool) -> None:
        with suppress(OSError):  # the terminal's other end is closed, or the client is gone
            while data := await output.read(_CHUNK):
                if wanted:
                    await socket.send_bytes(bytes((channel,)) + data)

    wanted = {_STDOUT: streams.stdout, _STDERR: streams.stderr}
    await asyncio.gather(*(pump(channel, output, wanted[channel]) for channel, output in session.outputs.items()))


def _status(code: int) -> bytes:
    """As a kubelet's: kubectl ends with this code."""
    if code == 0:
        return json.dumps({"metadata": {}, "status": "Success"}).encode()
    code = code if code > 0 else 128 - code
    document = {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }
    return json.dumps(document).encode()


def _command_line(target: ExecTarget, command: Sequence[str]) -> list[str]:
    encoded = msgspec.json.encode(target).decode()
    return [sys.executable, "-m", "percale.lab.process.pod_program", encoded, *command]


class _Pipes:
    """A program without a terminal."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.outputs = {_STDOUT: process.stdout, _STDERR: process.stderr}

    @classmethod
    async def start(cls, target: ExecTarget, command: Sequence[str], streams: Streams) -> _Pipes:
        return cls(
            await asyncio.create_subprocess_exec(
                *_command_line(target, command),
                stdin=PIPE if streams.stdin else DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                start_new_session=True,
            )
        )

    async def write(self, data: bytes) -> None:
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.write(data)
                await self.process.stdin.drain()

    def write_end(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()

    def resize(self, size: _Size) -> None:
        """There is no terminal."""

    def end(self) -> None:
        _kill(self.process)


class _Terminal:
    """A program with a terminal of its own."""

    def __init__(self, process: Process, terminal: int, output: asyncio.StreamReader) -> None:
        self.process = process
        self.outputs = {_STDOUT: output}
        self._terminal = terminal

    @classmethod
    async def start(cls, target: ExecTarget, command: Sequence[str], _streams: Streams) -> _Terminal:
        terminal, inside = os.openpty()
        try:
            process = await asyncio.create_subprocess_exec(
                *_command_line(target, command),
                stdin=inside,
                stdout=inside,
                stderr=inside,
                start_new_session=True,
                env={**os.environ, "TERM": "xterm"},
            )
        finally:
            os.close(inside)
        output = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(output), os.fdopen(os.dup(terminal), "rb", 0)
        )
        return cls(process, terminal, output)

    async def write(self, data: bytes) -> None:
        """What is typed: little, so that it never blocks for long."""
        await asyncio.to_thread(os.write, self._terminal, data)

    def write_end(self) -> None:
        os.write(self._terminal, b"\x04")

    def resize(self, size: _Size) -> None:
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", size.height, size.width, 0, 0))

    def end(self) -> None:
        _kill(self.process)
        os.close(self._terminal)


def _kill(process: Process) -> None:
    """With all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
