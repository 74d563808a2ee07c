"""Groups, and the forms in which a matrix is shown."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import partial
from typing import Any
from xml.etree import ElementTree

from msgspec import convert, to_builtins
from tests import builders

from percale.explain.flow_ends import outside
from percale.explain.matrix import graph, text
from percale.explain.matrix.document import matrix_document
from percale.explain.matrix.groups import by_workload, outside_groups
from percale.explain.matrix.matrix import Cell, Matrix
from percale.explain.matrix.port_space import port_space_of
from percale.explain.matrix.reachability import Reachability
from percale.explain.pod_owners import Group, owners
from percale.model.meta import Object
from percale.model.pod import Pod
from percale.model.workloads import ReplicaSet
from percale.policy.evaluator import Evaluator


def pod(name: str, ip: str, owner: str | None = None, namespace: str = "shop", **labels: str) -> Pod:
    """`owner`: KIND/NAME."""
    return builders.pod(name, ip, namespace=namespace, owner=owner, labels=labels, node=None)


policy = partial(builders.policy, namespace="shop")


def replica_set(name: str, deployment: str) -> ReplicaSet:
    owner = {"kind": "Deployment", "name": deployment, "controller": True}
    spec: dict[str, Any] = {"selector": {}, "template": {"spec": {"containers": []}}}
    return convert(
        {"metadata": {"name": name, "namespace": "shop", "ownerReferences": [owner]}, "spec": spec}, ReplicaSet
    )


def matrix_of(objects: Iterable[Object], detailed: tuple[str, ...] = ()) -> Matrix:
    everything = list(objects)
    evaluator = Evaluator(everything)
    ranges, space = outside([evaluator]), port_space_of([evaluator])
    reach = Reachability(evaluator, space, ranges)
    named = outside_groups(ranges, [evaluator], [reach])
    return Matrix(reach, by_workload(reach, owners(everything), named, detailed=detailed), space.all)


def texts(matrix: Matrix) -> dict[tuple[str, str], str]:
    return {(str(edge.source), str(edge.destination)): text.format_cell(matrix, edge.cell) for edge in matrix.edges()}


SELECT = {"matchLabels": {"app": "db"}}
ALLOW = {"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 5432}]}
SHOP = (
    replica_set("web-abc", "web"),
    pod("web-abc-1", "10.0.0.1", "ReplicaSet/web-abc", app="web"),
    pod("web-abc-2", "10.0.0.2", "ReplicaSet/web-abc", app="web"),
    pod("db-0", "10.0.0.3", "StatefulSet/db", app="db"),
    pod("cron", "10.0.0.4", app="cron"),
    policy("db", podSelector=SELECT, ingress=[ALLOW]),
)


def test_a_replica_set_of_a_deployment_is_the_deployment() -> None:
    assert owners(SHOP)[SHOP[1].key] == Group("workload", "web", "shop", "Deployment")


def test_a_replica_set_that_is_not_there_is_known_by_its_pods_hash() -> None:
    alone = pod("web-f9-x", "10.0.0.1", "ReplicaSet/web-f9", **{"pod-template-hash": "f9"})
    other = pod("raw-x", "10.0.0.2", "ReplicaSet/raw")
    found = owners([alone, other])
    assert found[alone.key] == Group("workload", "web", "shop", "Deployment")
    assert found[other.key] == Group("workload", "raw", "shop", "ReplicaSet")


def test_the_cells_say_who_reaches_whom() -> None:
    found = texts(matrix_of(SHOP))
    assert found["shop/web", "shop/db"] == "TCP 5432"
    assert found["shop/cron", "shop/db"] == "-"
    assert found["external", "shop/db"] == "-"
    assert found["shop/db", "shop/web"] == "all"
    assert found["shop/web", "shop/web"] == "all"
    assert ("shop/db", "shop/db") not in found, "a single pod and itself are not a matter of policy"
    assert ("external", "external") not in found


def test_where_pods_of_a_workload_differ_it_says_partly() -> None:
    odd = pod("web-abc-3", "10.0.0.9", "ReplicaSet/web-abc", app="canary")
    matrix = matrix_of([*SHOP, odd])
    assert texts(matrix)["shop/web", "shop/db"] == "~TCP 5432"
    assert "~  not for every pair of pods" in "\n".join(text.table(matrix, 120))


def test_one_namespace_in_detail_and_the_others_folded() -> None:
    matrix = matrix_of([*SHOP, pod("a", "10.1.0.1", namespace="ops"), pod("b", "10.1.0.2", namespace="ops")], ("shop",))
    assert [str(group) for group in matrix.groups] == ["ops/*", "shop/cron", "shop/db", "shop/web", "external"]
    assert texts(matrix)["ops/*", "ops/*"] == "all"


def test_nodes_are_a_group_and_a_pods_own_node_is_left_out() -> None:
    assert texts(matrix_of([*SHOP, builders.node("n", "10.9.0.1")]))["nodes", "shop/db"] == "-"


def test_addresses_outside_are_named_as_the_rule_names_them() -> None:
    block = {"cidr": "172.17.0.0/16", "except": ["172.17.1.0/24"]}
    matrix = matrix_of([*SHOP, policy("block", podSelector=SELECT, ingress=[{"from": [{"ipBlock": block}]}])])
    found = texts(matrix)
    assert found["172.17.0.0/16 except 172.17.1.0/24", "shop/db"] == "all"
    assert found["external", "shop/db"] == "-", "the hole in the block is like the rest of the world"


def test_two_workloads_of_one_name_have_their_kind() -> None:
    twins = [pod("x-0", "10.0.0.1", "StatefulSet/x"), pod("x-f", "10.0.0.2", "DaemonSet/x")]
    assert text.names(matrix_of(twins).groups) == ["shop/x (DaemonSet)", "shop/x (StatefulSet)", "external"]


def crowd(count: int) -> Matrix:
    """Workloads with long names, each with ports of its own."""
    pods = [pod(f"workload-number-{place:02}", f"10.0.0.{place + 1}", app=str(place)) for place in range(count)]
    rules = [
        policy(
            f"p{place}",
            podSelector={"matchLabels": {"app": str(place)}},
            ingress=[{"from": [{"podSelector": {}}], "ports": [{"port": 1000 + place % 7}]}],
        )
        for place in range(count)
    ]
    return matrix_of([*pods, *rules])


def test_a_small_table_has_the_ports_in_its_cells() -> None:
    assert list(text.table(matrix_of(SHOP), 120)) == [
        "from ╲ to    1    2         3    4",
        "1 shop/cron       -         all  all",
        "2 shop/db    all            all  all",
        "3 shop/web   all  TCP 5432  all  all",
        "4 external   all  -         all",
    ]


def test_thirty_workloads_fit_a_screen() -> None:
    lines = list(text.table(crowd(30), 120))
    assert max(map(len, lines)) <= 120
    assert lines[2].startswith(" 1 shop/workload-number-00    ")
    explained = dict(line.split("  ", 1) for line in lines[lines.index("") + 1 :])
    assert explained["-"] == "nothing"
    assert sorted(set(explained.values()) - {"nothing", "all"}) == [f"TCP {1000 + place}" for place in range(7)]


def test_what_does_not_fit_is_a_list() -> None:
    matrix = crowd(30)
    lines = list(text.table(matrix, 60))
    assert max(map(len, lines)) <= 60
    assert "shop/workload-number-00" in lines
    assert all(str(group) in "\n".join(lines) for group in matrix.groups)


def test_csv_has_the_pairs_that_get_anything() -> None:
    matrix = matrix_of(SHOP)
    rows = list(csv.DictReader(text.as_csv(matrix)))
    assert {(row["from"], row["to"]) for row in rows} == {pair for pair, text in texts(matrix).items() if text != "-"}
    assert {"from": "shop/web", "to": "shop/db", "ports": "TCP 5432", "partly": "false"} in rows


def test_json_has_every_pair_and_the_ports_as_values() -> None:
    document = to_builtins(matrix_document(matrix_of(SHOP)))
    flows = {(each["from"], each["to"]): each for each in document["flows"]}
    assert flows["shop/web", "shop/db"]["every"] == {"TCP": ["5432"]}
    assert flows["shop/cron", "shop/db"]["some"] == {}
    assert {"name": "shop/web", "sort": "workload", "namespace": "shop", "kind": "Deployment", "addresses": 2} in (
        document["groups"]
    )


def test_dot_names_every_group_once_and_draws_what_is_allowed() -> None:
    lines = "\n".join(graph.dot(matrix_of([*SHOP, pod('q"\\', "10.0.0.8")])))
    assert lines.count("subgraph") == 1
    assert '[label="q\\"\\\\"];' in lines
    assert '-> g1 [label="TCP 5432"];' in lines
    assert lines.count("{") == lines.count("}")


def test_svg_is_a_document_by_itself() -> None:
    text = "\n".join(graph.svg(matrix_of([*SHOP, pod("a<b&c", "10.0.0.8")])))
    root = ElementTree.fromstring(text)
    titles = [each.text for each in root.iter("{http://www.w3.org/2000/svg}title")]
    assert "shop/web → shop/db: TCP 5432" in titles
    assert "shop/a<b&c → shop/db: nothing" in titles
    assert "prefers-color-scheme: dark" in text
    assert not any(word in text for word in ("href", "url(", "import", "script"))


def test_more_cells_than_letters_get_numbers() -> None:
    pods = [pod(f"p{place:03}", f"10.0.{place}.1", app=str(place)) for place in range(60)]
    rules = [
        policy(
            f"r{place}", podSelector={"matchLabels": {"app": str(place)}}, ingress=[{"ports": [{"port": 2000 + place}]}]
        )
        for place in range(60)
    ]
    marks = text.symbols(matrix_of([*pods, *rules]))
    assert len(set(marks.values())) == len(marks) == 61
    assert marks[max(marks, key=lambda cell: cell.some)] == text.ALL
    assert Cell(0, 0) not in marks
