"""The agent's HTTP and who asks it: good and bad requests."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from pathlib import Path

import msgspec
import pytest

from percale.agent.http import client
from percale.agent.http.listener import listen, wait_for_connection
from percale.agent.http.server import serve
from percale.agent.http.web_server import MOST_CONNECTIONS
from percale.agent.metrics import GaugeValues, Metrics
from percale.agent.problems import Problem
from percale.agent.status import Addresses, Peer, Pod, Status
from percale.cli.status import lines
from percale.errors import AgentError, BadConfig

STATUS = Status(
    node="n1",
    version="1.2.3",
    pid=42,
    started=1000.0,
    ready=True,
    waitingFor=(),
    backend="vxlan",
    otherBackend=None,
    mtu=1450,
    interface="eth0",
    publicIPs=("192.168.0.1",),
    networks=("10.244.0.0/16",),
    subnets=("10.244.1.0/24",),
    addresses=(Addresses("10.244.1.0/24", 3, 250),),
    peers=(
        Peer("n2", ("10.244.2.0/24",), ("192.168.0.2",), "vxlan", reached=True, path="tunnel"),
        Peer(
            "n3",
            ("10.244.3.0/24",),
            ("192.168.0.3",),
            "host-gw",
            reached=False,
            problem="it uses host-gw, we use vxlan",
        ),
    ),
    bgp=None,
    pods=(Pod("0123456789abcdef", "eth0", ("10.244.1.2",), "default/web"),),
    problems=(Problem("store bad.yaml", "bad.yaml:3: not YAML", 1010.0),),
    lastError=Problem("store bad.yaml", "bad.yaml:3: not YAML", 1010.0),
)
MANY = 200


class StatusSource:
    def __init__(self) -> None:
        self.metrics = Metrics()
        self.reasons: tuple[str, ...] = ()

    def waiting_for(self) -> tuple[str, ...]:
        return self.reasons

    def gauge_values(self) -> GaugeValues:
        return GaugeValues(not self.reasons, 2, 1, 3, 0, STATUS.addresses)

    def status(self) -> Status:
        return STATUS


@asynccontextmanager
async def serving(socket: Path, source: StatusSource) -> AsyncIterator[None]:
    with listen(f"unix:{socket}") as listener:
        task = asyncio.create_task(serve(listener, source))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "http.sock"


def descriptors() -> int:
    """Open ones of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def exchange(socket: Path, request: bytes) -> tuple[int, str]:
    """One raw request; status code and the rest."""
    reader, writer = await asyncio.open_unix_connection(str(socket))
    with closing(writer):
        writer.write(request)
        async with asyncio.timeout(30):
            answer = (await reader.read()).decode()
    return int(answer.split(" ", 2)[1]), answer


async def get(socket: Path, path: str) -> tuple[int, str]:
    code, answer = await exchange(socket, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return code, answer.partition("\r\n\r\n")[2]


async def test_health_and_readiness(socket: Path) -> None:
    source = StatusSource()
    async with serving(socket, source):
        assert await get(socket, "/healthz") == (200, "ok\n")
        assert await get(socket, "/livez") == (200, "ok\n")
        assert await get(socket, "/readyz") == (200, "ok\n")
        source.reasons = ("no interface", "no store")
        assert await get(socket, "/readyz") == (503, "no interface\nno store\n")
        assert (await get(socket, "/nowhere"))[0] == 404


async def test_metrics(socket: Path) -> None:
    source = StatusSource()
    source.metrics.batch_applied(0.02, [None, OSError(1, "no"), None])
    async with serving(socket, source):
        code, text = await get(socket, "/metrics")
    lines = text.splitlines()
    assert code == 200
    for line in (
        "percale_peers 2.0",
        "percale_peers_unreached 1.0",
        "percale_pods 3.0",
        "percale_ready 1.0",
        "percale_kernel_batches_total 1.0",
        "percale_kernel_changes_total 3.0",
        "percale_kernel_refused_total 1.0",
        'percale_kernel_batch_seconds_bucket{le="0.01"} 0.0',
        'percale_kernel_batch_seconds_bucket{le="0.025"} 1.0',
        'percale_addresses_free{subnet="10.244.1.0/24"} 250.0',
    ):
        assert line in lines


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [
        (b"POST /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 405),
        (b"DELETE /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
    ],
)
async def test_what_is_not_a_short_get_is_refused(socket: Path, request_bytes: bytes, code: int) -> None:
    async with serving(socket, StatusSource()):
        assert (await exchange(socket, request_bytes))[0] == code
        assert (await get(socket, "/healthz"))[0] == 200


async def test_who_never_ends_his_request_keeps_nobody_out(socket: Path) -> None:
    """Many more than the agent has descriptors for."""
    before = descriptors()
    async with serving(socket, StatusSource()):
        assert (await get(socket, "/healthz"))[0] == 200
        with ExitStack() as down:
            for number in range(10 * MOST_CONNECTIONS):
                _, writer = await asyncio.open_unix_connection(str(socket))
                down.callback(writer.close)
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
                if number % MOST_CONNECTIONS == 0:
                    assert (await get(socket, "/healthz"))[0] == 200
            ours = descriptors() - before - 10 * MOST_CONNECTIONS
            assert ours <= MOST_CONNECTIONS + 5, "the server's ends, and few else"


async def test_a_request_that_goes_on_and_on_is_ended(socket: Path) -> None:
    async with serving(socket, StatusSource()):
        reader, writer = await asyncio.open_unix_connection(str(socket))
        with closing(writer):
            for _ in range(MANY):  # as many as one likes, one after the other
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 1000 + b"\r\n\r\n")
                assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200 OK")
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
            with pytest.raises(ConnectionError):
                for _ in range(100 * MANY):
                    writer.write(b"X: " + b"y" * 1000 + b"\r\n")
                    await writer.drain()
        assert (await get(socket, "/healthz"))[0] == 200


async def test_a_socket_left_behind_is_taken_over(socket: Path) -> None:
    with listen(f"unix:{socket}"):
        socket.rename(socket.with_suffix(".left"))
    socket.with_suffix(".left").rename(socket)
    assert socket.is_socket()
    async with serving(socket, StatusSource()):
        assert (await get(socket, "/healthz"))[0] == 200
    assert not socket.exists()


def test_an_unusable_address_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with listen("0.0.0.0:0") as taken:
        for address in (f"unix:{tmp_path}/file/socket", f"0.0.0.0:{taken.getsockname()[1]}"):
            where = re.escape(f"http {address}: cannot listen: ")
            with pytest.raises(BadConfig, match=where + r".*; choose another with --http"), listen(address):
                pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_who_asks_first_is_answered_too(socket: Path) -> None:
    with listen(f"unix:{socket}") as listener:
        asking_now = asyncio.create_task(get(socket, "/healthz"))
        async with asyncio.timeout(30):
            await wait_for_connection(listener)
        serving_now = asyncio.create_task(serve(listener, StatusSource()))
        assert await asking_now == (200, "ok\n")
        serving_now.cancel()


async def test_the_status_is_asked_over_a_unix_socket(socket: Path) -> None:
    async with serving(socket, StatusSource()):
        document = await asyncio.to_thread(client.fetch, f"unix:{socket}")
    assert client.decode(document) == STATUS


def test_nobody_answers(socket: Path) -> None:
    with pytest.raises(AgentError, match=r"no agent answers: No such file or directory; start one with percale agent"):
        client.fetch(f"unix:{socket}")
    with pytest.raises(AgentError, match="an answer that this version does not understand"):
        client.decode(b"{}")


def test_where_the_agent_is_comes_from_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text("http: 127.0.0.1:1234\nstore: files:/s")
    assert client.address(tmp_path / "agent.yaml", {}, None) == "127.0.0.1:1234"
    assert client.address(tmp_path / "agent.yaml", {"PERCALE_HTTP": "[::1]:5"}, None) == "[::1]:5"
    assert client.address(tmp_path / "agent.yaml", {}, "unix:/x") == "unix:/x"
    assert client.address(None, {}, None) == "127.0.0.1:9099"
    with pytest.raises(BadConfig, match="the agent serves no HTTP"):
        client.address(None, {"PERCALE_HTTP": "none"}, None)


def test_the_text_form() -> None:
    assert (
        "\n".join(lines(STATUS, 1070.0))
        == """\
node                   n1, ready
agent                  percale 1.2.3, pid 42, up 1m
network                10.244.0.0/16
subnet 10.244.1.0/24   3 addresses used, 250 free
backend                vxlan, pods' MTU 1450
interface              eth0, 192.168.0.1

PEERS 2
  NODE   SUBNETS         ADDRESSES     BACKEND   PATH     STATE
  n2     10.244.2.0/24   192.168.0.2   vxlan     tunnel   reached
  n3     10.244.3.0/24   192.168.0.3   host-gw   none     it uses host-gw, we use vxlan

PODS 1
  POD           ADDRESSES    INTERFACE   CONTAINER
  default/web   10.244.1.2   eth0        0123456789abc

PROBLEMS 1
  SINCE    SOURCE           ERROR
  1m ago   store bad.yaml   bad.yaml:3: not YAML

last error: 1m ago, store bad.yaml: bad.yaml:3: not YAML"""
    )


def test_an_agent_that_knows_nothing_yet() -> None:
    nothing = {"networks": (), "addresses": (), "peers": (), "pods": (), "problems": ()}
    empty = msgspec.structs.replace(
        STATUS, ready=False, waitingFor=("no default route",), backend=None, interface=None, lastError=None, **nothing
    )
    text = "\n".join(lines(empty, 1003.0))
    assert "n1, not ready: no default route" in text
    assert text.count("unknown yet") == 3
    assert text.endswith("last error: none")
