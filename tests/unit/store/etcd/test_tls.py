"""etcd over TLS, as operators run it: client certificates, a user besides, and certificates that expire and are replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from tests.certificates import Pair, authority, issue
from tests.etcd_server import EtcdServer
from tests.unit.store.conftest import upcoming

from percale.errors import BadConfig, StoreUnavailable
from percale.model.configmap import ConfigMap
from percale.model.meta import ObjectKey, ObjectMeta
from percale.store.protocol import ReadProblem, Snapshot, Store, Upserted
from percale.store.registry import open_store

KEY = ObjectKey("default", "a")
MADE = ConfigMap(metadata=ObjectMeta(name="a", namespace="default"), data={"x": "1"})


class World:
    """An authority, an etcd that asks for its certificates, and a client's files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = authority(directory)
        self.trusted = directory / "trusted-by-server.crt"
        self.trusted.write_bytes(self.ca.certificate.read_bytes())
        self.server_pair = self.issued("server", serves=["IP:127.0.0.1"])
        self.admin = self.issued("root")
        self.client = self.issued("percale")
        files = (self.ca.certificate, self.admin.certificate, self.admin.key)
        self.server = EtcdServer(directory, *self.flags, client=files)

    def issued(self, name: str, *, serves: list[str] | None = None, days: int = 2, named: bool = True) -> Pair:
        return issue(
            self.ca,
            name,
            subject=f"/CN={name}" if named else f"/O={name}",
            serves=serves or (),
            days=days,
            is_client=True,
        )

    @property
    def flags(self) -> list[str]:
        pair = self.server_pair
        return [
            f"--cert-file={pair.certificate}",
            f"--key-file={pair.key}",
            f"--trusted-ca-file={self.trusted}",
            "--client-cert-auth",
        ]

    def address(self, client: Pair, **more: object) -> str:
        options = {"ca": self.ca.certificate, "cert": client.certificate, "key": client.key, **more}
        return f"etcd:{self.server.url}?" + "&".join(f"{name}={value}" for name, value in options.items())


@pytest.fixture
async def world(tmp_path: Path, loopback: None) -> AsyncIterator[World]:
    made = World(tmp_path)
    made.server.start()
    yield made
    made.server.stop()


@asynccontextmanager
async def opened(address: str) -> AsyncIterator[Store]:
    store = open_store(address)
    try:
        yield store
    finally:
        await store.close()


async def refusal(store: Store) -> str:
    """Once the server listens."""
    async with asyncio.timeout(30):
        while True:
            with pytest.raises(StoreUnavailable) as caught:
                await store.list(ConfigMap)
            if "Connect call failed" not in str(caught.value):
                return str(caught.value)
            await asyncio.sleep(0.05)


def replace(target: Pair, source: Pair) -> None:
    """At once, as rotation does."""
    for old, new in ((target.certificate, source.certificate), (target.key, source.key)):
        draft = old.with_suffix(".new")
        draft.write_bytes(new.read_bytes())
        draft.rename(old)


async def test_a_client_certificate_with_a_user_and_a_password(world: World) -> None:
    """etcd takes the certificate for the connection, and the user for the rights."""
    password = world.directory / "password"
    password.write_text("secret\n")
    for line in ("user add root:root", "user add percale:secret", "role add network"):
        world.server.ctl(*line.split())
    world.server.ctl("role", "grant-permission", "network", "--prefix=true", "readwrite", "/coreos.com/network/")
    world.server.ctl("user", "grant-role", "percale", "network")
    world.server.ctl("user", "grant-role", "root", "root")
    world.server.ctl("auth", "enable")
    user = {"user": "percale", "password-file": password}
    async with opened(world.address(world.client, **user)) as store:
        with pytest.raises(StoreUnavailable, match="with a user, cert must be a certificate without a common name"):
            await store.put(MADE)
    async with opened(world.address(world.issued("nameless", named=False), **user)) as store:
        await store.put(MADE)
        async with aclosing(store.watch(ConfigMap)) as events:  # type: ignore[type-var]
            assert isinstance(await upcoming(events), Snapshot)
            changed = await store.put(ConfigMap(metadata=MADE.metadata, data={"x": "2"}))
            assert await upcoming(events) == Upserted(changed)


async def test_a_certificate_that_has_expired_is_one_error_until_it_is_replaced(world: World) -> None:
    expired = world.issued("expired", days=-1)
    async with opened(world.address(expired)) as store, aclosing(store.watch(ConfigMap)) as events:  # type: ignore[type-var]
        problem = await upcoming(events)
        assert isinstance(problem, ReadProblem) and isinstance(problem.error, StoreUnavailable)
        assert world.server.url in str(problem.error) and "etcd does not answer" in str(problem.error)
        replace(expired, world.client)
        while not isinstance(event := await upcoming(events), Snapshot):
            assert isinstance(event, ReadProblem)
        written = await store.put(MADE)
        while isinstance(event := await upcoming(events), ReadProblem):
            assert event.error is None
        assert event == Upserted(written)


async def test_a_server_whose_certificate_expires_and_is_renewed_by_another_authority(world: World) -> None:
    ca = world.directory / "trusted.crt"
    ca.write_bytes(world.ca.certificate.read_bytes())
    async with opened(world.address(world.client, ca=ca)) as store:
        await store.put(MADE)
        world.server.stop()
        replace(world.server_pair, world.issued("old", serves=["IP:127.0.0.1"], days=-1))
        world.server.launch()
        assert "certificate" in await refusal(store)
        world.server.stop()
        (world.directory / "next").mkdir()
        other = authority(world.directory / "next", "next")
        with world.trusted.open("ab") as trusted:  # an etcd is its own client, too
            trusted.write(other.certificate.read_bytes())
        replace(
            world.server_pair, issue(other, "server", subject="/CN=server", serves=["IP:127.0.0.1"], is_client=True)
        )
        world.server.launch()
        assert "certificate" in await refusal(store)
        ca.write_bytes(other.certificate.read_bytes())
        assert await store.get(ConfigMap, KEY) is not None


def test_files_that_cannot_be_used_are_told_before_anything_is_asked(world: World) -> None:
    world.client.key.write_text("no key")
    with pytest.raises(BadConfig, match=r"store: .*percale\.key: certificates cannot be used: "):
        open_store(world.address(world.client))
    world.client.key.unlink()
    with pytest.raises(BadConfig, match=r"store: .*percale\.key: cannot be read: No such file"):
        open_store(world.address(world.client))
