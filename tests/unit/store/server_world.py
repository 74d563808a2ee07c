"""A store that is a server, behind a network that fails: for tests of both kinds of server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.api_server import write_kubeconfig
from tests.fake_api_server import FakeApiServer
from tests.toxic_proxy import ToxicProxy
from tests.unit.store.conftest import upcoming

from percale.model.configmap import ConfigMap
from percale.model.meta import ObjectMeta
from percale.model.networkpolicy import NetworkPolicy
from percale.store.protocol import Snapshot, Store
from percale.store.registry import open_store


@dataclass
class World:
    """A server, the network to it, and what is on disk."""

    address: str
    direct: Store
    proxy: ToxicProxy
    disk: Path

    def open(self) -> Store:
        """As an agent does."""
        return open_store(self.address, last_state=self.disk)

    async def last_life(self, *names: str) -> None:
        """An agent that has seen these."""
        for name in names:
            await self.direct.put(config(name))
        store = self.open()
        async with aclosing(store.watch(ConfigMap, NetworkPolicy)) as events:  # type: ignore[type-var]
            assert isinstance(await upcoming(events), Snapshot)
        await store.close()


def config(name: str, text: str = "1") -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default"), data={"x": text})


@asynccontextmanager
async def server_world(directory: Path, etcd_port: int | None, prefix: str) -> AsyncIterator[World]:
    """Of the etcd at this port, or of an API server."""
    async with AsyncExitStack() as stack:
        if etcd_port is not None:
            proxy = await stack.enter_async_context(ToxicProxy(etcd_port).running())
            direct, address = (f"etcd:http://127.0.0.1:{port}?prefix=/{prefix}" for port in (etcd_port, proxy.port))
        else:
            server = await stack.enter_async_context(FakeApiServer().running())
            proxy = await stack.enter_async_context(ToxicProxy(int(server.url.rpartition(":")[2])).running())
            for name, url in (("direct", server.url), ("proxied", f"http://127.0.0.1:{proxy.port}")):
                (directory / name).mkdir()
                write_kubeconfig(directory / name, url, "secret")
            direct, address = (f"kubernetes:{directory}/{name}/kubeconfig" for name in ("direct", "proxied"))
        store = open_store(direct)
        stack.push_async_callback(store.close)
        yield World(address, store, proxy, directory / "disk")
