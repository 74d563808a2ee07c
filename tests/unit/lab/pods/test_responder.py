"""Answers from inside a namespace, and probes that get them."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest
from tests.waiting import eventually

from percale.lab.api.probe import probe
from percale.lab.pods import responder
from percale.lab.pods.responder import Identity, Port, Responder
from percale.lab.process.netns_visit import visit, visit_async

WEB = Identity("pod", "default/web-0", "node1", ("10.244.1.3",))
LOCAL = [ip_address("127.0.0.1"), ip_address("::1")]


async def exchange(namespace: Path, address: str, request: bytes) -> str:
    connection = await visit_async(namespace, lambda: socket.create_connection((address, 80)))
    connection.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=connection)
    writer.write(request)
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_http_names_who_answers_and_who_asked(namespace: Path, address: str) -> None:
    answers = Responder()
    await answers.serve(WEB, namespace, [Port(80, "TCP")])
    text = await exchange(namespace, address, b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
    head, _, body = text.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 OK")
    assert f"Content-Length: {len(body)}" in head
    lines = dict(line.split(": ", 1) for line in body.splitlines())
    spelled = f"[{address}]" if ":" in address else address
    assert lines["pod"] == "default/web-0"
    assert lines["node"] == "node1"
    assert lines["addresses"] == "10.244.1.3"
    assert lines["client"].startswith(f"{spelled}:")
    assert lines["asked"] == f"{spelled}:80"
    answers.stop("default/web-0")


async def test_head_has_no_body_and_a_bare_line_gets_a_bare_answer(namespace: Path) -> None:
    answers = Responder()
    await answers.serve(WEB, namespace, [Port(80, "TCP")])
    assert (await exchange(namespace, "127.0.0.1", b"HEAD / HTTP/1.0\r\n\r\n")).endswith("\r\n\r\n")
    assert (await exchange(namespace, "127.0.0.1", b"hello\n")).startswith("pod: default/web-0\n")
    answers.stop("default/web-0")


async def test_a_datagram_is_answered_from_the_address_it_was_sent_to(namespace: Path) -> None:
    answers = Responder()
    await answers.serve(WEB, namespace, [Port(53, "UDP")])

    def ask(address: str) -> tuple[str, str]:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.sendto(b"?", (address, 53))
            text, sender = client.recvfrom(2048)
            return text.decode(), sender[0]

    for address in ("127.0.0.9", "::1"):
        text, sender = await visit_async(namespace, partial(ask, address))
        assert sender == address
        assert "pod: default/web-0\n" in text
        assert f"asked: {'[::1]' if ':' in address else address}:53" in text
    answers.stop("default/web-0")


async def test_a_port_in_use_is_taken_over_when_it_is_free(namespace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responder, "RETRY", 0.01)
    own = visit(namespace, lambda: socket.create_server(("127.0.0.1", 80)))
    answers = Responder()
    await answers.serve(WEB, namespace, [Port(80, "TCP"), Port(81, "TCP")])
    assert (await probe(namespace, LOCAL[0], 81, "TCP", 5)).result == "allowed"
    own.close()

    async def allowed() -> bool:
        return (await probe(namespace, LOCAL[0], 80, "TCP", 5)).result == "allowed"

    await eventually(allowed)
    answers.stop("default/web-0")
    assert (await probe(namespace, LOCAL[0], 80, "TCP", 5)).result == "refused"


async def test_probe_tells_refused_unreachable_and_timeout_apart(namespace: Path) -> None:
    for address in LOCAL:
        for protocol in ("TCP", "UDP"):
            outcome = await probe(namespace, address, 9, "TCP" if protocol == "TCP" else "UDP", 5)
            assert (outcome.result, outcome.reason) == ("refused", "Connection refused")
    assert (await probe(namespace, ip_address("10.0.0.1"), 80, "TCP", 5)).result == "unreachable"
    silent = visit(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    silent.bind(("127.0.0.1", 7))
    assert (await probe(namespace, LOCAL[0], 7, "UDP", 0.05)).result == "timeout"
    silent.close()
