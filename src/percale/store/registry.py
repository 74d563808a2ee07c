"""Opens a store by its address, `SCHEME:REST`. Called by the agent and by commands."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from msgspec import Struct

from percale.errors import BadConfig
from percale.model.kinds import KINDS, Kinds
from percale.store.etcd.address import FORM as ETCD_FORM
from percale.store.etcd.address import parse_address as parse_etcd_address
from percale.store.kubernetes.address import FORM as KUBERNETES_FORM
from percale.store.kubernetes.address import parse_address as parse_kubernetes_address
from percale.store.kubernetes.cluster_access import ClusterAccess
from percale.store.last_state import LastState
from percale.store.protocol import Store

Open: TypeAlias = Callable[[str, Kinds, LastState | None], Store]
"""Opens the store at the rest of an address. Reads nothing before the first operation. Raises BadConfig."""


class Scheme(Struct, frozen=True):
    """A kind of store; `form` is how its addresses are written."""

    form: str
    open: Open
    rest_optional: bool = False
    """Whether the name alone, `SCHEME:`, is an address."""
    api_server: bool = False
    """Whether one answers, which checks and completes objects, and has other writers and controllers."""
    servers: Callable[[str], Sequence[str]] = lambda _rest: ()
    """The URLs of its servers. Raises BadConfig."""


def _open_files(directory: str, kinds: Kinds, last_state: LastState | None) -> Store:
    """A missing directory is an unavailable store: creating an empty one would lose the whole cluster.

    An agent, which has a last state, goes on while somebody's large file is read; a command wants all of them.
    """
    store = importlib.import_module("percale.store.files.store")
    opened: Store = store.FilesStore(Path(directory), kinds=kinds, make=False, defer=last_state is not None)
    return opened


def _open_kubernetes(rest: str, _kinds: Kinds, last_state: LastState | None) -> Store:
    """The API knows more kinds than ours. The module is imported here: most processes need no HTTP client."""
    store = importlib.import_module("percale.store.kubernetes.store")
    opened: Store = store.open_kubernetes(rest, last_state)
    return opened


def _open_etcd(rest: str, kinds: Kinds, last_state: LastState | None) -> Store:
    """The module is imported here: most processes need no HTTP client."""
    store = importlib.import_module("percale.store.etcd.store")
    opened: Store = store.EtcdStore(parse_etcd_address(rest), kinds, last_state)
    return opened


def _kubernetes_servers(rest: str) -> Sequence[str]:
    access: ClusterAccess = importlib.import_module("percale.store.kubernetes.kubeconfig").access_at(
        parse_kubernetes_address(rest)
    )
    return (access.server,)


SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        "files": Scheme("files:/DIRECTORY", _open_files),
        "kubernetes": Scheme(
            KUBERNETES_FORM, _open_kubernetes, rest_optional=True, api_server=True, servers=_kubernetes_servers
        ),
        "etcd": Scheme(ETCD_FORM, _open_etcd, servers=lambda rest: parse_etcd_address(rest).endpoints),
    }
)


def has_api_server(address: str) -> bool:
    """Of a store that can be opened."""
    return SCHEMES[address.partition(":")[0]].api_server


def server_urls(address: str) -> Sequence[str]:
    """Of the servers at this address, of which there may be none. Raises BadConfig."""
    name, _, rest = address.partition(":")
    return SCHEMES[name].servers(rest)


def open_store(
    address: str,
    kinds: Kinds = KINDS,
    schemes: Mapping[str, Scheme] = SCHEMES,
    *,
    last_state: Path | None = None,
) -> Store:
    """The store at this address. `last_state` is where one that is a server keeps what it saw. Raises BadConfig."""
    name, colon, rest = address.partition(":")
    scheme = schemes.get(name)
    if scheme is None or not colon or not (rest or scheme.rest_optional):
        forms = " or ".join(each.form for each in schemes.values())
        raise BadConfig(f'no store "{address}"', where="store", hint=f"write {forms}")
    return scheme.open(rest, kinds, LastState(last_state, address) if last_state is not None else None)
