"""The probe found in packets of all kinds, its answer told from it, and other packets left alone."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from percale.kernel.probe_packet import Outermost, Probe, Protocol, checksum, echo_request, header_of, syn
from percale.model.addresses import IPAddress

TOKEN = b"\x12\x34\x56\x78"
CLIENT: dict[int, IPAddress] = {4: ip_address("10.244.1.2"), 6: ip_address("fd00::2")}
SERVER: dict[int, IPAddress] = {4: ip_address("10.244.2.3"), 6: ip_address("fd00::3")}
ENDS = [(4, "10.1.1.1", "10.1.1.2"), (6, "fd01::1", "fd01::2")]


def probe(protocol: Protocol, version: int) -> Probe:
    return Probe.new(protocol, version, 80, (80, 8080), TOKEN)


def ip(source: IPAddress, destination: IPAddress, protocol: int, payload: bytes) -> bytes:
    if source.version == 4:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
    else:
        head = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64)
    return head + source.packed + destination.packed + payload


def request(protocol: Protocol, version: int) -> bytes:
    made = probe(protocol, version)
    match protocol:
        case "TCP":
            payload = syn(CLIENT[version], 40000, SERVER[version], 80, made.token)
        case "UDP":
            payload = struct.pack(">HHHH", 40000, 80, 8 + len(made.payload), 0) + made.payload
        case "ICMP":
            payload = echo_request(version, 7, made.payload)
    return ip(CLIENT[version], SERVER[version], made.number, payload)


def answer(protocol: Protocol, version: int) -> bytes:
    made = probe(protocol, version)
    match protocol:
        case "TCP":
            payload = struct.pack(">HHIIBBHHH", 80, 40000, 9, made.token + 1, 5 << 4, 0x12, 1, 0, 0)
        case "UDP":
            payload = struct.pack(">HHHH", 8080, 40000, 10, 0) + b"hi"
        case "ICMP":
            payload = bytes((0 if version == 4 else 129,)) + echo_request(version, 7, made.payload)[1:]
    return ip(SERVER[version], CLIENT[version], made.number, payload)


def wrapped(inner: bytes, version: int, how: str) -> bytes:
    """Carried by a tunnel, or quoted by an ICMP error, of this outer version."""
    _, source, destination = ENDS[0 if version == 4 else 1]
    ethernet = bytes(12) + (b"\x08\x00" if inner[0] >> 4 == 4 else b"\x86\xdd")
    number, payload = {
        "vxlan": (17, bytes(8 + 8) + ethernet + inner),
        "udp": (17, bytes(8) + inner),
        "ip in ip": (4 if inner[0] >> 4 == 4 else 41, inner),
        "error": (1 if version == 4 else 58, b"\x03\x03" + bytes(6) + inner),
    }[how]
    return ip(ip_address(source), ip_address(destination), number, payload)


EVERY = pytest.mark.parametrize(
    ("protocol", "version"), [(protocol, version) for protocol in ("TCP", "UDP", "ICMP") for version in (4, 6)]
)


@EVERY
def test_request_and_answer_are_told_apart(protocol: Protocol, version: int) -> None:
    for packet, is_answer in ((request(protocol, version), False), (answer(protocol, version), True)):
        found = probe(protocol, version).find(packet)
        assert found is not None
        ends = (SERVER, CLIENT) if is_answer else (CLIENT, SERVER)
        assert (found.header.source, found.header.destination) == tuple(end[version] for end in ends)
        assert (found.is_answer, found.length, found.outer) == (is_answer, len(packet), None)


@EVERY
@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("how", ["vxlan", "udp", "ip in ip", "error"])
def test_it_is_found_inside_of_other_packets(protocol: Protocol, version: int, outer: int, how: str) -> None:
    found = probe(protocol, version).find(wrapped(request(protocol, version), outer, how))
    assert found is not None and found.outer is not None
    assert (found.header.destination, found.is_answer) == (SERVER[version], False)
    assert (found.outer.source.version, found.error is not None, found.is_carried) == (
        outer,
        how == "error",
        how != "error",
    )


@EVERY
@pytest.mark.parametrize("how", ["vxlan", "udp", "ip in ip"])
def test_errors_about_it_are_told_from_errors_about_its_tunnel(protocol: Protocol, version: int, how: str) -> None:
    inside = probe(protocol, version).find(wrapped(wrapped(request(protocol, version), version, "error"), 4, how))
    about = probe(protocol, version).find(wrapped(wrapped(request(protocol, version), 4, how), 4, "error"))
    assert inside is not None and about is not None
    assert (inside.error, inside.is_carried) == ((3, 3), True)
    assert (about.error, about.is_carried) == ((3, 3), False)


@EVERY
def test_the_positions_are_those_of_the_token(protocol: Protocol, version: int) -> None:
    packet, found = wrapped(request(protocol, version), 4, "vxlan"), probe(protocol, version)
    assert any(packet[offset : offset + len(value)] == value for offset, value in found.everywhere()[Outermost(4, 17)])
    reply = answer(protocol, version)
    places = found.everywhere(answers=True)[Outermost(version, found.number)]
    assert any(reply[offset : offset + len(value)] == value for offset, value in places)


@EVERY
def test_others_packets_are_not_it(protocol: Protocol, version: int) -> None:
    other = Probe.new(protocol, version, 80, (80,), b"abcd")
    assert other.find(request(protocol, version)) is None
    for length in range(0, 40, 3):
        probe(protocol, version).find(request(protocol, version)[:length])


def test_checksums_are_valid() -> None:
    header = syn(CLIENT[4], 1, SERVER[4], 2, 3)
    pseudo = CLIENT[4].packed + SERVER[4].packed + struct.pack(">IHBB", len(header), 0, 0, 6)
    assert checksum(pseudo + header) == b"\0\0"
    assert checksum(echo_request(4, 1, b"odd")) == b"\0\0"
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == bytes.fromhex("220d"), "RFC 1071's example"


def test_a_query_to_a_name_server_is_one() -> None:
    query = Probe.new("UDP", 4, 53, (53,), TOKEN).payload
    assert query == TOKEN[:2] + bytes.fromhex("0100 0001 0000 0000 0000 00 0002 0001")


def test_headers_that_are_given_apart() -> None:
    packet = request("TCP", 4)
    found = header_of(packet[:20], packet[20:])
    assert found is not None
    assert (found.source_port, found.destination_port, found.destination) == (40000, 80, SERVER[4])
    assert header_of(b"", b"") is None
