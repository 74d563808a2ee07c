"""How connections are spread: what annotations may say, and which endpoint has which slot."""

from __future__ import annotations

import random
import time
from collections import Counter
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.service.build import build

from percale.service.consistent_hash import SLOTS, consistent_slots
from percale.service.strategies import MAX_SLOTS, Strategy, by_connections, interleaved, parse_strategy, slots_of

STRATEGY, WEIGHTS = "percale.io/strategy", "percale.io/weights"


def record(number: int) -> bytes:
    return (0x0A000000 + number).to_bytes(4) + (80).to_bytes(2)


@pytest.mark.parametrize("name", ["random", "rr", "wrr", "sh", "mh", "lc"])
def test_names(name: str) -> None:
    assert parse_strategy({STRATEGY: name}, "random").name == name
    assert parse_strategy({}, name).name == name


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        ({STRATEGY: "roundrobin"}, 'unknown strategy "roundrobin" (there are random, rr, wrr, sh, mh, lc)'),
        ({STRATEGY: "wrr", WEIGHTS: "node/n1"}, '"node/n1" is not WHOM=WEIGHT with a weight from 0 to 1000'),
        ({STRATEGY: "wrr", WEIGHTS: "node/n1=x"}, '"node/n1=x" is not WHOM=WEIGHT'),
        ({STRATEGY: "wrr", WEIGHTS: "*=1001"}, "a weight from 0 to 1000"),
        ({STRATEGY: "wrr", WEIGHTS: "*=-1"}, '"*=-1" is not'),
        ({STRATEGY: "wrr", WEIGHTS: "n1=2"}, '"n1" is neither node/NAME, an address, a network nor *'),
    ],
)
def test_what_is_refused(annotations: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=r"percale\.io/") as caught:
        parse_strategy(annotations, "random")
    assert said in str(caught.value)


def test_an_unknown_strategy_is_an_error_of_its_service_only() -> None:
    bad = build.service(annotations={STRATEGY: "best"})
    table = build.table(bad, build.service("svc2", ip="172.30.0.42"), build.slice("10.0.0.1"), strategy="rr")
    assert list(table.problems) == [
        'Service ns1/svc1: percale.io/strategy: unknown strategy "best" '
        "(there are random, rr, wrr, sh, mh, lc); rr is used"
    ]
    assert build.brief(table, "10.0.0.9", "172.30.0.41") == "10.0.0.1:80"
    assert table.services[bad.key].ports[0].strategy == Strategy("rr")


def test_weights_by_node_address_and_network() -> None:
    strategy = parse_strategy({STRATEGY: "wrr", WEIGHTS: "10.0.0.1=5, node/n2=3, 10.0.0.0/30=2, *=0"}, "random")
    records = [record(number) for number in (1, 2, 3, 9)]
    nodes = {record(1): "n2", record(2): "n2", record(3): None, record(9): "n1"}
    assert Counter(slots_of(strategy, records, nodes)) == {record(1): 5, record(2): 3, record(3): 2}


weights_of_one = st.builds(
    lambda who, weight: f"{who}={weight}",
    st.sampled_from(
        ["node/n1", "node/n2", "10.0.0.1", "10.0.0.2", "10.0.0.0/30", "10.0.0.0/24", "0.0.0.0/0", "fd00::/8", "*"]
    ),
    st.integers(1, 5),
)


@given(st.lists(weights_of_one, min_size=1, max_size=6))
def test_the_first_weight_that_matches_counts(texts: list[str]) -> None:
    strategy = parse_strategy({STRATEGY: "wrr", WEIGHTS: ",".join(texts)}, "random")
    records = [record(number) for number in (1, 2, 9, 300)]
    nodes = {record(1): "n1", record(2): "n2", record(9): "n1", record(300): None}
    expected = [
        next(
            (
                each.weight
                for each in strategy.weights
                if (each.node is None or each.node == nodes[one])
                and (each.network is None or ip_address(one[:4]) in each.network)
            ),
            1,
        )
        for one in records
    ]
    assert slots_of(strategy, records, nodes) == interleaved(records, expected)


def test_many_weights_are_no_matter() -> None:
    """3 * 10^7 comparisons otherwise: a minute in which the agent does nothing else."""
    texts = [f"11.{number // 65536}.{number // 256 % 256}.{number % 256}=2" for number in range(15_000)]
    strategy = parse_strategy({STRATEGY: "wrr", WEIGHTS: ",".join(texts)}, "random")
    records = [record(number) for number in range(2000)]
    began = time.process_time()
    assert len(slots_of(strategy, records, {})) == 2000
    assert time.process_time() - began < 10.0


def test_weights_reach_the_table() -> None:
    service = build.service(annotations={STRATEGY: "wrr", WEIGHTS: "node/n1=3"})
    port = build.table(service, build.slice("10.0.0.1@n1", "10.0.0.2@n2")).services[service.key].ports[0]
    assert [str(ip_address(each[:4])) for each in port.records(port.cluster)].count("10.0.0.1") == 3


def test_turns_are_spread() -> None:
    a, b, c = record(1), record(2), record(3)
    assert interleaved([a, b, c], [5, 1, 1]) == (a, a, b, a, c, a, a)
    assert interleaved([a, b], [4, 2]) == (a, b, a)
    assert interleaved([a, b], [0, 0]) == (a, b)
    assert interleaved([], []) == ()


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40))
def test_weighted_slots_are_few_and_whoever_has_a_weight_has_a_slot(weights: list[int]) -> None:
    records = [record(number) for number in range(len(weights))]
    slots = Counter(interleaved(records, weights))
    assert sum(slots.values()) <= MAX_SLOTS + len(weights)
    assert set(slots) == {each for each, weight in zip(records, weights, strict=True) if weight or not any(weights)}


def test_fewest_connections_get_most_slots() -> None:
    a, b, c = record(1), record(2), record(3)
    counts = Counter(by_connections([a, b, c], {a: 1000, b: 0, c: 500}))
    assert counts[b] > counts[c] > counts[a] > 0
    assert by_connections([a, b], {}) == (a, b)
    assert by_connections([a, b], {a: 3, b: 3}) == (a, b)


def test_few_more_connections_matter() -> None:
    a, b = record(1), record(2)
    counts = Counter(by_connections([a, b], {a: 1}))
    assert counts == {a: 1, b: 2}
    assert Counter(by_connections([a, b], {a: 1008, b: 1000})) == {a: 1, b: 9}


@given(st.sets(st.integers(1, 0xFFFFFF), min_size=2, max_size=40), st.randoms(use_true_random=False))
def test_losing_one_endpoint_moves_few_clients_but_its_own(numbers: set[int], dice: random.Random) -> None:
    records = [record(number) for number in sorted(numbers)]
    lost = dice.choice(records)
    before = consistent_slots(records)
    after = consistent_slots([each for each in records if each != lost])
    moved = sum(one != other for one, other in zip(before, after, strict=True))
    assert moved / SLOTS <= 1 / len(records) + 0.05
    assert lost not in after


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 40])
def test_the_consistent_table_is_full_and_fair(count: int) -> None:
    slots = Counter(consistent_slots([record(number) for number in range(count)]))
    assert sum(slots.values()) == SLOTS
    assert len(slots) == count
    assert max(slots.values()) <= SLOTS / count + 9


def test_the_consistent_table_is_the_same_everywhere() -> None:
    """Pinned: nodes of two versions must send a client to the same endpoint."""
    slots = consistent_slots([record(1), record(2), record(3)])
    assert slots == consistent_slots([record(1), record(2), record(3)])
    assert "".join(str(each[3]) for each in slots[:24]) == PINNED


PINNED = "312232331313123333312111"


def test_no_endpoints_no_slots() -> None:
    assert consistent_slots([]) == ()


@pytest.mark.parametrize("weights", [(1, 2, 3), (1000, 1, 0), (1000, 0, 0)])
def test_slots_of_very_many_endpoints_take_linear_time(weights: tuple[int, ...]) -> None:
    """A square of them would be 10^10."""
    records = [record(number) for number in range(90_000)]
    given = [weights[number % 3] for number in range(len(records))]
    began = time.process_time()
    slots = Counter(interleaved(records, given))
    assert time.process_time() - began < 2.0
    assert slots.keys() == {each for each, weight in zip(records, given, strict=True) if weight}
    assert sum(slots.values()) <= len(records) + MAX_SLOTS
