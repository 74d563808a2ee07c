"""Sends the probe from inside a network namespace, as a program there would. Used by `lab/trace.py`."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack, suppress
from ipaddress import ip_address

from percale.kernel.probe_packet import Probe, echo_request, syn
from percale.kernel.rtnl.path_lookup import own_source
from percale.model.addresses import IPAddress


class Sender:
    """Has a port of its own from its construction to `close`, so that the kernel refuses what answers."""

    def __init__(self, probe: Probe, destination: IPAddress) -> None:
        """In the caller's namespace. Raises OSError: without CAP_NET_RAW."""
        self._probe = probe
        self._destination = destination
        self._opened = ExitStack()
        self.port = 0
        try:
            self._open()
        except OSError:
            self.close()
            raise

    def _open(self) -> None:
        family = socket.AF_INET6 if self._probe.version == 6 else socket.AF_INET
        kind = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM, "ICMP": socket.SOCK_RAW}[self._probe.protocol]
        number = self._probe.number if self._probe.protocol == "ICMP" else 0
        self._socket = self._opened.enter_context(socket.socket(family, kind | socket.SOCK_CLOEXEC, number))
        if self._probe.protocol != "ICMP":
            self._socket.bind(("", 0))
            self.port = self._socket.getsockname()[1]
        if self._probe.protocol == "TCP":
            raw = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_TCP)
            self._raw = self._opened.enter_context(raw)

    def close(self) -> None:
        self._opened.close()

    def send(self) -> str | None:
        """Called in the namespace. Why it could not be sent; None: it was."""
        try:
            self._send()
        except OSError as error:
            return os.strerror(error.errno or 0)
        return None

    def _send(self) -> None:
        probe, where = self._probe, str(self._destination)
        match probe.protocol:
            case "TCP":
                source = ip_address(own_source(self._destination))
                packet = syn(source, self.port, self._destination, probe.port, probe.token)
                self._raw.sendto(packet, (where, 0))
            case "UDP":
                self._socket.connect((where, probe.port))
                with suppress(ConnectionRefusedError):  # of an answer that was there before `send` had returned
                    self._socket.send(probe.payload)
            case "ICMP":
                self._socket.sendto(echo_request(probe.version, probe.token & 0xFFFF, probe.payload), (where, 0))
