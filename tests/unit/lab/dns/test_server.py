"""The lab's name server, message by message."""

from __future__ import annotations

import asyncio
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import msgspec
import pytest
from tests import builders

from percale.lab.dns.records import Zone
from percale.lab.dns.server import MOST_STREAMS, NameServer

WEB = builders.service("web", namespace="shop", clusterIP="10.96.0.7")
ALIAS = builders.service("db", namespace="shop", type="ExternalName", externalName="outside")
MANY = builders.service("many", namespace="shop", clusterIP="None")
MANY_ENDPOINTS = builders.endpoint_slice("many", *(f"10.244.0.{number}" for number in range(1, 101)), namespace="shop")


@pytest.fixture
def server() -> NameServer:
    made = NameServer()
    made.zone = Zone([WEB, ALIAS, MANY], [MANY_ENDPOINTS])
    made.hosts = {"outside": ("203.0.113.2", "fd00::2")}
    return made


def asked(server: NameServer, name: str, kind: str, *, datagram: bool = True) -> dns.message.Message:
    answer = server.answer(dns.message.make_query(name, kind).to_wire(), datagram=datagram)
    assert answer is not None
    return dns.message.from_wire(answer)


def texts(message: dns.message.Message) -> list[str]:
    return [item.to_text() for entry in message.answer for item in entry]


def test_a_service_has_its_cluster_ip(server: NameServer) -> None:
    answer = asked(server, "web.shop.svc.cluster.local.", "A")
    assert texts(answer) == ["10.96.0.7"]
    assert answer.flags & dns.flags.AA


def test_an_external_name_is_followed(server: NameServer) -> None:
    assert texts(asked(server, "db.shop.svc.cluster.local.", "A")) == ["outside.", "203.0.113.2"]
    assert texts(asked(server, "db.shop.svc.cluster.local.", "AAAA")) == ["outside.", "fd00::2"]


def test_a_host_outside_is_known_by_its_name(server: NameServer) -> None:
    assert texts(asked(server, "outside.", "A")) == ["203.0.113.2"]


@pytest.mark.parametrize("name", ["nobody.shop.svc.cluster.local.", "www.example.org."])
def test_what_is_not_there_does_not_exist(server: NameServer, name: str) -> None:
    assert asked(server, name, "A").rcode() == dns.rcode.NXDOMAIN


def test_a_name_without_this_type_is_no_error(server: NameServer) -> None:
    answer = asked(server, "web.shop.svc.cluster.local.", "AAAA")
    assert (answer.rcode(), texts(answer)) == (dns.rcode.NOERROR, [])


def test_an_answer_too_long_for_a_datagram_says_so_and_comes_by_tcp(server: NameServer) -> None:
    short = asked(server, "many.shop.svc.cluster.local.", "A")
    assert short.flags & dns.flags.TC
    assert len(texts(asked(server, "many.shop.svc.cluster.local.", "A", datagram=False))) == 100


@pytest.mark.parametrize("request_", [b"", b"\0" * 11, b"GET / HTTP/1.1\r\n\r\n"])
def test_what_is_no_question_gets_no_answer(server: NameServer, request_: bytes) -> None:
    assert server.answer(request_, datagram=True) is None


@pytest.mark.parametrize("external", ["two..dots", "a;comment"])
def test_a_name_that_no_message_can_hold_is_a_failure_of_that_name_alone(server: NameServer, external: str) -> None:
    odd = msgspec.structs.replace(ALIAS, spec=msgspec.structs.replace(ALIAS.spec, externalName=external))
    server.zone = Zone([WEB, odd], [])
    answer = asked(server, "db.shop.svc.cluster.local.", "A")
    assert (answer.rcode(), texts(answer)) == (dns.rcode.SERVFAIL, [])


async def test_idle_connections_close_no_door_to_others(server: NameServer, tmp_path: Path) -> None:
    """A new one beyond the limit closes the oldest."""
    query = dns.message.make_query("web.shop.svc.cluster.local.", "A").to_wire()
    listening = await asyncio.start_unix_server(server.serve_stream, tmp_path / "dns")
    idle = [await asyncio.open_unix_connection(tmp_path / "dns") for _ in range(MOST_STREAMS + 8)]
    reader, writer = await asyncio.open_unix_connection(tmp_path / "dns")
    writer.write(len(query).to_bytes(2, "big") + query)
    async with asyncio.timeout(4):
        answer = dns.message.from_wire(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))
        assert [await each.read(1) for each, _ in idle[:9]] == [b""] * 9
    assert texts(answer) == ["10.96.0.7"]
    assert not any(each.at_eof() for each, _ in idle[9:])
    listening.close()
    for _, each in [*idle, (reader, writer)]:
        each.close()
    await asyncio.sleep(0)
