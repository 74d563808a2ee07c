"""The etcd store over a network that fails, beside flannel, and with etcd's own access control. The etcd is real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from tests import builders
from tests.etcd_server import EtcdServer, etcd_server
from tests.toxic_proxy import ToxicProxy
from tests.unit.store.conftest import upcoming

from percale.errors import StoreUnavailable
from percale.model.configmap import ConfigMap
from percale.model.manifest.encode import to_json
from percale.model.meta import ObjectKey, ObjectMeta
from percale.model.networkpolicy import NetworkPolicy
from percale.model.subnet_lease import SubnetLease
from percale.store.protocol import Deleted, Event, ReadProblem, Snapshot, Store, Upserted
from percale.store.registry import open_store
from percale.store.versioning import versioned

KEY = ObjectKey("default", "a")
VALUE = '{"PublicIP":"192.0.2.7","PublicIPv6":null,"BackendType":"host-gw"}'


def config(name: str, text: str = "1") -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="default"), data={"x": text})


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"/{request.node.name}"


@pytest.fixture
async def direct(etcd: EtcdServer, prefix: str) -> AsyncIterator[Store]:
    store = open_store(f"etcd:{etcd.url}?prefix={prefix}")
    yield store
    await store.close()


@pytest.fixture
async def proxy(etcd: EtcdServer) -> AsyncIterator[ToxicProxy]:
    async with ToxicProxy(etcd.port).running() as proxy:
        yield proxy


@pytest.fixture
async def store(proxy: ToxicProxy, prefix: str) -> AsyncIterator[Store]:
    """Behind the proxy."""
    made = open_store(f"etcd:http://127.0.0.1:{proxy.port}?prefix={prefix}")
    yield made
    await made.close()


async def test_a_watch_goes_on_where_its_connection_ended(direct: Store, store: Store, proxy: ToxicProxy) -> None:
    async with aclosing(store.watch(ConfigMap)) as events:  # type: ignore[type-var]
        assert isinstance(await upcoming(events), Snapshot)
        first = await direct.put(config("a"))
        assert await upcoming(events) == Upserted(first)
        for cut in ("reset", "half a line", "500"):
            match cut:
                case "reset":
                    proxy.cut()
                case "half a line":
                    proxy.bytes_left = 150
                case _:
                    proxy.instead = b"HTTP/1.1 500 oops\r\nContent-Length: 2\r\n\r\n{}"
                    proxy.cut()
            written = await direct.put(config("a", cut))
            assert await upcoming(events) == Upserted(written)


async def test_after_a_compaction_everything_is_listed_again_and_the_differences_told(
    direct: Store, store: Store, proxy: ToxicProxy, etcd: EtcdServer
) -> None:
    kept, changed, gone = [await direct.put(config(name)) for name in ("kept", "changed", "gone")]
    async with aclosing(store.watch(ConfigMap)) as events:  # type: ignore[type-var]
        assert await upcoming(events) == Snapshot({ConfigMap: [changed, gone, kept]})
        proxy.go_on.clear()
        proxy.cut()
        changed = await direct.put(config("changed", "2"))
        await direct.delete(ConfigMap, gone.key)
        new = await direct.put(config("new"))
        revision = etcd.ctl("get", "x", "--write-out=fields").split('"Revision" : ')[1].split()[0]
        etcd.ctl("compaction", revision)
        proxy.go_on.set()
        seen = await told(events, 3)
        assert all(each in seen for each in (Upserted(changed), Deleted(gone), Upserted(new)))
        later = await direct.put(config("later"))
        assert await upcoming(events) == Upserted(later)


async def test_after_a_restore_from_a_backup_the_differences_are_told(loopback: None) -> None:
    """Its revisions begin anew: a watch from the old one on would be silent."""
    with etcd_server() as server:
        async with ToxicProxy(server.port).running() as proxy:
            store = open_store(f"etcd:http://127.0.0.1:{proxy.port}")
            kept, gone = [await store.put(config(name)) for name in ("kept", "gone")]
            async with aclosing(store.watch(ConfigMap)) as events:  # type: ignore[type-var]
                assert await upcoming(events) == Snapshot({ConfigMap: [gone, kept]})
                proxy.go_on.clear()
                proxy.cut()
                server.stop()
                server.forget()
                server.start()
                direct = open_store(f"etcd:{server.url}")
                await direct.put(kept)
                await direct.close()
                proxy.go_on.set()
                assert await upcoming(events) == Deleted(gone)
            await store.close()


async def told(events: AsyncIterator[Event], count: int) -> list[Event]:
    return [await upcoming(events) for _ in range(count)]


async def test_another_member_is_asked_when_one_does_not_answer(
    direct: Store, proxy: ToxicProxy, etcd: EtcdServer, prefix: str
) -> None:
    """At the start, between two requests, and in the middle of a watch."""
    refusing = ToxicProxy(etcd.port)
    await refusing.start()
    refusing.stop()
    address = f"etcd:http://127.0.0.1:{refusing.port},http://127.0.0.1:{proxy.port},{etcd.url}?prefix={prefix}"
    store = open_store(address)
    try:
        await store.put(config("a"))
        async with aclosing(store.watch(ConfigMap)) as events:  # type: ignore[type-var]
            await upcoming(events)
            proxy.stop()
            written = await store.put(config("a", "2"))
            assert await upcoming(events) == Upserted(written)
    finally:
        await store.close()


async def test_all_members_away_is_one_error_that_names_them(store: Store, proxy: ToxicProxy) -> None:
    proxy.stop()
    with pytest.raises(
        StoreUnavailable, match=rf"http://127\.0\.0\.1:{proxy.port}: .*: etcd does not answer"
    ) as caught:
        await store.list(ConfigMap)
    assert str(caught.value).count("http://") == 1
    await proxy.start()
    assert await store.list(ConfigMap) == []


async def test_something_else_at_the_port_is_one_error(store: Store, proxy: ToxicProxy) -> None:
    proxy.instead = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"
    with pytest.raises(StoreUnavailable, match="this is not etcd's answer"):
        await store.list(ConfigMap)


async def test_a_bad_key_or_value_is_a_problem_of_its_own(direct: Store, etcd: EtcdServer, prefix: str) -> None:
    """[BUG] of flannel's: they are taken for an empty network, and all peers are removed."""
    etcd.ctl("put", f"{prefix}/subnets/10.5.1.0-24", VALUE)
    etcd.ctl("put", f"{prefix}/subnets/10.5.2.0-24", "{")
    etcd.ctl("put", f"{prefix}/subnets/garbage", VALUE)
    async with aclosing(direct.watch(SubnetLease)) as events:  # type: ignore[type-var]
        problems = await told(events, 2)
        assert [each.source for each in problems if isinstance(each, ReadProblem)] == [
            f"{prefix}/subnets/10.5.2.0-24",
            f"{prefix}/subnets/garbage",
        ]
        snapshot = await upcoming(events)
        assert isinstance(snapshot, Snapshot)
        (lease,) = snapshot.of(SubnetLease)
        etcd.ctl("put", f"{prefix}/subnets/10.5.1.0-24", "nonsense")
        problem = await upcoming(events)
        assert isinstance(problem, ReadProblem) and "not a lease" in str(problem.error)
        etcd.ctl("del", f"{prefix}/subnets/garbage")
        assert await upcoming(events) == ReadProblem(f"{prefix}/subnets/garbage", None)
        etcd.ctl("put", f"{prefix}/subnets/10.5.2.0-24", VALUE)
        assert {type(each) for each in await told(events, 2)} == {ReadProblem, Upserted}
        etcd.ctl("del", f"{prefix}/subnets/10.5.1.0-24")
        assert await told(events, 2) == [ReadProblem(f"{prefix}/subnets/10.5.1.0-24", None), Deleted(lease)]


async def test_an_invalid_policy_isolates_until_it_is_valid(direct: Store, etcd: EtcdServer, prefix: str) -> None:
    """etcd takes anything. Nobody else waits for it; a last valid state stays."""
    key = f"{prefix}/percale/objects/NetworkPolicy/shop/p"
    valid = builders.policy("p", namespace="shop", ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}])
    for value in ("{", to_json(valid).decode().replace("10.0.0.0/8", "010.0.0.0/8")):
        etcd.ctl("put", key, value)
        async with aclosing(direct.watch(NetworkPolicy, isolate=True)) as events:  # type: ignore[type-var]
            problem, snapshot = await told(events, 2)
            assert isinstance(problem, ReadProblem) and problem.complete
            assert isinstance(snapshot, Snapshot)
            (found,) = snapshot.of(NetworkPolicy)
            assert (found.spec.types, found.spec.ingress) == (("Ingress", "Egress"), ())
            etcd.ctl("put", key, to_json(valid).decode())
            assert await told(events, 2) == [ReadProblem(key, None), Upserted(versioned(valid))]
            etcd.ctl("put", key, "{")
            assert isinstance(await upcoming(events), ReadProblem)
            etcd.ctl("del", key)
            assert await told(events, 2) == [ReadProblem(key, None), Deleted(versioned(valid))]


async def test_a_user_and_a_password(tmp_path: Path, loopback: None) -> None:
    password = tmp_path / "password"
    password.write_text("secret\n")
    with etcd_server("--auth-token-ttl", "1") as server:
        for line in ("user add root:root", "user add percale:secret", "role add network", "auth enable"):
            server.ctl(*line.split())
        server.as_user("root:root", "role", "grant-permission", "network", "--prefix=true", "readwrite", "/net/")
        server.as_user("root:root", "user", "grant-role", "percale", "network")
        address = f"etcd:{server.url}?user=percale&password-file={password}&prefix="
        store, elsewhere = open_store(address + "/net"), open_store(address + "/elsewhere")
        try:
            await store.put(config("a"))
            await asyncio.sleep(2.5)  # etcd's token has expired
            assert await store.get(ConfigMap, KEY) is not None
            with pytest.raises(StoreUnavailable, match="permission denied; give the user a role for this prefix"):
                await elsewhere.list(ConfigMap)
            password.write_text("wrong")
            wrong = open_store(address + "/net")
            with pytest.raises(StoreUnavailable, match="invalid user ID or password; see user and password-file"):
                await wrong.list(ConfigMap)
            await wrong.close()
        finally:
            await store.close()
            await elsewhere.close()
