"""The agent's own state that survives a reboot: its subnet and its machine id.

One small JSON file, replaced atomically.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import MappingProxyType

import msgspec
from msgspec.structs import replace

from percale.atomic_file import replace_file
from percale.cni.directory_owner import require_ours
from percale.errors import StateError
from percale.model.addresses import IPNetwork, check_network, parse_network
from percale.model.manifest.json_text import decode_json
from percale.model.manifest.schema import from_text
from percale.model.subnet_lease import NodeSubnets

ADDRESSES, PODS, LAST_STATE = "addresses", "pods", "last-state"
"""Further entries of the state directory: the journal of ipam/address_pool.py, the records of cni/records.py, and the logs of
store/last_state.py.
"""


class _Document(msgspec.Struct, frozen=True, omit_defaults=True):
    machine: str
    subnet: IPv4Network | None = None
    ipv6Subnet: IPv6Network | None = None
    macs: dict[str, str] = {}
    blocks: tuple[str, ...] = ()
    backend: str = ""

    def __post_init__(self) -> None:
        for block in self.blocks:
            check_network(block)


_DECODER = msgspec.json.Decoder(_Document, dec_hook=from_text)


class NodeState:
    """Raises StateError when the directory cannot be read or written."""

    FILE = "node.json"

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / self.FILE
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            require_ours(state_dir, "--state-dir")
            document = self._read()
        except OSError as error:
            raise self._unusable(error) from error
        self._document = document or _Document(machine=secrets.token_hex(16))
        self._write()  # even if unchanged: a full or read-only directory fails now

    @property
    def machine(self) -> str:
        """A random machine id, made at the first start."""
        return self._document.machine

    @property
    def subnets(self) -> NodeSubnets | None:
        """The subnets of the previous run."""
        known = NodeSubnets(self._document.subnet, self._document.ipv6Subnet)
        return known or None

    @property
    def macs(self) -> Mapping[str, str]:
        """Of devices that were taken over from flannel, by their names."""
        return MappingProxyType(self._document.macs)

    @property
    def blocks(self) -> tuple[IPNetwork, ...]:
        """This node's of IP pools."""
        return tuple(map(parse_network, self._document.blocks))

    @property
    def backend(self) -> str:
        """By which peers reach this node; empty before the first start."""
        return self._document.backend

    def save_backend(self, backend: str) -> None:
        """They do so now."""
        self._save(replace(self._document, backend=backend))

    def save_blocks(self, blocks: Iterable[IPNetwork]) -> None:
        """It has these."""
        self._save(replace(self._document, blocks=tuple(map(str, blocks))))

    def save_subnets(self, subnets: NodeSubnets) -> None:
        """Prefer these at the next start."""
        self._save(replace(self._document, subnet=subnets.ipv4, ipv6Subnet=subnets.ipv6))

    def save_macs(self, macs: Mapping[str, str]) -> None:
        """These devices keep them."""
        self._save(replace(self._document, macs=dict(macs)))

    def _save(self, document: _Document) -> None:
        if document != self._document:
            self._document = document
            self._write()

    def _read(self) -> _Document | None:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return decode_json(_DECODER, content)
        except ValueError as error:
            raise StateError(
                f"not a state file ({error})",
                where=str(self._path),
                hint="delete it; the node then claims a subnet as a new one",
            ) from error

    def _write(self) -> None:
        content = msgspec.json.encode(self._document, enc_hook=str)
        try:
            replace_file(self._path, content, durable=True)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> StateError:
        return StateError(
            f"cannot be written: {error.strerror}",
            where=str(error.filename or self._path),
            hint="choose another directory with --state-dir",
        )
