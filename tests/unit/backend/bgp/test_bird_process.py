"""BIRD as the agent configures it: a program in its place writes down what it is asked."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from tests.unit.backend.bgp.test_sessions import NETWORKS, lease, node
from tests.waiting import until

from percale.backend.bgp.backend import plan
from percale.backend.bgp.bird_process import BirdProcess
from percale.backend.bgp.sessions import BgpObjects, NodeSessions
from percale.backend.bgp.speaker import Speaker
from percale.backend.bgp.world import BgpWorld
from percale.backend.protocol import LocalNode
from percale.errors import AgentError
from percale.model.backend_options import BgpOptions
from percale.model.bgp import BGPConfigurationSpec
from percale.model.subnet_lease import SubnetLease

BIRD = f"""#!{sys.executable}
import os, socket, sys
if "-p" in sys.argv:
    lines = open(sys.argv[-1]).read().splitlines()
    bad = [number for number, line in enumerate(lines, 1) if "192.0.2.9 " in line]
    if bad:
        print("bird: bird.new:1:1: Missing authentication option, assuming MD5", file=sys.stderr)
        print(f"bird: bird.new:{{bad[0]}}:1: bad neighbor", file=sys.stderr)
    sys.exit(bool(bad))
given = dict(zip(sys.argv[1:], sys.argv[2:]))
with open(given["-P"], "w") as file:
    file.write(str(os.getpid()))
if os.path.exists(given["-s"]):
    os.unlink(given["-s"])
with socket.socket(socket.AF_UNIX) as listener, open("asked", "a") as asked:
    listener.bind(given["-s"])
    listener.listen()
    while True:
        client = listener.accept()[0]
        client.sendall(b"0001 BIRD 2.0.12 ready.\\n")
        print(client.recv(99).decode().strip(), file=asked, flush=True)
        client.sendall(b"0013 \\n")
        client.close()
"""


class Planner:
    """Counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(
        self, local: LocalNode, leases: Sequence[SubnetLease], world: BgpWorld
    ) -> tuple[Speaker, NodeSessions]:
        self.count += 1
        return plan(local, leases, world, BgpOptions())


@pytest.fixture
def planner() -> Planner:
    return Planner()


@pytest.fixture
def bird(planner: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BirdProcess]:
    program = tmp_path / "bin" / "bird"
    program.parent.mkdir()
    program.write_text(BIRD)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    directory = tmp_path / "state"
    directory.mkdir()
    process = BirdProcess(directory, planner)
    process.world = BgpWorld(BgpObjects(), NETWORKS, ())
    yield process
    kill(process)


def kill(bird: BirdProcess) -> None:
    if (pid := bird.pid) is not None:
        os.kill(pid, signal.SIGKILL)
        until(lambda: bird.pid is None)


async def test_what_is_as_before_is_neither_planned_nor_written_again(
    bird: BirdProcess, planner: Planner, tmp_path: Path
) -> None:
    ensure = partial(bird.ensure, node(1))

    def configured() -> int:
        return (tmp_path / "state" / "asked").read_text().splitlines().count("configure")

    for _ in range(3):
        await ensure([lease(2)])
    assert (planner.count, configured()) == (1, 0)
    await ensure([lease(2), lease(3)])
    await ensure([lease(2), lease(3)])
    assert (planner.count, configured()) == (2, 1)
    bird.world = BgpWorld(BgpObjects(configurations={"default": BGPConfigurationSpec(asNumber=64999)}), NETWORKS, ())
    await ensure([lease(2), lease(3)])
    await ensure([lease(2), lease(3)])
    assert (planner.count, configured()) == (3, 2)


async def test_one_that_has_ended_is_started_and_configured_again(bird: BirdProcess, planner: Planner) -> None:
    await bird.ensure(node(1), [lease(2)])
    first = bird.pid
    assert first is not None
    kill(bird)
    await bird.ensure(node(1), [lease(2)])
    assert bird.pid not in (None, first)
    assert planner.count == 2


async def test_one_that_was_started_here_is_known_until_it_was_waited_for(bird: BirdProcess, tmp_path: Path) -> None:
    await bird.ensure(node(1), [lease(2)])
    pid = bird.pid
    assert pid is not None
    (tmp_path / "state" / "bird.pid").unlink()
    assert bird.pid == pid
    kill(bird)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_the_session_that_is_not_taken_is_named_also_behind_a_warning(bird: BirdProcess) -> None:
    """BIRD 2.17 warns of each password."""
    await bird.ensure(node(1), [lease(2), lease(9), lease(4)])
    with pytest.raises(AgentError, match="session Mesh_192_0_2_9 is left out: bad neighbor"):
        await bird.check()


async def test_what_failed_is_tried_again(bird: BirdProcess, planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    await bird.ensure(node(1), [lease(2)])
    with monkeypatch.context() as broken:
        broken.setattr(bird, "_write", lambda *_: (_ for _ in ()).throw(OSError))
        with pytest.raises(OSError):
            await bird.ensure(node(1), [])
    await bird.ensure(node(1), [])
    assert planner.count == 3
