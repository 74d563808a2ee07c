"""Netlink's bytes: attributes, messages, refusals, and what a send holds."""

from __future__ import annotations

import errno
import struct
from contextlib import closing
from socket import SO_SNDBUF, SOL_SOCKET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink.socket import Message


def test_an_attribute_is_padded_to_four_bytes() -> None:
    assert netlink.attribute(3, b"ab") == struct.pack("=HH2s2x", 6, 3, b"ab")
    assert netlink.text(3, "eth") == struct.pack("=HH4s", 8, 3, b"eth\0")


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40))))
def test_attributes_there_and_back(pairs: list[tuple[int, bytes]]) -> None:
    data = b"".join(netlink.attribute(kind, payload) for kind, payload in pairs)
    assert list(netlink.attribute_list(data)) == pairs
    ((kind, inner),) = netlink.attribute_list(netlink.nested(7, data))
    assert (kind, inner) == (7, data)


@given(st.binary(max_size=100))
def test_attributes_of_nonsense_do_not_hang_or_raise(data: bytes) -> None:
    assert len(list(netlink.attribute_list(data))) <= 25
    assert len(list(netlink.messages(data))) <= 6


def test_several_messages_in_one_datagram() -> None:
    data = netlink.frame(16, 1, 7, b"abcd") + netlink.frame(17, 2, 8, b"")
    assert list(netlink.messages(data)) == [Message(16, 1, 7, 0, b"abcd"), Message(17, 2, 8, 0, b"")]


@pytest.mark.parametrize("capped", [True, False])
def test_an_error_carries_the_kernels_message(capped: bool) -> None:
    request = netlink.frame(16, 5, 7, b"" if capped else b"abcd")
    words = netlink.text(1, "Nexthop has invalid gateway")
    body = struct.pack("=i", -errno.ENETUNREACH) + request + words
    error = netlink.message_error(Message(netlink.ERROR, 0x200 | (0x100 if capped else 0), 7, 0, body))
    assert error is not None
    assert (error.errno, error.strerror) == (errno.ENETUNREACH, "Nexthop has invalid gateway")
    assert netlink.message_error(Message(netlink.ERROR, 0, 7, 0, bytes(20))) is None


def test_a_change_that_is_too_much_for_one_send_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    edge = netlink.Request(0, 0, b"")
    with closing(netlink.Socket(netlink.NETFILTER)) as socket:
        monkeypatch.setattr(socket, "_set_buffer", lambda *size: None)  # as for a user who may not have it larger
        socket._socket.setsockopt(SOL_SOCKET, SO_SNDBUF, 4096)
        with pytest.raises(
            OSError, match=r"100\d\d\d bytes are more .* sudo sysctl -w net.core.wmem_max=100"
        ) as raised:
            socket.commit(edge, [netlink.Request(0, 0, bytes(100_000))], edge)
        assert raised.value.errno == errno.EMSGSIZE
