"""TLS, client certificates, tokens and exec plugins, each replaced while the store runs."""

from __future__ import annotations

import json
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.certificates import Pair, authority, issue
from tests.fake_api_server import FakeApiServer

from percale.errors import StoreUnavailable
from percale.model.configmap import ConfigMap
from percale.store.kubernetes.cluster_access import ClusterAccess, ExecPlugin
from percale.store.kubernetes.credentials import Credentials
from percale.store.kubernetes.store import KubernetesStore

pytestmark = pytest.mark.usefixtures("loopback")


def tls(server: Pair, clients: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.certificate, server.key)
    if clients is not None:
        context.load_verify_locations(clients.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@asynccontextmanager
async def opened(access: ClusterAccess) -> AsyncIterator[KubernetesStore]:
    store = KubernetesStore(access)
    try:
        yield store
    finally:
        await store.close()


def replace(target: Path, source: Path) -> None:
    """At once, as rotation does."""
    draft = target.with_suffix(".new")
    draft.write_bytes(source.read_bytes())
    draft.rename(target)


async def test_a_server_is_verified(tmp_path: Path) -> None:
    ours = authority(tmp_path)
    (tmp_path / "other").mkdir()
    other = authority(tmp_path / "other")
    pair = issue(ours, "server", subject="/CN=server", serves=["IP:127.0.0.1"])
    async with FakeApiServer().running(tls(pair)) as server:
        async with opened(ClusterAccess(server=server.url, ca=ours.certificate, token="secret")) as store:
            assert await store.list(ConfigMap) == []
        async with opened(ClusterAccess(server=server.url, ca=other.certificate, token="secret")) as store:
            with pytest.raises(
                StoreUnavailable, match=r"127\.0\.0\.1:\d+: TLS: .*certificate.*; compare the kubeconfig's"
            ):
                await store.list(ConfigMap)
        async with opened(ClusterAccess(server=server.url, token="secret")) as store:
            with pytest.raises(StoreUnavailable, match="TLS: "):
                await store.list(ConfigMap)
        async with opened(ClusterAccess(server=server.url, insecure=True, token="secret")) as store:
            assert await store.list(ConfigMap) == []
        assert all("Authorization" in each.headers for each in server.requests)
        assert len(server.requests) == 2


@pytest.mark.parametrize(("address", "days"), [("127.0.0.2", 2), ("127.0.0.1", -1)])
async def test_a_server_of_another_name_or_with_an_expired_certificate(tmp_path: Path, address: str, days: int) -> None:
    ours = authority(tmp_path)
    pair = issue(ours, "server", subject="/CN=server", serves=[f"IP:{address}"], days=days)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(FakeApiServer().running(tls(pair)))
        access = ClusterAccess(server=server.url, ca=ours.certificate, token="secret")
        async with opened(access) as store:
            with pytest.raises(StoreUnavailable, match=r"TLS: (IP address mismatch|certificate has expired)"):
                await store.list(ConfigMap)


async def test_rotated_certificates_of_both_sides_are_taken(tmp_path: Path) -> None:
    ours = authority(tmp_path)
    (tmp_path / "next").mkdir()
    next_one = authority(tmp_path / "next", "next")
    server_pair = issue(ours, "server", subject="/CN=server", serves=["IP:127.0.0.1"])
    client = issue(ours, "client", subject="/O=nodes/CN=n1")
    ca = tmp_path / "trusted.crt"
    ca.write_bytes(ours.certificate.read_bytes())
    server = FakeApiServer(tokens={""})
    async with AsyncExitStack() as stack:
        async with server.running(tls(server_pair, ours)):
            access = ClusterAccess(server=server.url, ca=ca, certificate=client.certificate, key=client.key)
            store = await stack.enter_async_context(opened(access))
            assert await store.list(ConfigMap) == []
        rotated_server = issue(next_one, "server", subject="/CN=server", serves=["IP:127.0.0.1"])
        rotated = issue(next_one, "client", subject="/O=nodes/CN=n1")
        await stack.enter_async_context(server.running(tls(rotated_server, next_one), port=server.port))
        with pytest.raises(StoreUnavailable, match="TLS: "):
            await store.list(ConfigMap)
        replace(client.certificate, rotated.certificate)
        replace(client.key, rotated.key)
        replace(ca, next_one.certificate)
        assert await store.list(ConfigMap) == []


async def test_certificates_in_the_kubeconfig_itself(tmp_path: Path) -> None:
    ours = authority(tmp_path)
    pair = issue(ours, "server", subject="/CN=server", serves=["IP:127.0.0.1"])
    client = issue(ours, "client", subject="/CN=n1")
    async with FakeApiServer(tokens={""}).running(tls(pair, ours)) as server:
        access = ClusterAccess(
            server=server.url,
            ca=ours.certificate.read_bytes(),
            certificate=client.certificate.read_bytes(),
            key=client.key.read_bytes(),
        )
        async with opened(access) as store:
            assert await store.list(ConfigMap) == []


@pytest.mark.parametrize("content", [None, b"nonsense", b"\xff"])
async def test_certificates_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    ca = tmp_path / "ca.crt"
    if content is not None:
        ca.write_bytes(content)
    async with opened(ClusterAccess(server="https://127.0.0.1:1", ca=ca)) as store:
        with pytest.raises(
            StoreUnavailable, match=r"ca\.crt: (cannot be read: No such file|certificates cannot be used)"
        ):
            await store.list(ConfigMap)


async def test_a_rotated_token_is_read_again(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    async with FakeApiServer().running() as server, opened(ClusterAccess(server=server.url, token=token)) as store:
        assert await store.list(ConfigMap) == []
        server.tokens = {"new"}
        with pytest.raises(StoreUnavailable, match="the credentials are not accepted; renew the token"):
            await store.list(ConfigMap)
        token.write_text("new")
        assert await store.list(ConfigMap) == []
        token.unlink()
        with pytest.raises(StoreUnavailable, match="token: cannot be read: No such file"):
            await store.list(ConfigMap)


PLUGIN = """
import json, os, sys
from pathlib import Path
here = Path(sys.argv[1])
count = int((here / "count").read_text()) + 1
(here / "count").write_text(str(count))
(here / "info").write_text(os.environ["KUBERNETES_EXEC_INFO"])
if os.environ.get("FAIL"):
    print("first line\\nno such profile", file=sys.stderr)
    sys.exit(3)
status = {"token": f"token-{count}"}
if (here / "expires").exists():
    status["expirationTimestamp"] = (here / "expires").read_text()
print(json.dumps({"kind": "ExecCredential", "status": status}))
"""


def plugin(directory: Path, **env: str) -> ExecPlugin:
    (directory / "plugin.py").write_text(PLUGIN)
    (directory / "count").write_text("0")
    arguments = (str(directory / "plugin.py"), str(directory))
    return ExecPlugin(
        apiVersion="v1", command=sys.executable, args=arguments, env=env, hint="log in first", tell_cluster=True
    )


async def test_an_exec_plugin_is_run_once_until_its_token_is_refused(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(FakeApiServer(tokens={"token-1"}).running())
        store = await stack.enter_async_context(opened(ClusterAccess(server=server.url, exec=plugin(tmp_path))))
        await store.list(ConfigMap)
        await store.list(ConfigMap)
        assert (tmp_path / "count").read_text() == "1"
        server.tokens = {"token-2"}
        await store.list(ConfigMap)
        assert (tmp_path / "count").read_text() == "2"
        assert json.loads((tmp_path / "info").read_text())["spec"]["cluster"]["server"] == server.url


async def test_an_exec_plugin_is_run_again_when_its_token_has_expired(tmp_path: Path) -> None:
    (tmp_path / "expires").write_text("2020-01-01T00:00:00Z")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(FakeApiServer(tokens={"token-1", "token-2"}).running())
        store = await stack.enter_async_context(opened(ClusterAccess(server=server.url, exec=plugin(tmp_path))))
        await store.list(ConfigMap)
        await store.list(ConfigMap)
        assert (tmp_path / "count").read_text() == "2"


async def test_an_exec_plugin_that_fails(tmp_path: Path) -> None:
    async with FakeApiServer().running() as server:
        async with opened(ClusterAccess(server=server.url, exec=plugin(tmp_path, FAIL="1"))) as store:
            with pytest.raises(StoreUnavailable) as error:
                await store.list(ConfigMap)
            assert str(error.value) == f"{sys.executable}: exit code 3: no such profile; log in first"
        missing = ExecPlugin(apiVersion="v1", command="no-such-plugin-here", hint="install it")
        async with opened(ClusterAccess(server=server.url, exec=missing)) as store:
            with pytest.raises(
                StoreUnavailable, match=r"no-such-plugin-here: cannot be run: No such file.*; install it"
            ):
                await store.list(ConfigMap)
        silent = ExecPlugin(apiVersion="v1", command="true")
        async with opened(ClusterAccess(server=server.url, exec=silent)) as store:
            with pytest.raises(StoreUnavailable, match="true: prints no ExecCredential"):
                await store.list(ConfigMap)


async def test_a_server_that_is_not_there() -> None:
    async with opened(ClusterAccess(server="https://127.0.0.1:1", token="t")) as store:
        with pytest.raises(StoreUnavailable, match=r"^https://127.0.0.1:1: cannot be reached: .*[Cc]onnect"):
            await store.list(ConfigMap)


async def test_requests_go_through_the_proxy() -> None:
    async with FakeApiServer().running() as server:
        access = ClusterAccess(server="http://api.example.org", proxy=server.url, token="secret")
        async with opened(access) as store:
            assert await store.list(ConfigMap) == []
        assert server.requests[0].headers["Host"] == "api.example.org"


@pytest.mark.parametrize(
    ("server", "proxy", "by_tls"),
    [
        ("http://10.0.0.1:8080", None, False),
        ("http://10.0.0.1:8080", "http://proxy:3128", False),
        ("http://10.0.0.1:8080", "https://proxy:3128", True),
        ("https://10.0.0.1:6443", None, True),
    ],
)
def test_a_proxy_with_tls_is_verified_by_the_systems_authorities(server: str, proxy: str | None, by_tls: bool) -> None:
    """The library's own context has none (`http_library.py`)."""
    context = Credentials(ClusterAccess(server=server), proxy).tls()
    assert (isinstance(context, ssl.SSLContext) and context.verify_mode == ssl.CERT_REQUIRED) == by_tls
