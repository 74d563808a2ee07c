"""`percale-cni`, executed as a runtime executes it, against an agent's socket that the test serves."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from percale.cni.install import install_plugin
from percale.cni.wire_format import MOST_BYTES, Frame, answer_frame, read_frame

Serve = Callable[[socket.socket], None]


class Plugin:
    """Installed with a socket of its own, at which nobody listens until `serving`."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "agent.sock"
        self.path = install_plugin(directory / "bin", str(self.socket))

    def run(self, verb: str | None, given: bytes = b"{}", **environment: str) -> tuple[int, Any]:
        """The exit code and the printed JSON."""
        variables = {**environment, **({} if verb is None else {"CNI_COMMAND": verb})}
        done = subprocess.run([self.path], input=given, capture_output=True, env=variables, check=False, timeout=60)
        assert done.stderr == b""
        return done.returncode, json.loads(done.stdout) if done.stdout else None

    @contextmanager
    def serving(self, *answers: Serve) -> Iterator[None]:
        """Each connection is served by the next one."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.socket))
            listener.listen()
            listener.settimeout(30)

            def serve() -> None:
                for answer in answers:
                    connection, _ = listener.accept()
                    with connection:
                        answer(connection)

            thread = threading.Thread(target=serve)
            thread.start()
            yield
            thread.join()


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


def reading(connection: socket.socket) -> Frame:
    """The request, as the agent reads it."""
    connection.setblocking(False)
    frame = Frame()
    asyncio.run(read_frame(connection, frame))
    connection.setblocking(True)
    return frame


def test_the_agent_gets_the_variables_the_input_and_the_namespace(plugin: Plugin) -> None:
    frames: list[Frame] = []

    def answer(connection: socket.socket) -> None:
        frames.append(reading(connection))
        connection.sendall(answer_frame(0, b'{"cniVersion": "1.0.0"}'))

    variables = {
        "CNI_CONTAINERID": "c",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_ARGS": "A=ä;B=",
        "HOME": "/",
        "XCNI_": "",
    }
    with plugin.serving(answer):
        assert plugin.run("ADD", b"x" * 300_000, **variables) == (0, {"cniVersion": "1.0.0"})
    (frame,) = frames
    assert frame.variables == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c",
        "CNI_NETNS": "/proc/self/ns/net",
        "CNI_ARGS": "A=ä;B=",
    }
    assert frame.configuration == b"x" * 300_000
    assert frame.namespace is not None
    own = Path("/proc/self/ns/net").stat()
    assert os.path.samestat(os.fstat(frame.namespace), own)
    frame.close()


@pytest.mark.parametrize("variables", [{}, {"CNI_NETNS": ""}, {"CNI_NETNS": "/nowhere"}])
def test_without_a_namespace_none_is_sent(plugin: Plugin, variables: dict[str, str]) -> None:
    frames: list[Frame] = []

    def answer(connection: socket.socket) -> None:
        frames.append(reading(connection))
        connection.sendall(answer_frame(0, b""))

    with plugin.serving(answer):
        assert plugin.run("DEL", b"", **variables) == (0, None)
    assert frames[0].namespace is None
    assert frames[0].configuration == b""


def test_an_answer_of_any_size_and_code_is_passed_on(plugin: Plugin) -> None:
    text = json.dumps({"msg": "y" * 3_000_000})

    def answer(connection: socket.socket) -> None:
        reading(connection)
        connection.sendall(answer_frame(1, text.encode()))

    with plugin.serving(answer):
        assert plugin.run("ADD") == (1, json.loads(text))


def test_a_request_without_an_answer_is_sent_again(plugin: Plugin) -> None:
    requests = []

    def close(connection: socket.socket) -> None:
        requests.append(reading(connection).configuration)

    def cut(connection: socket.socket) -> None:
        close(connection)
        connection.sendall(answer_frame(0, b'{"a": 1}')[:-3])

    def answer(connection: socket.socket) -> None:
        close(connection)
        connection.sendall(answer_frame(0, b'{"a": 1}'))

    with plugin.serving(close, cut, answer):
        assert plugin.run("ADD", b"{}") == (0, {"a": 1})
    assert requests == [b"{}"] * 3


def test_an_agent_that_refuses_a_request_unread_is_heard(plugin: Plugin) -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(8)
        connection.sendall(answer_frame(1, b'{"code": 5}'))
        connection.shutdown(socket.SHUT_RD)

    with plugin.serving(refuse):
        assert plugin.run("ADD", b"x" * 2 * MOST_BYTES) == (1, {"code": 5})


def test_an_answer_that_cannot_be_is_no_answer(plugin: Plugin) -> None:
    with plugin.serving(lambda connection: connection.sendall(b"\xff\xff\xff\xff\0")):
        code, answer = plugin.run("STATUS")
    assert (code, answer["code"]) == (1, 50)


def test_status_does_not_wait_for_an_agent(plugin: Plugin) -> None:
    code, answer = plugin.run("STATUS")
    assert (code, answer["code"]) == (1, 50)
    assert answer["details"] == f"{plugin.socket}: No such file or directory; see the log of the percale agent"


def test_other_verbs_wait_and_then_ask_for_another_try(plugin: Plugin) -> None:
    code, answer = plugin.run("DEL")
    assert (code, answer["code"], answer["cniVersion"]) == (1, 11, "1.1.0")


@pytest.mark.parametrize("verb", [None, "", "DANCE", "add"])
def test_a_verb_that_cni_does_not_have(plugin: Plugin, verb: str | None) -> None:
    code, answer = plugin.run(verb)
    assert (code, answer["code"]) == (1, 4)


def test_version_needs_no_agent(plugin: Plugin) -> None:
    assert plugin.run("VERSION") == (
        0,
        {"cniVersion": "1.1.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]},
    )


def test_input_that_cannot_be_read_is_told(plugin: Plugin, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    done = subprocess.run([plugin.path], stdin=descriptor, capture_output=True, env={"CNI_COMMAND": "ADD"}, check=False)
    os.close(descriptor)
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == 5


def test_the_variable_overrides_the_installed_socket(plugin: Plugin) -> None:
    odd = '/nowhere/"\\\n'
    _, answer = plugin.run("STATUS", PERCALE_CNI_SOCKET=odd)
    assert answer["details"].startswith(f"{odd}: No such file or directory")
    _, answer = plugin.run("STATUS", PERCALE_CNI_SOCKET="/" + "x" * 200)
    assert "File name too long" in answer["details"]


def test_it_needs_nothing_of_the_host(plugin: Plugin) -> None:
    command = ["unshare", f"--root={plugin.path.parent}", f"/{plugin.path.name}"]
    done = subprocess.run(command, capture_output=True, text=True, env={"CNI_COMMAND": "VERSION"}, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cniVersion"] == "1.1.0"
