"""All pairs at once say what the evaluator says of each pair, and flips what it says of two worlds; over generated worlds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations, product

from hypothesis import event, given
from hypothesis import strategies as st
from msgspec.structs import replace
from tests import builders
from tests.unit.policy.small_worlds import puts

from percale.explain.flow_ends import FlowEnds, outside, rules_of
from percale.explain.matrix.diff import FlowChange, WorldSide, flow_changes
from percale.explain.matrix.groups import by_workload, outside_groups
from percale.explain.matrix.matrix import Matrix
from percale.explain.matrix.port_space import PortSet, port_space_of
from percale.explain.matrix.reachability import Reachability, always
from percale.explain.pod_owners import Group, owners
from percale.model.meta import Object
from percale.model.networkpolicy import NetworkPolicy
from percale.model.pod import Pod
from percale.model.selector import LabelSelector
from percale.policy.evaluator import Evaluator
from percale.policy.flow_match import peer_matches
from percale.policy.rule_terms import Block
from percale.policy.verdict import Flow


def latest(objects: Iterable[Object]) -> list[Object]:
    """Of each name the last."""
    return list({(type(each), each.key): each for each in objects}.values())


def bold(objects: list[Object]) -> list[Object]:
    """Every other NetworkPolicy selects all pods of its namespace, so that rules meet flows more often."""
    return [
        replace(each, spec=replace(each.spec, podSelector=LabelSelector()))
        if isinstance(each, NetworkPolicy) and place % 2
        else each
        for place, each in enumerate(objects)
    ]


worlds = st.lists(puts, min_size=8, max_size=20).map(latest).map(bold)
many = st.lists(puts, min_size=15, max_size=40).map(latest)


def evaluator_of(objects: Iterable[Object]) -> Evaluator:
    evaluator = Evaluator(objects)
    evaluator.node_index.resolved_names["example.org"] = frozenset((bytes((203, 0, 113, 7)), bytes((10, 0, 1, 1))))
    return evaluator


def sides(*several: Sequence[Object]) -> list[WorldSide]:
    evaluators = [evaluator_of(objects) for objects in several]
    space, ranges = port_space_of(evaluators), outside(evaluators)
    reaches = [Reachability(evaluator, space, ranges) for evaluator in evaluators]
    named = outside_groups(ranges, evaluators, reaches)
    return [
        WorldSide(evaluator, reach, by_workload(reach, owners(objects), named))
        for objects, evaluator, reach in zip(several, evaluators, reaches, strict=True)
    ]


def judged(side: WorldSide, source: int, destination: int) -> PortSet:
    """What the evaluator says, asked for the ends of each piece."""
    found = 0
    for piece, bit in side.reach.space.pieces_of(side.reach.space.all):
        verdicts = [
            side.evaluator.evaluate(Flow(side.reach.ends[source], side.reach.ends[destination], piece.protocol, port))
            for port in {piece.first, piece.last}
        ]
        assert len({verdict.allowed for verdict in verdicts}) == 1, (piece, verdicts)
        found |= bit if verdicts[0].allowed else 0
    return found


@given(many)
def test_a_peer_means_the_same_parties_for_all_at_once_as_for_one(objects: list[Object]) -> None:
    evaluator = evaluator_of(objects)
    ends = FlowEnds(evaluator, outside([evaluator]))
    for rule in rules_of(evaluator):
        for peers in ((peer,) for peer in rule.peers or ()):
            one_by_one = [
                peer_matches(peers[0], end, evaluator.selector_index, evaluator.node_index) for end in ends.all
            ]
            assert ends.peers(peers).tolist() == one_by_one, peers


@given(worlds)
def test_every_pair_and_port_is_as_the_evaluator_judges_it(objects: list[Object]) -> None:
    (side,) = sides(objects)
    ends, kinds = side.reach.ends, side.reach.kinds
    for source, destination in product(range(len(ends)), repeat=2):
        if len(ends[source].address) == len(ends[destination].address):
            ports = side.reach.sets[int(side.reach.row(int(kinds[source]))[kinds[destination]])]
            if always(ends[source], ends[destination]):
                ports = side.reach.space.all
                if ends[destination].node is not None:
                    ports = side.reach.to_own_node(int(kinds[source]), int(kinds[destination]))
            assert ports == judged(side, source, destination), (ends[source], ends[destination])


@given(worlds)
def test_a_cell_is_what_every_pair_and_what_some_pair_gets(objects: list[Object]) -> None:
    (side,) = sides(objects)
    grouping, ends = side.grouping, side.reach.ends
    for shape in (grouping, grouping.folded()):
        matrix = Matrix(side.reach, shape, side.reach.space.all)
        members = [
            [place for place, each in enumerate(shape.of) if each == group] for group in range(len(shape.groups))
        ]
        for source, destination in product(range(len(shape.groups)), repeat=2):
            found = [
                side.reach.sets[int(side.reach.row(int(side.reach.kinds[one]))[side.reach.kinds[other]])]
                for one, other in product(members[source], members[destination])
                if one != other and len(ends[one].address) == len(ends[other].address)
            ]
            cell = matrix.cell(source, destination)
            if {shape.groups[each].sort for each in (source, destination)} <= {"nodes", "outside"} or not found:
                assert cell is None
            else:
                every, some = found[0], 0
                for each in found:
                    every, some = every & each, some | each
                assert cell is not None
                assert (cell.every, cell.some) == (every, some)


@given(worlds, st.lists(puts, min_size=1, max_size=4), st.data())
def test_flips_are_the_flows_that_the_two_worlds_judge_differently(
    objects: list[Object], changes: list[Object], data: st.DataObject
) -> None:
    kept = [each for each in objects if isinstance(each, Pod) or data.draw(st.booleans())]
    before, after = sides(objects, latest([*kept, *changes]))
    expected: dict[tuple[Group, Group, bool], PortSet] = {}
    after_of = {_name(after, place): place for place in range(len(after.reach.ends))}
    shared = [place for place in range(len(before.reach.ends)) if _name(before, place) in after_of]
    for source, destination in product(shared, repeat=2):
        one, other = before.reach.ends[source], before.reach.ends[destination]
        there = after_of[_name(before, source)], after_of[_name(before, destination)]
        exempt = always(one, other), always(*(after.reach.ends[each] for each in there))
        to_own_node = exempt == (True, True) and other.node is not None
        if len(one.address) != len(other.address) or (any(exempt) and not to_own_node):
            continue
        old, new = judged(before, source, destination), judged(after, *there)
        for opens, ports in ((True, new & ~old), (False, old & ~new)):
            if ports:
                key = (before.group(source), before.group(destination), opens)
                expected[key] = expected.get(key, 0) | ports
    found: dict[tuple[Group, Group, bool], PortSet] = {}
    for flip in flow_changes(before, after, before.reach.space.all):
        found[_key(flip)] = found.get(_key(flip), 0) | flip.ports
        assert flip.before.allowed != flip.after.allowed
        assert flip.opens == flip.after.allowed
    assert found == expected
    event("flips" if found else "no flips")


def test_the_only_node_of_a_pod_may_be_its_own() -> None:
    objects = [builders.node("n1", "192.168.0.1"), builders.pod("web", "10.0.0.1")]
    policy = builders.cluster_policy("c", egress=[{"action": "Deny", "to": [{"nodes": {}}]}])
    before, after = sides(objects, [*objects, policy])
    (flip,) = flow_changes(before, after, before.reach.space.all)
    assert (flip.opens, flip.partly, flip.before.why, str(flip.after.rule)) == (False, False, "node", "cnp:c#egress[0]")


def _key(flip: FlowChange) -> tuple[Group, Group, bool]:
    return (flip.source, flip.destination, flip.opens)


def _name(side: WorldSide, place: int) -> object:
    end = side.reach.ends[place]
    return (end.pod.key, len(end.address)) if end.pod is not None else (end.node, end.address)


def test_every_block_and_exception_means_its_addresses() -> None:
    addresses = [
        "9.255.255.255",
        "10.0.0.0",
        "10.0.0.255",
        "10.0.1.0",
        "10.0.1.1",
        "10.0.1.255",
        "10.0.2.0",
        "fd00::1",
        "fd00::2",
    ]
    evaluator = Evaluator(builders.pod(f"p{place}", ip, node=None) for place, ip in enumerate(addresses))
    ends = FlowEnds(evaluator, [])
    parts = ("10.0.0.0/32", "10.0.1.0/24", "10.0.1.1/32", "10.0.1.255/32", "10.0.2.0/32", "10.0.0.0/23", "fd00::2/128")
    for cidr in ("0.0.0.0/0", "10.0.0.0/8", "10.0.1.0/24", "10.0.1.255/32", "11.0.0.0/8", "::/0", "fd00::/64"):
        for exceptions in ((), *combinations(parts, 1), *combinations(parts, 2)):
            block = Block(cidr, exceptions)
            expected = [end.address in block for end in ends.all]
            if all(
                len(each.network_address.packed) == len(block.network.network_address.packed) for each in block.excluded
            ):
                assert ends.peers([block]).tolist() == expected, block


def test_a_named_port_is_the_one_of_the_destination_and_of_its_protocol() -> None:
    """One name, several numbers and protocols; the rule means each pod's own, in both directions."""
    ports = {
        "a": [("web", 80, "TCP")],
        "b": [("web", 81, "TCP"), ("web", 82, "UDP")],
        "c": [("other", 80, "TCP")],
        "d": [("web", 81, "TCP")],
    }
    pods = [
        builders.pod(
            name,
            f"10.0.0.{place}",
            labels={"name": name},
            node=None,
            ports=[{"name": n, "containerPort": p, "protocol": t} for n, p, t in ports[name]],
        )
        for place, name in enumerate(ports)
    ]
    web = {"ports": [{"port": "web"}]}
    to_b = {"to": [{"podSelector": {"matchLabels": {"name": "b"}}}], **web}
    for spec, expected in (
        ({"podSelector": {}, "ingress": [web]}, {"a": "TCP 80", "b": "TCP 81", "c": "none", "d": "TCP 81"}),
        (
            {"podSelector": {}, "policyTypes": ["Egress"], "egress": [web]},
            {"a": "TCP 80", "b": "TCP 81", "c": "none", "d": "TCP 81"},
        ),
        (
            {"podSelector": {}, "policyTypes": ["Egress"], "egress": [to_b]},
            {"a": "none", "b": "TCP 81", "c": "none", "d": "none"},
        ),
    ):
        (side,) = sides([*pods, builders.policy(**spec)])
        for source, destination in product(range(4), repeat=2):
            if source != destination:
                row = side.reach.row(int(side.reach.kinds[source]))
                got = side.reach.sets[int(row[side.reach.kinds[destination]])]
                assert side.reach.space.text(got) == expected["abcd"[destination]], spec
                assert got == judged(side, source, destination)
