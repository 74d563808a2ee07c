"""Names that a probe looks up inside a pod's namespace."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from threading import Thread

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from percale.errors import NotFound
from percale.lab.api.probe import look_up
from percale.lab.process.netns_visit import visit

WEB = "web.shop.svc.cluster.local."


@contextmanager
def name_server(namespace: Path, *, lost: int) -> Iterator[None]:
    """Knows one name, and hears nothing of the first `lost` questions."""
    server = visit(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    server.bind(("127.0.0.1", 53))

    def serve() -> None:
        for heard in range(100):
            question, client = server.recvfrom(512)
            if not question:
                return
            if heard >= lost:
                server.sendto(answer(question), client)

    thread = Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        end = visit(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        end.sendto(b"", server.getsockname())
        thread.join()
        end.close()
        server.close()


def answer(question: bytes) -> bytes:
    asked = dns.message.from_wire(question)
    made = dns.message.make_response(asked)
    made.flags |= dns.flags.RA
    name = asked.question[0].name.to_text()
    if name != WEB:
        made.set_rcode(dns.rcode.NXDOMAIN)
    elif asked.question[0].rdtype == dns.rdatatype.A:
        made.answer.append(dns.rrset.from_text(name, 5, "IN", "A", "10.96.0.7"))
    return made.to_wire()


@pytest.fixture
def resolver(tmp_path: Path) -> Path:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 127.0.0.1\nsearch shop.svc.cluster.local\noptions ndots:5\n")
    return file


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_question_that_gets_lost_is_asked_again(namespace: Path, resolver: Path, lost: int) -> None:
    with name_server(namespace, lost=lost):
        assert visit(namespace, lambda: look_up(resolver, "web", 8, "h")) == (ip_address("10.96.0.7"),)


def test_a_name_that_is_not_there_says_what_to_type(namespace: Path, resolver: Path) -> None:
    with name_server(namespace, lost=0), pytest.raises(NotFound) as error:
        visit(namespace, lambda: look_up(resolver, "nosuch", 8, "percale lab get svc -A"))
    assert str(error.value) == "there is no name nosuch; percale lab get svc -A"


def test_a_name_server_that_is_silent(namespace: Path, resolver: Path) -> None:
    with name_server(namespace, lost=100), pytest.raises(TimeoutError):
        visit(namespace, lambda: look_up(resolver, "web", 0.5, "h"))
