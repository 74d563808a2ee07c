"""What other programs, other nodes and files of an earlier run say to an agent and to a lab. See `dump.py` for what holds."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import islice
from typing import Any

import dns.exception
import dns.message
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.silent import silent_log, silent_problems
from tests.unit.inputs.mutating import mutated, odd_documents, spoiled
from tests.unit.inputs.reading import fuzzed, manifest_of, refused_in_words, scratch
from tests.unit.inputs.valid import (
    CNI_CONFIGURATION,
    CNI_VARIABLES,
    ENDPOINTS,
    JOURNAL,
    LEASE,
    MANIFESTS,
    NETWORK,
    NODE,
    POD,
    RECORD,
    REQUESTS,
    SERVICE,
    SLICE,
    STATE,
    STATUS,
    documents,
)
from tests.unit.store.conftest import opened

from percale.agent.http import client
from percale.agent.http.listener import Page
from percale.agent.http.server import serve_pages
from percale.agent.network.peers import Peers
from percale.agent.state import NodeState
from percale.backend.protocol import LocalFamily, LocalNode
from percale.backend.registry import make_backend
from percale.cni import requests
from percale.cni.records import Records
from percale.cni.wire_format import Frame, read_frame
from percale.ipam.address_pool import AddressPool
from percale.kernel.protocol import Interface
from percale.lab.api import server as control
from percale.lab.api.machine_verbs import MachineVerbs
from percale.lab.api.object_verbs import ObjectVerbs
from percale.lab.api.read_verbs import ReadVerbs
from percale.lab.cluster import Cluster
from percale.lab.dns.records import Zone
from percale.lab.dns.server import NameServer
from percale.lab.machines.agents import Agents
from percale.lab.machines.machines import AgentSettings, Machines
from percale.lab.own_control_plane import OwnControlPlane
from percale.lab.pods.responder import Responder
from percale.lab.run_dir import LabDir
from percale.lab.spec.service_networks import service_networks
from percale.lab.spec.topology import LabSpec, topology
from percale.model.endpoints import EndpointSlice
from percale.model.ip_family import Family
from percale.model.kinds import KINDS
from percale.model.meta import Object
from percale.model.netconf import network_config
from percale.model.service import Service
from percale.model.subnet_lease import NodeSubnets, SubnetLease
from percale.policy.evaluator import Evaluator
from percale.render.policy.renderer import PolicyRenderer
from percale.render.service.renderer import ServiceRenderer
from percale.service.node_context import ServiceConfig
from percale.service.resolver import KINDS as SERVICE_KINDS
from percale.service.resolver import ServiceResolver
from percale.store.memory import MemoryStore

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")  # long documents

ETH0 = Interface("eth0", 2, "02:00:00:00:00:01", 1500, up=True, carrier=True)
LOCAL = LocalNode(
    "node1",
    {
        Family.IPV4: LocalFamily(IPv4Network("10.244.0.0/24"), ETH0, IPv4Address("192.168.1.2")),
        Family.IPV6: LocalFamily(IPv6Network("fd00:10:244::/64"), ETH0, IPv6Address("fd00:192:168:1::2")),
    },
    frozenset((IPv4Network("192.168.1.0/24"),)),
)
# The agent


@fuzzed
@given(mutated(CNI_VARIABLES), odd_documents([CNI_CONFIGURATION], ["json", "lines"]), st.binary(max_size=8))
def test_cni_requests(variables: Any, configuration: bytes, tail: bytes) -> None:
    block = b"".join(f"{name}={value}\0".encode(errors="surrogatepass") for name, value in as_texts(variables)) + tail
    request = len(block).to_bytes(4, "big") + len(configuration).to_bytes(4, "big") + block + configuration
    with refused_in_words():
        frame = asyncio.run(received(request))
        asked = requests.parse(frame.variables, frame.configuration)
        requests.requested_addresses(asked, {requests.ANNOTATION: tail.decode(errors="replace")})
        requests.requested_mac(asked.runtime)
        requests.requested_ports(asked.runtime)
        requests.requested_limits(asked.runtime)


def as_texts(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        yield from ((name, item if isinstance(item, str) else json.dumps(item)) for name, item in value.items())


async def received(request: bytes) -> Frame:
    ours, theirs = socket.socketpair()
    frame = Frame()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        theirs.setblocking(False)
        theirs.send(request)
        theirs.shutdown(socket.SHUT_WR)
        with suppress(EOFError):
            await read_frame(ours, frame)
    return frame


@fuzzed
@given(odd_documents([RECORD], ["json"]), st.sampled_from(("c@eth0.json", "c.json", "@.json", "c@e@x.json")))
def test_records_of_pods(data: bytes, name: str) -> None:
    with scratch() as directory:
        (directory / name).write_bytes(data)
        (directory / "good@eth0.json").write_text(json.dumps(RECORD))
        with refused_in_words():
            records = Records(directory)
            assert "good" in {owner.container for owner in records.attachments}
            assert len(records.attachments) + len(records.damaged) == 2


@fuzzed
@given(st.lists(odd_documents(JOURNAL, ["json"]), max_size=4))
def test_the_journal_of_addresses(lines: Sequence[bytes]) -> None:
    with scratch() as directory:
        (directory / "addresses").write_bytes(b"\n".join((*lines, b"")))
        with refused_in_words():
            AddressPool(directory / "addresses", "n1", NodeSubnets(LOCAL.subnets.ipv4))


@fuzzed
@given(odd_documents([STATE], ["json"]))
def test_what_a_node_remembers(data: bytes) -> None:
    with scratch() as directory:
        (directory / NodeState.FILE).write_bytes(data)
        with refused_in_words():
            NodeState(directory)


@fuzzed
@given(odd_documents([STATUS], ["json"]))
def test_the_answer_of_an_agent(data: bytes) -> None:
    with refused_in_words():
        client.decode(data)


@fuzzed
@given(odd_documents(MANIFESTS))
def test_one_bad_object_in_a_store_is_its_own_problem(data: bytes) -> None:
    good: dict[str, dict[str, Any]] = {"Pod": POD, "Service": SERVICE, "Node": NODE}
    with scratch() as directory:
        for kind, value in good.items():
            (directory / f"{kind}.json").write_text(
                json.dumps({**value, "metadata": {**value["metadata"], "name": "good"}})
            )
        (directory / "odd.yaml").write_bytes(data)
        (own := directory / "SubnetLease").mkdir()
        (own / "x.json").write_bytes(data)
        store = opened(directory)
        objects = [obj for kind in KINDS.values() for obj in store.list(kind)]
        for problem in store.problems:
            assert str(problem.error).encode()
        store.close()
    assert {"Pod", "Service", "Node"} <= {obj.KIND for obj in objects if obj.metadata.name == "good"}
    mean(objects)


@fuzzed
@given(
    st.lists(
        odd_documents([NODE, POD, SERVICE, SLICE, ENDPOINTS, LEASE, *documents("examples/policies/*.yaml")], ["json"]),
        max_size=5,
    )
)
def test_odd_objects_mean_something_or_nothing(data: Sequence[bytes]) -> None:
    mean([obj for each in data for obj in manifest_of(each)])


def mean(objects: Sequence[Object]) -> None:
    """All that an agent makes of objects."""
    evaluator = Evaluator()
    rules = PolicyRenderer(evaluator, "node1")
    rules.update([evaluator.put(obj) for obj in objects if isinstance(obj, evaluator.kinds)])
    rules.snapshot()
    table = ServiceResolver(ServiceConfig("node1"))
    elements = ServiceRenderer(table)
    elements.update(table.apply([obj for obj in objects if isinstance(obj, SERVICE_KINDS)]))
    elements.snapshot()
    for problem in table.problems:
        assert problem.encode()
    names = NameServer()
    names.zone = Zone(
        [obj for obj in objects if isinstance(obj, Service)], [obj for obj in objects if isinstance(obj, EndpointSlice)]
    )
    for name in islice(names.zone._records, 30):
        for kind in ("A", "AAAA", "SRV", "PTR"):
            with dns_names():
                names.answer(dns.message.make_query(name, kind).to_wire(), datagram=True)
    leases = [obj for obj in objects if isinstance(obj, SubnetLease)]
    for backend in ("vxlan", "host-gw", "extension"):
        network = network_config({**NETWORK, "Backend": {"Type": backend}})
        peers = Peers(
            LOCAL,
            make_backend(network),
            network.networks,
            _nothing_declared,
            _nothing_declared,
            log=silent_log(),
            problems=silent_problems(),
        )
        list(peers.replace(leases))
        for lease in leases:
            peers.put(lease)
        peers.status()
        list(peers.update_local(LOCAL))
        for lease in leases:
            peers.remove(lease)


def _nothing_declared(_source: str, objects: Iterable[object]) -> None:
    assert all(objects)


@contextmanager
def dns_names() -> Iterator[None]:
    """A name that no message can ask for is nobody's problem."""
    with suppress(dns.exception.DNSException):
        yield


# The lab's sockets


@fuzzed
@given(
    st.one_of(st.binary(max_size=60), spoiled(dns.message.make_query("web.default.svc.cluster.local", "A").to_wire())),
    st.booleans(),
)
def test_questions_for_names(data: bytes, datagram: bool) -> None:
    server = NameServer()
    server.zone = Zone([obj for obj in manifest_of(json.dumps(SERVICE).encode()) if isinstance(obj, Service)], ())
    server.answer(data, datagram=datagram)


@fuzzed
@given(st.lists(odd_documents(REQUESTS, ["json"]), min_size=1, max_size=5))
def test_requests_to_a_lab(lines: Sequence[bytes]) -> None:
    async def ask() -> None:
        store = MemoryStore()
        machines = Machines(
            LabDir("lab", directory),
            machinery,
            AgentSettings(NETWORK, "routed", False, networks, "files:/none"),
            Agents(ours),
            Responder(),
        )
        cluster = Cluster(OwnControlPlane(store, networks), machines)
        verbs = (ReadVerbs(cluster), ObjectVerbs(cluster), MachineVerbs(cluster))
        answers = control.RequestHandler({name: verb for each in verbs for name, verb in each.all().items()})
        for obj in (*manifest_of(json.dumps(POD).encode()), *manifest_of(json.dumps(SERVICE).encode())):
            cluster.cache.put(await store.put(obj))
        for line in lines:
            answer = await answers.answer(line)
            assert "internal error" not in answer.get("error", "")
            json.dumps(answer).encode()

    pods = network_config(NETWORK).networks
    machinery = topology(LabSpec(), pods)
    networks = service_networks(LabSpec(), machinery, pods, "the lab")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, scratch() as directory:
        asyncio.run(ask())


@fuzzed
@given(st.lists(spoiled(b"GET /status HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"), min_size=1, max_size=3))
def test_requests_by_http(requests_: Sequence[bytes]) -> None:
    async def ask() -> None:
        with scratch() as directory, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(directory / "http"))
            listener.listen()
            serving = asyncio.create_task(serve_pages(listener, {"/healthz": lambda: Page(b"ok\n")}))
            for request in (*requests_, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
                reader, writer = await asyncio.open_unix_connection(directory / "http")
                writer.write(request[:100_000])
                if b"healthz" in request:
                    assert (await asyncio.wait_for(reader.read(), 30)).startswith(b"HTTP/1.1 200")
                writer.close()
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving

    asyncio.run(ask())
