"""Each thing that the fuzzed documents, or people, have found: by name."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import logging
import socket
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from msgspec.structs import replace
from tests.unit.inputs.valid import CONFIG_MAP, ENDPOINTS, LAB, LEASE, POD, SERVICE, SLICE
from tests.unit.store.conftest import opened

from percale.agent.config import loader
from percale.agent.http import client
from percale.agent.http.listener import Page
from percale.agent.http.server import serve_pages
from percale.agent.state import NodeState
from percale.controllers.service_networks import ServiceNetworks
from percale.controllers.workloads import Create, Workloads, plan
from percale.errors import AgentError, BadConfig, BadManifest, BadNetworkConfig, StateError
from percale.explain.services.show import lines, view
from percale.ipam.address_pool import AddressPool
from percale.lab.api.server import RequestHandler
from percale.lab.cluster import Cluster
from percale.lab.log import log
from percale.lab.machines.agents import Agents
from percale.lab.machines.machines import AgentSettings, Machines
from percale.lab.own_control_plane import OwnControlPlane
from percale.lab.pods.responder import Responder
from percale.lab.run_dir import LabDir
from percale.lab.spec.input import read_input
from percale.lab.spec.topology import LabSpec, parse_port, topology
from percale.model.addresses import port_number
from percale.model.kinds import KINDS
from percale.model.manifest import files
from percale.model.manifest.decode import decode_manifest
from percale.model.manifest.syntax_tree import meaning
from percale.model.pod import Pod
from percale.model.subnet_lease import NodeSubnets, SubnetLease
from percale.model.validation.service import check_endpoint_slice, check_endpoints, check_service
from percale.model.workloads import Count
from percale.objects import columns
from percale.service.node_context import ServiceConfig
from percale.service.resolver import ServiceResolver
from percale.store.memory import MemoryStore

DEEP = "[" * 100_000
DIGITS = "9" * 5000


def decoded(value: Any) -> Any:
    return decode_manifest(json.dumps(value).encode(), "m.json").objects[0]


def pod(**spec: Any) -> Pod:
    found: Pod = decoded({**POD, "metadata": {"name": "a"}, "spec": {**POD["spec"], **spec}})
    return found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (DIGITS, DIGITS),
        ("0x" + "f" * 6000, "0x" + "f" * 6000),
        ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", 2.0**64),
        ("0b_", "0b_"),
        ("0x_ff", 255),
        (".5", 0.5),
        ("1e999", "1e999"),
        (".inf", ".inf"),
    ],
)
def test_numbers_that_are_none_or_need_more_than_64_bits(text: str, value: Any) -> None:
    assert meaning(text) == value


@pytest.mark.parametrize("seconds", [2**63 - 1, 10**12, -1])
async def test_a_pod_with_any_grace_period_can_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        settings = AgentSettings({}, "routed", False, ServiceNetworks((), ()), "files:/none")
        machines = Machines(LabDir("lab", tmp_path), topology(LabSpec()), settings, Agents(ours), Responder())
        cluster = Cluster(OwnControlPlane(MemoryStore(), settings.services), machines)
        monkeypatch.setattr(type(cluster.kubelet), "namespace", lambda _self, _key: tmp_path)
        there = await cluster.control.store.put(pod(terminationGracePeriodSeconds=seconds))
        await cluster.control.delete(there)
        left = await cluster.control.store.get(Pod, there.key)
        assert left is None if seconds < 0 else left is not None and left.terminating


async def test_a_jump_of_the_wall_clock_lets_no_pod_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Jumping(datetime):
        year_ago = False

        @classmethod
        def now(cls, tz: Any = None) -> Self:
            return super().now(tz) - timedelta(days=365 if cls.year_ago else 0)

    monkeypatch.setattr("percale.lab.cluster.datetime", Jumping)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        settings = AgentSettings({}, "routed", False, ServiceNetworks((), ()), "files:/none")
        cluster = Cluster(
            OwnControlPlane(MemoryStore(), settings.services),
            Machines(LabDir("lab", tmp_path), topology(LabSpec()), settings, Agents(ours), Responder()),
        )
        ends = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
        leaving = decoded({**POD, "metadata": {"name": "a", "deletionTimestamp": ends}})
        cluster.cache.put(await cluster.control.store.put(leaving))
        await cluster._remove_expired()
        Jumping.year_ago = True
        async with asyncio.timeout(30):
            while await cluster.control.store.get(Pod, leaving.key) is not None:
                await cluster._sync_requested.wait()
                cluster._sync_requested.clear()
                await cluster._remove_expired()


def test_a_grace_period_beyond_64_bits_is_refused() -> None:
    with pytest.raises(BadManifest, match=r"m\.json:1: spec\.terminationGracePeriodSeconds: expected a whole number"):
        pod(terminationGracePeriodSeconds=10**30)


@pytest.mark.parametrize("stamp", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "yesterday"])
def test_an_object_of_an_impossible_time_has_an_unknown_age(stamp: str) -> None:
    born = decoded({**POD, "metadata": {"name": "a", "creationTimestamp": stamp}})
    assert columns.age(born, datetime(2026, 1, 1, tzinfo=UTC)) == "<unknown>"


@pytest.mark.parametrize(
    "text", [f'{{"a": {DEEP}', f'{{"Network": {DIGITS}}}', '{"Network": "\\ud800"}', '{"Network": NaN}']
)
def test_json_that_nobody_can_read_is_refused_by_the_lab(text: str) -> None:
    with pytest.raises(BadManifest):
        read_input([("net-conf.json", text)])


@pytest.mark.parametrize("key", ["net-conf.json", "cni-conf.json"])
@pytest.mark.parametrize("text", [f'{{"Network": {DEEP}', f'{{"Network": {DIGITS}}}', '{"Network": "\\ud800"}'])
def test_json_within_a_config_map_is_refused_by_the_lab(key: str, text: str) -> None:
    with pytest.raises(BadNetworkConfig):
        read_input([("m.yaml", json.dumps({**CONFIG_MAP, "data": {**CONFIG_MAP["data"], key: text}}))])


def test_an_agent_configuration_without_bottom_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(f"store: files:/x\nnetwork: {DEEP}\n")
    with pytest.raises(BadConfig, match=r"agent\.yaml:2: nested too deep"):
        loader.load(file, {}, {})


def test_aliases_of_aliases_in_an_agent_configuration(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(
        "iface: [&a [x, x, x, x, x, x, x, x, x]"
        + "".join(
            f", &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
        )
        + "]\n"
    )
    with pytest.raises(BadConfig, match="its aliases make it too large"):
        loader.load(file, {}, {"store": "files:/x"})


@pytest.mark.parametrize("pattern", ["(" * 100_000, "a{99999999999999999999}"])
def test_a_regular_expression_without_bottom(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(BadConfig, match="iface-regex: expected a list of regular expressions"):
        loader.load(None, {}, {"store": "files:/x", "ifaceRegex": (pattern,)})


@pytest.mark.parametrize("subnet", [True, 7, 2**70, "10.0.0.0/99"])
def test_a_node_that_remembers_no_subnet(tmp_path: Path, subnet: Any) -> None:
    (tmp_path / NodeState.FILE).write_text(json.dumps({"machine": "m", "subnet": subnet}))
    with pytest.raises(StateError, match=r"node\.json: not a state file"):
        NodeState(tmp_path)


def test_manifests_on_standard_input_that_are_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), "ascii", "surrogateescape"))
    assert list(map(str, files.read(["-"]).faults)) == ["stdin:1: not UTF-8 text; save the file as UTF-8"]


@pytest.mark.parametrize("content", [DEEP.encode(), b"\xff", DIGITS.encode(), b'{"do": "rest", "address": "\\ud800"}'])
def test_files_of_a_former_life_that_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "journal").write_bytes(content + b"\n")
    with pytest.raises(StateError, match="damaged"):
        AddressPool(tmp_path / "journal", "n1", NodeSubnets(None, None))
    with pytest.raises(AgentError, match="does not understand"):
        client.decode(content)


def test_a_number_of_a_lease_that_64_bits_do_not_hold_ends_no_store(tmp_path: Path) -> None:
    other = {**LEASE, "metadata": {"name": "odd"}, "spec": {**LEASE["spec"], "backendData": {"VNI": 10**30}}}
    (tmp_path / "good.json").write_text(json.dumps({**LEASE, "metadata": {"name": "good"}}))
    (tmp_path / "odd.json").write_text(json.dumps(other))
    store = opened(tmp_path)
    assert [each.metadata.name for each in store.list(SubnetLease)] == ["good", "odd"]
    store.close()


@pytest.mark.parametrize("kind", ["ReplicaSet", "StatefulSet", "Job"])
def test_millions_of_replicas_come_some_at_a_time(kind: str) -> None:
    maker = decoded(
        {
            "apiVersion": KINDS[kind].API_VERSION,
            "kind": kind,
            "metadata": {"name": "many"},
            "spec": {
                "replicas": 2**31 - 1,
                "parallelism": 2**31 - 1,
                "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c"}]}},
            },
        }
    )
    field = {"ReplicaSet": "replica_sets", "StatefulSet": "stateful_sets", "Job": "jobs"}[kind]
    first = plan(replace(Workloads(), **{field: [maker]}))
    pods = [write.object for write in first if isinstance(write, Create) and isinstance(write.object, Pod)]
    assert 0 < len(pods) == len(first) < 1000
    second = plan(replace(Workloads(pods=pods), **{field: [maker]}))
    assert not {write.object.key for write in second} & {pod.key for pod in pods}


async def scale(replicas: Count) -> dict[str, Any]:
    return {"replicas": replicas}


ANSWERS = RequestHandler({"scale": scale})
NO_REQUEST = {"errors": [{"what": "not a request of this lab's API", "where": None, "hint": None}], "type": "LabError"}


@pytest.mark.parametrize("given", ['"3"', "-1", "2147483648", "null", "1e3", DEEP, DIGITS])
async def test_an_argument_of_a_request_that_is_none(given: str) -> None:
    line = b'{"verb": "scale", "replicas": %s}' % given.encode()
    assert await ANSWERS.answer(line) == NO_REQUEST


@pytest.mark.parametrize(
    "line", [DEEP.encode(), b"\xff", b"[]", b'{"verb": []}', b'{"verb": "scale"}', b'{"verb": "x"}']
)
async def test_what_is_no_request_of_a_labs_api(line: bytes) -> None:
    assert await ANSWERS.answer(line) == NO_REQUEST
    assert await ANSWERS.answer(b'{"verb": "scale", "replicas": 3}') == {"content": {"replicas": 3}}


def test_a_log_that_cannot_be_written_ends_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, text)

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Full())
        log("anything")


async def test_a_bad_request_is_the_clients_affair_and_not_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_UNIX) as listener, caplog.at_level(logging.DEBUG):
        listener.bind(str(tmp_path / "http"))
        listener.listen()
        serving = asyncio.create_task(serve_pages(listener, {"/": lambda: Page(b"ok\n")}))
        reader, writer = await asyncio.open_unix_connection(tmp_path / "http")
        writer.write(b"GET / HTTP/1.1\r\nHost: \x00\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), 30)).startswith(b"HTTP/1.0 400")
        writer.close()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
    assert "Error handling request" not in caplog.text


@pytest.mark.parametrize("port", [DIGITS, "٨٠", "0", "65536", "+80", "8_0", " 80"])
def test_a_port_that_is_none(port: str) -> None:
    with pytest.raises(BadManifest, match="write 80, 80/TCP or 53/UDP"):
        parse_port(port, "a host")
    assert port_number(port) is None


def test_a_lab_document_with_a_huge_number() -> None:
    asked = read_input([("lab.yaml", json.dumps({**LAB, "spec": {"segments": [{"name": "a", "mtu": 10**30}]}}))])
    with pytest.raises(BadManifest, match="segment a: an MTU of"):
        topology(asked.lab)


@pytest.mark.parametrize("wrong", [[], ["x"], {}, {"a": []}, 7, True, None, "x"])
@pytest.mark.parametrize(
    "field", ["port", "name", "protocol", "targetPort", "nodePort", "ipFamilies", "type", "clusterIPs"]
)
def test_a_service_with_a_field_of_another_type_is_checked(field: str, wrong: Any) -> None:
    part = {field: [wrong] if field.endswith("s") else wrong}
    ports = [{"name": "a", "port": 1, **part}] * 2
    for spec in ({**SERVICE["spec"], "ports": ports}, {**SERVICE["spec"], **part}):
        assert all(map(str, check_service({**SERVICE, "spec": spec})))
    assert all(map(str, check_endpoint_slice({**SLICE, "ports": ports})))
    assert all(map(str, check_endpoints({**ENDPOINTS, "subsets": [{"ports": ports}]})))


def test_a_service_of_which_nothing_can_be_used_is_shown() -> None:
    odd = decoded({**SERVICE, "spec": {"clusterIP": "x", "ports": [{"port": 80}]}})
    seen = view(odd, ServiceResolver(ServiceConfig("node1"), [odd]), [odd])
    assert next(lines(seen)) == "Service default/web as node1 sees it: ClusterIP, no address and port of it can be used"
