"""Services as elements: edits from any state to any other, what they do with packets, and what one change touches."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.render.service.simulated import Done, served
from tests.unit.service.build import build

from percale.model.endpoints import EndpointSlice
from percale.model.meta import Object, ObjectKey
from percale.model.service import ClientIPConfig, Service, SessionAffinityConfig
from percale.render.nft.objects import Transaction
from percale.render.nft.table_state import TableState, diff
from percale.render.policy import base_chains as policy_base
from percale.render.service import base_chains as service_base
from percale.render.service.base_chains import SET_SPECS
from percale.render.service.renderer import ServiceRenderer
from percale.service.node_context import ServiceConfig
from percale.service.packet_lookup import resolve
from percale.service.resolver import ServiceResolver
from percale.service.strategies import NAMES

BARE = TableState.bare((*policy_base.SET_SPECS, *SET_SPECS), [service_base.REJECT_CHAIN])
NODE, OTHER, POD, FOREIGN = "192.168.0.2", "192.168.0.3", "10.0.0.2", "203.0.113.2"
NAMES_OF_SERVICES = ("svc1", "svc2", "svc3")
LB, EXTERNAL = "1.2.3.4", "192.168.99.11"
CLIENTS = (NODE, OTHER, POD, "10.180.0.1", FOREIGN, LB)
TARGETS = (*(f"172.30.0.{n}" for n in range(40, 44)), LB, EXTERNAL, NODE, "10.180.0.1")
PORTS = (80, 81, 30001, 30002)

# Worlds

ports = st.builds(
    build.port,
    st.sampled_from((80, 81)),
    st.sampled_from(("a", "b")),
    protocol=st.sampled_from(("TCP", "UDP")),
    nodePort=st.sampled_from((None, 30001, 30002)),
)


@st.composite
def services(draw: st.DrawFn) -> Service:
    """Any kind, with whatever a Service may want; often the same addresses as others."""
    kind = draw(st.sampled_from(("ClusterIP", "NodePort", "LoadBalancer")))
    affinity: dict[str, Any] = {}
    if draw(st.booleans()):
        seconds = draw(st.sampled_from((60, 10800)))
        config = SessionAffinityConfig(clientIP=ClientIPConfig(timeoutSeconds=seconds))
        affinity = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": config}
    return build.service(
        draw(st.sampled_from(NAMES_OF_SERVICES)),
        *draw(st.lists(ports, min_size=1, max_size=2, unique_by=lambda port: port.name)),
        ip=draw(st.sampled_from(TARGETS[:3])),
        type=kind,
        lb=draw(st.sampled_from(((), (LB,)))) if kind == "LoadBalancer" else (),
        loadBalancerSourceRanges=draw(
            st.sampled_from(((), ("203.0.113.0/24", "203.0.0.0/16"), ("192.168.0.0/30",), ("fd00::/64",)))
        ),
        externalIPs=draw(st.sampled_from(((), (EXTERNAL,), (NODE,), (LB, EXTERNAL)))),
        internalTrafficPolicy=draw(st.sampled_from(("Cluster", "Local"))),
        externalTrafficPolicy=draw(st.sampled_from(("Cluster", "Local"))),
        annotations={"percale.io/strategy": draw(st.sampled_from(NAMES))},
        **affinity,
    )


@st.composite
def slices(draw: st.DrawFn) -> EndpointSlice:
    addresses = draw(st.lists(st.sampled_from(("10.180.0.1@n1", "10.180.0.2@n2", "10.180.0.3@n1")), unique=True))
    endpoints = [
        draw(st.sampled_from((build.endpoint(each), build.draining(each), build.dead(each)))) for each in addresses
    ]
    return build.slice(
        *endpoints,
        service=draw(st.sampled_from(NAMES_OF_SERVICES)),
        ports=[("a", 8080, "TCP"), ("b", 8081, "TCP"), ("a", 8080, "UDP"), ("b", 8081, "UDP")],
    )


nodes = st.sampled_from((build.node(), build.node(NODE, OTHER, zone="b"), build.node(OTHER)))
gone = st.sampled_from(
    [
        *((Service, ObjectKey("ns1", name)) for name in NAMES_OF_SERVICES),
        *((EndpointSlice, ObjectKey("ns1", f"{name}-1")) for name in NAMES_OF_SERVICES),
    ]
)
Change = Object | tuple[type[Object], ObjectKey]
puts = st.one_of(services(), slices(), nodes)
changes: st.SearchStrategy[Change] = st.one_of(puts, gone)


def apply(table: ServiceResolver, batch: Sequence[Change]) -> set[ObjectKey]:
    touched: set[ObjectKey] = set()
    for change in batch:
        touched |= table.apply(gone=[change]) if isinstance(change, tuple) else table.apply([change])
    return touched


def disagreements(table: ServiceResolver, held: TableState) -> list[str]:
    """Packets that the elements treat otherwise than the resolver says."""
    found = []
    for source in CLIENTS:
        own = ip_address(source).packed in table.node.addresses
        for target in TARGETS:
            for port in PORTS:
                for protocol in ("TCP", "UDP"):
                    answer = resolve(table, ip_address(source), ip_address(target), port, protocol)
                    only_itself = {each.rpartition(":")[0] for each in answer.endpoints} == {source}
                    said = Done(answer.action, answer.endpoints, answer.masquerade and not only_itself)
                    done = served(held, source, target, port, protocol, own=own)
                    if only_itself:
                        done = Done(done.action, done.endpoints)
                    if said != done:
                        found.append(f"{source} → {target}:{port}/{protocol}: {answer} but {done}")
    return found


@given(
    st.lists(puts, min_size=3, max_size=10),
    st.lists(st.lists(changes, min_size=1, max_size=5), max_size=5),
    st.sampled_from(({}, {"masquerade_all": True}, {"pod_cidrs": ()}, {"strict_families": {4}})),
)
def test_edits_lead_from_any_state_to_any_other(
    opening: list[Object], batches: list[list[Change]], config: dict[str, Any]
) -> None:
    table = build.table(**config)
    elements = ServiceRenderer(table)
    elements.local_pods = frozenset((ip_address("10.180.0.1").packed,))
    held = BARE
    steps: list[Sequence[Change]] = [opening, *batches]
    for batch in steps:
        held = held.apply(elements.update(apply(table, batch)))
        assert not diff(held, elements.snapshot())
        assert not disagreements(table, held)
    fresh = ServiceRenderer(table)
    fresh.local_pods = elements.local_pods
    fresh.update(table.services)
    assert not diff(held, fresh.snapshot())


# What a change touches


def started(*objects: Object, **config: Any) -> tuple[ServiceResolver, ServiceRenderer, TableState]:
    table = build.table(*objects, **config)
    elements = ServiceRenderer(table)
    return table, elements, BARE.apply(elements.update(table.services))


def places(edit: Transaction) -> set[tuple[str, int]]:
    """Sets with how many bytes of keys come and go."""
    return {(each.set, len(each.packed_keys)) for each in (*edit.put, *edit.remove)}


KEY, TURN = 12, 4


def test_one_endpoint_more_touches_the_elements_of_its_service_alone() -> None:
    others = [build.service(f"other{n}", ip=f"172.30.1.{n}") for n in range(5)]
    behind = [build.slice("10.180.0.1", "10.180.0.2", service=f"other{n}") for n in range(5)]
    table, elements, held = started(build.service(), build.slice("10.180.0.1"), *others, *behind)
    edit = elements.update(table.apply([build.slice("10.180.0.1", "10.180.0.2")]))
    assert places(edit) == {("services4", KEY), ("endpoints4", KEY + TURN)}
    assert not edit.put_chains, "the chains for two endpoints are there already"
    assert set(edit.remove_chains) == {"endpoints4-random-1", "cluster-ip4-endpoints4-random-1"}
    assert not diff(held.apply(edit), elements.snapshot())


def test_an_endpoint_for_another_touches_one_element() -> None:
    table, elements, _ = started(build.service(), build.slice("10.180.0.1", "10.180.0.2"))
    edit = elements.update(table.apply([build.slice("10.180.0.1", "10.180.0.3")]))
    assert [(each.set, len(each.packed_keys)) for each in (*edit.remove, *edit.put)] == [("endpoints4", KEY + TURN)] * 2
    assert not edit.put_chains
    assert not edit.remove_chains


def test_nothing_changes_nothing() -> None:
    table, elements, _ = started(build.service(), build.slice("10.180.0.1"))
    assert not elements.update([])
    assert not elements.update(table.services)


def test_a_chain_that_one_service_leaves_and_another_begins_to_use_stays_as_it_is() -> None:
    for order in (1, -1):
        one, two = build.service(), build.service("svc2", ip="172.30.0.42")
        slices = build.slice("10.180.0.1"), build.slice("10.180.0.1", "10.180.0.2", service="svc2")
        table, elements, _ = started(one, two, *slices)
        touched = table.apply([build.slice("10.180.0.1", "10.180.0.2"), build.slice("10.180.0.1", service="svc2")])
        edit = elements.update(sorted(touched)[::order])
        assert edit
        assert not edit.put_chains
        assert not edit.remove_chains


def test_an_address_that_moves_to_another_service_is_there_afterwards_whichever_is_told_first() -> None:
    for first, second in (("a", "b"), ("b", "a")):
        services = {
            "a": build.service("a", ip="172.30.0.1", externalIPs=(EXTERNAL,)),
            "b": build.service("b", ip="172.30.0.2"),
        }
        behind = [build.slice("10.180.0.1", service="a"), build.slice("10.180.0.1", service="b")]
        table, elements, held = started(*services.values(), *behind)
        moved = {
            "a": build.service("a", ip="172.30.0.1"),
            "b": build.service("b", ip="172.30.0.2", externalIPs=(EXTERNAL,)),
        }
        touched = table.apply([moved[first], moved[second]])
        held = held.apply(elements.update(sorted(touched, reverse=first == "b")))
        assert not diff(held, elements.snapshot())
        assert served(held, FOREIGN, EXTERNAL, 80, "TCP", own=False).endpoints == ("10.180.0.1:80",)


def test_thousands_of_endpoints_behind_one_address() -> None:
    many = [f"10.180.{n // 250}.{n % 250}" for n in range(3000)]
    _, _, held = started(build.service(), build.slice(*many))
    assert len(served(held, POD, "172.30.0.41", 80, "TCP", own=False).endpoints) == 3000


def test_networks_within_networks_are_one_interval() -> None:
    nested = ServiceConfig(
        node="n1",
        pod_cidrs=build.config().pod_cidrs + build.config().pod_cidrs[:1],
        service_cidrs=build.config().service_cidrs * 2,
    )
    elements = ServiceRenderer(ServiceResolver(nested))
    held = BARE.apply(elements.update([]))
    assert len(held.sets["podnets4"].elements) == len(held.sets["servicenets4"].elements) == 1


def test_long_names_are_no_longer_than_the_kernel_takes() -> None:
    name = "n" * 63
    service = build.service(
        name,
        build.port(80, "p" * 63, nodePort=30080),
        type="LoadBalancer",
        lb=[LB],
        externalTrafficPolicy="Local",
        loadBalancerSourceRanges=["203.0.113.0/24"],
        sessionAffinity="ClientIP",
        annotations={"percale.io/strategy": "rr"},
    )
    _, elements, _ = started(service, build.slice("10.180.0.1@n1", service=name, ports=[("p" * 63, 80, "TCP")]))
    snapshot = elements.snapshot()
    rules = [rule for chain in snapshot.put_chains for rule in chain.rules]
    comments = [rule.comment for rule in rules] + [each.comment for each in snapshot.put_sets]
    assert max(len(text.encode()) for text in comments) < 128
    names = [each.name for each in snapshot.put_chains] + [each.name for each in snapshot.put_sets]
    assert max(map(len, names)) < 256
    assert any(each.startswith("source-ranges4-local-policy4-affinity4-") for each in names)


def test_sctp_has_elements_of_its_own() -> None:
    service = build.service("svc1", build.port(80, "a"), build.port(80, "b", protocol="SCTP"))
    both = build.slice("10.180.0.1", ports=[("a", 8080, "TCP"), ("b", 9090, "SCTP")])
    _, _, held = started(service, both)
    assert served(held, POD, "172.30.0.41", 80, "SCTP", own=False).endpoints == ("10.180.0.1:9090",)
    assert served(held, POD, "172.30.0.41", 80, "TCP", own=False).endpoints == ("10.180.0.1:8080",)
    assert served(held, POD, "172.30.0.41", 80, "UDP", own=False) == Done("reject")


# Clients that are remembered


def test_an_endpoint_that_goes_leaves_clients_behind() -> None:
    service = build.service(sessionAffinity="ClientIP")
    table, elements, _ = started(service, build.slice("10.180.0.1", "10.180.0.2"))
    (known,) = elements.stale_affinity_maps
    elements.stale_affinity_maps.clear()
    elements.update(table.apply([build.slice("10.180.0.1", "10.180.0.2", "10.180.0.3")]))
    assert not elements.stale_affinity_maps
    elements.update(table.apply([build.slice("10.180.0.1", "10.180.0.3")]))
    assert elements.stale_affinity_maps == {
        known: frozenset(bytes((10, 180, 0, last)) + (80).to_bytes(2) + b"\0\0" for last in (1, 3))
    }
    elements.update(table.apply(gone=[(Service, ObjectKey("ns1", "svc1"))]))
    assert not elements.stale_affinity_maps


def test_another_timeout_is_another_map() -> None:
    def with_timeout(seconds: int) -> Service:
        config = SessionAffinityConfig(clientIP=ClientIPConfig(timeoutSeconds=seconds))
        return build.service(sessionAffinity="ClientIP", sessionAffinityConfig=config)

    table, elements, held = started(with_timeout(60), build.slice("10.180.0.1"))
    edit = elements.update(table.apply([with_timeout(61)]))
    assert [shape.timeout for shape in edit.put_sets] == [61]
    assert not diff(held.apply(edit), elements.snapshot())
