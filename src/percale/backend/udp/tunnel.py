"""The program of the udp backend: carries IPv4 packets between a TUN device and the peers, each as a datagram's payload.

    flannel0 ─ frame ─▶ peer of its destination, TTL ─▶ segments ─▶ one send (UDP_SEGMENT) ─▶ peer
    flannel0 ◀─ frames ─ joined segments ◀─ from that peer's subnet? TTL ◀─ one read (UDP_GRO) ◀─ peer

flannel's wire format (pkg/backend/udp/proxy_amd64.c). It outlives the agent: `python -m percale.backend.udp.tunnel DIRECTORY`,
with its configuration there, read again at each connection to its socket there, which answers with a `TunnelStatus`.
"""

from __future__ import annotations

import errno
import os
import selectors
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from percale.backend.udp import segments
from percale.backend.udp.config import CONFIG, OVERHEAD, SOCKET, TunnelConfig, TunnelStatus
from percale.backend.udp.packets import (
    NET_UNREACHABLE,
    PLAIN,
    TOO_BIG,
    TTL_EXCEEDED,
    VNET_HEADER,
    Buffer,
    VnetHeader,
    complete,
    decrement_ttl,
    icmp_error,
    is_ipv4,
)
from percale.backend.udp.peers import TunnelPeers
from percale.kernel import tun
from percale.unix_socket import listen_at

_LARGEST = 65535
_LARGEST_SEND, _MOST_SEGMENTS = 65507, 128
"""Bytes and datagrams of one send."""
_PACKETS_PER_TURN = 64
"""Of one side, before the other has its turn."""
_BUFFER = 4 << 20
"""Bytes of the socket's buffers."""
_ERRORS_PER_SECOND = 1000
"""ICMP messages that a flood of bad packets can cause."""
_RETRY_INTERVAL = 0.05
"""Seconds until a missing device, or address, is looked for again."""

_UDP_SEGMENT, _UDP_GRO = 103, 104
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_IP_MTU, _IP_MTU_DISCOVER, _PMTUDISC_DONT, _PMTUDISC_DO = 14, 10, 0, 2
_DONT_FRAGMENT = 0x40


class Tunnel:
    """One thread; packets are dropped where they cannot go on, and counted."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError, msgspec.DecodeError."""
        self._path = directory / CONFIG
        self._dropped: Counter[str] = Counter()
        self._selector = selectors.DefaultSelector()
        self._frame = bytearray(VNET_HEADER + _LARGEST)
        self._datagrams = bytearray(_LARGEST)
        self._icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._icmp.setblocking(False)
        self._errors = (0, 0)
        """The second, and the ICMP messages sent in it."""
        self._device: int | None = None
        self._socket: socket.socket | None = None
        self._problem: str | None = None
        self._read = self._path.read_bytes()
        self._config = msgspec.json.decode(self._read, type=TunnelConfig)
        self._peers = TunnelPeers(self._config.peers)
        self._open()
        self._control = listen_at(directory / SOCKET, backlog=8, mode=0o600)
        self._selector.register(self._control, selectors.EVENT_READ, self._answer)

    def run(self) -> None:
        """Carries packets until the process is ended."""
        while True:
            broken = self._device is None or self._socket is None
            for key, _ in self._selector.select(_RETRY_INTERVAL if broken else None):
                action: Callable[[], None] = key.data
                action()
            if broken:
                self._open()

    def _open(self) -> None:
        """The device and the socket, as far as they are missing."""
        config = self._config
        try:
            if self._device is None:
                self._device = tun.attach(config.device)
                self._selector.register(self._device, selectors.EVENT_READ, self._from_device)
            if self._socket is None:
                self._socket = _udp_socket(config.address, config.port)
                self._selector.register(self._socket, selectors.EVENT_READ, self._from_socket)
            self._icmp.bind((config.source, 0))
        except OSError as error:
            what = config.device if self._device is None else f"{config.address}:{config.port}"
            self._problem = f"{what}: {error.strerror}"
        else:
            self._problem = None

    # Control

    def _answer(self) -> None:
        """Read the configuration again, and say how it goes."""
        connection, _ = self._control.accept()
        with connection, suppress(OSError):
            connection.settimeout(1)
            problem = self._configure()
            status = TunnelStatus(os.getpid(), dict(self._dropped), problem or self._problem)
            connection.sendall(msgspec.json.encode(status))

    def _configure(self) -> str | None:
        """Returns what is wrong with the configuration; the one in force stays then."""
        try:
            content = self._path.read_bytes()
            if content != self._read:
                self._adopt(msgspec.json.decode(content, type=TunnelConfig))
                self._read = content
        except (OSError, msgspec.DecodeError) as error:
            return f"{self._path}: {error}"
        self._open()
        return None

    def _adopt(self, config: TunnelConfig) -> None:
        before, self._config = self._config, config
        self._peers = TunnelPeers(config.peers)
        if config.device != before.device:
            self._close_device()
        if (config.address, config.port) != (before.address, before.port) and self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None

    def _close_device(self) -> None:
        if self._device is not None:
            self._selector.unregister(self._device)
            os.close(self._device)
            self._device = None

    # From this node to peers

    def _from_device(self) -> None:
        for _ in range(_PACKETS_PER_TURN):
            if self._device is None:
                break
            try:
                size = os.readv(self._device, (self._frame,))
            except BlockingIOError:
                break
            except OSError as error:  # EBADFD: somebody has deleted the device
                self._problem = f"{self._config.device}: {error.strerror}"
                self._close_device()
                break
            packet = memoryview(self._frame)[VNET_HEADER:size]
            if not is_ipv4(packet):
                self._drop("not IPv4")
            elif (peer := self._peers.of(packet[16:20])) is None:
                self._refuse("no peer", NET_UNREACHABLE, packet)
            elif packet[8] <= 1:
                self._refuse("TTL", TTL_EXCEEDED, packet)
            else:
                decrement_ttl(packet)
                self._send(peer, packet, VnetHeader.of(self._frame))

    def _send(self, peer: str, packet: memoryview, vnet: VnetHeader) -> None:
        size = 0
        data: Buffer = packet
        try:
            if vnet.gso_type:
                data, size = segments.split(packet, vnet)
            elif vnet.needs_checksum:
                complete(packet, vnet)
        except ValueError as error:
            self._drop(str(error))
            return
        try:
            self._send_to(peer, data, size)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.EINVAL):
                self._drop(error.strerror or "not sent")
            elif packet[6] & _DONT_FRAGMENT:
                self._refuse("too big", TOO_BIG, packet, _path_mtu(peer, self._config.port) - OVERHEAD)
            else:
                self._send_fragmented(peer, data, size or len(data))

    def _send_to(self, peer: str, data: Buffer, size: int) -> None:
        """In as few calls as the kernel allows: `size` bytes in each datagram; 0: all in one. Raises OSError."""
        if self._socket is None:
            raise OSError(errno.ENOTCONN, "no socket")
        address = (peer, self._config.port)
        if not size:
            self._socket.sendto(data, address)
            return
        step = min(_LARGEST_SEND // size, _MOST_SEGMENTS) * size
        segmented = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", size))]
        for start in range(0, len(data), step):
            self._socket.sendmsg((data[start : start + step],), segmented, 0, address)

    def _send_fragmented(self, peer: str, data: Buffer, size: int) -> None:
        """Packets that may be fragmented, of `size` bytes each: the kernel does so with the outer ones."""
        if self._socket is None:
            return
        self._socket.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
        try:
            for start in range(0, len(data), size):
                self._send_to(peer, data[start : start + size], 0)
        except OSError as error:
            self._drop(error.strerror or "not sent")
        finally:
            self._socket.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)

    # From peers to this node

    def _from_socket(self) -> None:
        for _ in range(_PACKETS_PER_TURN):
            if self._socket is None:
                break
            try:
                size, ancillary, _, (host, _) = self._socket.recvmsg_into((self._datagrams,), 64)
            except BlockingIOError:
                break
            except OSError as error:
                self._drop(error.strerror or "not received")
                break
            each = struct.unpack("=i", ancillary[0][2])[0] if ancillary else size
            data = memoryview(self._datagrams)[:size]
            for vnet, packet in segments.join(data, each) if size else ():
                self._receive(packet, vnet, host)

    def _receive(self, packet: bytearray, vnet: VnetHeader, host: str) -> None:
        """What says that it comes from a peer's pods must come from that peer."""
        if not is_ipv4(packet):
            self._drop("not IPv4")
        elif self._peers.of(packet[12:16]) != host:
            self._drop("not from its peer")
        elif packet[8] <= 1:
            self._refuse("TTL", TTL_EXCEEDED, packet)
        elif self._device is not None:
            decrement_ttl(packet)
            try:
                os.writev(self._device, (vnet.pack() if vnet.gso_type else PLAIN, packet))
            except OSError as error:
                self._drop(error.strerror or "not received")

    # What cannot go on

    def _drop(self, why: str) -> None:
        self._dropped[why] += 1

    def _refuse(self, why: str, kind: tuple[int, int], packet: Buffer, mtu: int = 0) -> None:
        """Drop it and tell its sender, by this node's own stack: what comes from a device with our own address is dropped."""
        self._drop(why)
        message = icmp_error(kind, packet, mtu)
        second, sent = self._errors
        now = int(time.monotonic())
        if message is not None and (second != now or sent < _ERRORS_PER_SECOND):
            self._errors = (now, sent + 1 if second == now else 1)
            with suppress(OSError):
                self._icmp.sendto(message, (socket.inet_ntoa(packet[12:16]), 0))


def _udp_socket(address: str, port: int) -> socket.socket:
    """Reads and sends many datagrams at once. Raises OSError."""
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        found.setblocking(False)
        found.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
        found.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF, _SO_RCVBUFFORCE, _SO_SNDBUFFORCE):
            with suppress(PermissionError):  # the latter two, in a user namespace
                found.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        found.bind((address, port))
    except OSError:
        found.close()
        raise
    return found


def _path_mtu(peer: str, port: int) -> int:
    """Bytes of an outer packet to this peer, as the kernel has learned."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, port))
            return probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        except OSError:
            return 576  # RFC 791: what everybody takes


def main() -> None:
    """Started by `tunnel_process.py` in the agent's network namespace."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's, meant for the agent
    Tunnel(Path(sys.argv[1])).run()


if __name__ == "__main__":
    main()
