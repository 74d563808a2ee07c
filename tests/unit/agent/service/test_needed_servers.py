"""Which servers an agent needs: no Service of anybody gets their addresses."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from percale.agent.service.needed_servers import needed_servers
from percale.store.kubernetes.cluster_access import ClusterAccess
from percale.store.kubernetes.store import KubernetesStore
from percale.store.memory import MemoryStore
from percale.store.protocol import Store
from percale.store.registry import open_store


@pytest.mark.parametrize(
    ("store", "servers"),
    [
        (MemoryStore, set()),
        (lambda: open_store("files:/nowhere"), set()),
        (lambda: open_store("etcd:http://192.0.2.1:1,http://[2001:db8::1]:1,http://e:2379"), {"192.0.2.1", "2001:db8::1"}),
        (lambda: KubernetesStore(ClusterAccess(server="https://192.0.2.9:6443")), {"192.0.2.9"}),
        (lambda: KubernetesStore(ClusterAccess(server="https://api.example:6443")), set()),
    ],
)  # fmt: skip
async def test_servers_of_its_store_and_name_servers(store: type[Store], servers: set[str], tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    opened = store()
    assert needed_servers(opened, conf) == {ip_address(each).packed for each in servers}
    conf.write_text(
        "# none\nsearch a b\nnameserver 192.0.2.53\nnameserver  fe80::1%eth0 # x\nnameserver\nnameserver x\n"
    )
    assert needed_servers(opened, conf) == {ip_address(each).packed for each in (*servers, "192.0.2.53", "fe80::1")}
    await opened.close()
