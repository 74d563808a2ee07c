"""Reads and changes wireguard devices of one namespace, for `driver.py`.

    changes of one device ─▶ peers, as many as fit into a message ─▶ one send ─▶ one result per change

The kernel works through a message's peers in order and stops at the first that it rejects, so those of such a message are tried
again one by one. All that a change sends can be sent twice.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence

from percale.kernel.netlink import socket as netlink
from percale.kernel.netlink import wireguard
from percale.kernel.netlink.socket import Request
from percale.kernel.netns import NetnsExecutor
from percale.kernel.protocol import Change, Delete, Upsert
from percale.render.objects import WireguardDevice, WireguardObject, WireguardPeer


class WireguardClient:
    """Not thread-safe. Opened at the first use: most nodes have no such device."""

    def __init__(self, netns: NetnsExecutor) -> None:
        self._netns = netns
        self._opened: tuple[netlink.Socket, int] | None = None

    def close(self) -> None:
        if self._opened is not None:
            self._opened[0].close()

    def read(self, name: str, index: int) -> list[WireguardObject]:
        """The device and its peers. Raises OSError."""
        socket, family = self._open()
        return wireguard.decode(name, (message.body for message in socket.dump(family, wireguard.query(index))))

    def apply(self, name: str, index: int, changes: Sequence[Change]) -> list[OSError | None]:
        """Changes of one device, in order; one result each. Raises OSError."""
        results: list[OSError | None] = []
        run: list[Change] = []
        for change in changes:
            if isinstance(change.object, WireguardPeer):
                run.append(change)
                continue
            results += self._apply_peers(index, run)
            run = []
            results.append(self._apply_device(name, index, change))
        return results + self._apply_peers(index, run)

    def _apply_device(self, name: str, index: int, change: Change) -> OSError | None:
        """With another key all sessions have ended: peers that know it need not wait for the next packet's handshake."""
        desired = change.object
        assert isinstance(desired, WireguardDevice)
        if isinstance(change, Delete):
            return None  # it goes with its device
        before, *others = self.read(name, index)
        assert isinstance(before, WireguardDevice)
        peers = [each for each in others if isinstance(each, WireguardPeer)]
        (error,) = self._send([wireguard.put_device(desired, index)])
        if error is None and before.private_key not in (None, desired.private_key):
            self._send(body for _, body in wireguard.put_peers(index, map(wireguard.begin_handshake, peers)))
        return error

    def _apply_peers(self, index: int, changes: Sequence[Change]) -> list[OSError | None]:
        results: list[OSError | None] = []
        encoded = _encode_peers(changes)
        batches = list(wireguard.put_peers(index, encoded))
        for (count, _), error in zip(batches, self._send(body for _, body in batches), strict=True):
            if error is None or count == 1:
                results += [error] * count
            else:
                first = len(results)
                results += self._one_by_one(index, encoded[first : first + count])
        return results

    def _one_by_one(self, index: int, peers: Iterable[bytes]) -> list[OSError | None]:
        return self._send(body for each in peers for _, body in wireguard.put_peers(index, [each]))

    def _send(self, bodies: Iterable[bytes]) -> list[OSError | None]:
        socket, family = self._open()
        return socket.request([Request(family, 0, body) for body in bodies])

    def _open(self) -> tuple[netlink.Socket, int]:
        """The socket, and the number of wireguard's messages. Raises OSError."""
        if self._opened is None:
            socket = self._netns.run(lambda: netlink.Socket(netlink.GENERIC))
            try:
                answer = socket.ask(wireguard.CONTROL, wireguard.query_family("wireguard"))
            except OSError as error:
                socket.close()
                if error.errno != errno.ENOENT:
                    raise
                raise OSError(errno.EOPNOTSUPP, "this kernel has no wireguard") from error
            assert answer is not None
            self._opened = socket, wireguard.decode_family(answer.body)
        return self._opened


def _encode_peers(changes: Sequence[Change]) -> list[bytes]:
    """A peer that takes over from one that goes has a new key: a handshake with it begins at once.

    It may have known us for long, and its own one is lost when it was earlier: it tries again only after five seconds.
    """
    left = {net for change in changes if isinstance(change, Delete) for net in _peer(change).allowed}
    encoded = []
    for change in changes:
        peer = _peer(change)
        if not isinstance(change, Upsert):
            encoded.append(wireguard.remove_peer(peer.public_key))
        elif left.isdisjoint(peer.allowed):
            encoded.append(wireguard.put_peer(peer))
        else:
            encoded.append(wireguard.put_peer(peer) + wireguard.begin_handshake(peer))
    return encoded


def _peer(change: Change) -> WireguardPeer:
    assert isinstance(change.object, WireguardPeer)
    return change.object
