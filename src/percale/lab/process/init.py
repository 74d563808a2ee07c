"""Pid 1 of a lab: forks its processes and reaps them; when it exits, the kernel kills them all.

    init ── fork ──▶ controller (asyncio; when it exits, the lab ends)
      ├──── fork ──▶ agent of node1, in the namespace /run/netns/node1
      └──── fork ──▶ agent of node2 …

Single-threaded on purpose: it has everything imported, so a child costs a fork and no import. The controller asks for
agents over a socket pair, one JSON message a datagram: {"start": NODE} → {"started": NODE, "pid": P}; when a child ends
{"ended": P, "status": S}. The controller sends signals itself: it is in the same pid namespace.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from percale.errors import PercaleError
from percale.kernel import syscalls
from percale.lab.process.bootstrap import NETNS
from percale.lab.run_dir import LabDir, NodeDir

_EXIT_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Channel = socket.socket


RunAgent = Callable[[NodeDir], None]
"""Runs a node's agent until it exits."""


def run(lab_dir: LabDir, control: Callable[[Channel], None], prepare: Callable[[], RunAgent]) -> None:
    """Run pid 1. `control(channel)` is the controller; what `prepare` returns runs an agent: each in a child.

    While the controller builds the network, `prepare` imports what agents need.
    """
    faulthandler.enable()  # a crash of any process of the lab says in its log where
    wakeup_reader, wakeup_writer = os.pipe()
    os.set_blocking(wakeup_writer, False)
    signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
    for number in _EXIT_SIGNALS:
        signal.signal(number, _exit)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a socket for each port of each pod
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    controller = _fork(lambda: control(theirs), "controller")
    theirs.close()
    gc.disable()  # imports make no garbage, and a tenth of their time would go into looking for it
    run_agent = prepare()
    gc.enable()
    gc.freeze()  # what was imported is shared with all agents: their collectors must not write to it
    while True:
        readable, _, _ = select.select([wakeup_reader, ours.fileno()], [], [])
        if wakeup_reader in readable:
            os.read(wakeup_reader, 512)
            _reap(controller, ours)
        if ours.fileno() in readable:
            message = ours.recv(4096)
            if not message:
                _end(os.waitpid(controller, 0)[1])
            _handle_request(lab_dir, ours, json.loads(message), run_agent)


def _end(status: int) -> NoReturn:
    """The controller has ended with this status; that of a crash is told nowhere else."""
    if os.WIFSIGNALED(status):
        print(f"the lab ends: {signal.strsignal(os.WTERMSIG(status))} in its controller", file=sys.stderr, flush=True)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _exit(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)  # the kernel kills all others


def _handle_request(lab_dir: LabDir, channel: Channel, request: dict[str, str], run_agent: RunAgent) -> None:
    """Start the agent that the controller asks for."""
    node = lab_dir.node(request["start"])
    pid = _fork(lambda: _run_agent(node, run_agent), f"agent of {node.name}")
    _send(channel, {"started": node.name, "pid": pid})


def _run_agent(node: NodeDir, run_agent: RunAgent) -> None:
    """In the child: the node's namespace, its log, its notification socket."""
    log = os.open(node.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    namespace = os.open(NETNS / node.name, os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(namespace, syscalls.CLONE_NEWNET)
    os.close(namespace)
    os.environ["NOTIFY_SOCKET"] = str(node.notify_socket)
    run_agent(node)


def _fork(action: Callable[[], None], what: str) -> int:
    """Fork; the child runs `action` with default signal handlers."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (*_EXIT_SIGNALS, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        action()
        status = 0
    except SystemExit as exit_request:
        status = exit_request.code if isinstance(exit_request.code, int) else 1
    except PercaleError as error:
        print(f"{what}: {error}", file=sys.stderr)
    except BaseException:  # the end of a process: no caller could handle it
        print(f"{what} failed:", file=sys.stderr)
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _reap(controller: int, channel: Channel) -> None:
    """Reap ended processes, orphans of `lab exec` among them; exit when the controller has exited."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            os._exit(0)
        if pid == 0:
            return
        if pid == controller:
            _end(status)
        _send(channel, {"ended": pid, "status": os.waitstatus_to_exitcode(status)})


def _send(channel: Channel, message: dict[str, object]) -> None:
    with suppress(OSError):  # the controller is exiting, and init exits with it
        channel.send(json.dumps(message).encode())
