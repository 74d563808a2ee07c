"""Which lab a case needs: subnets that hold exactly its pods' addresses, hosts outside, and why there is none."""

from __future__ import annotations

import msgspec

from percale.explain.policy_tests.cases import decode_cases, in_sequence
from percale.lab.policy_tests.placement import Batch, batches
from percale.lab.spec.topology import Lab, LabSpec, topology
from percale.model.manifest.schema import from_text
from percale.model.netconf import network_config


def staged(*pods: str, nodes: str = "", probes: str = "{from: x/a, to: x/a, port: 80, allowed: true}") -> Batch:
    lines = "".join(f"- {{namespace: x, {pod}}}\n" for pod in pods)
    text = f"name: t\nnodes: [{nodes}]\npods:\n{lines}probes: [{probes}]\n"
    (batch,) = batches(in_sequence(decode_cases(text.encode(), "t.yaml")))
    return batch


def subnets(batch: Batch) -> dict[str, list[str]]:
    assert batch.plan is not None, batch.reason
    return {node.name: [str(each) for each in node.subnets.values()] for node in batch.plan.node_subnets}


def is_a_lab(batch: Batch) -> None:
    """Its document is one that `percale lab up` takes."""
    assert batch.plan is not None, batch.reason
    spec = msgspec.convert(batch.plan.document["spec"], LabSpec, dec_hook=from_text)
    network = network_config(spec.network or {})
    assert topology(spec, network.networks).nodes
    assert batch.plan.document["kind"] == Lab.KIND


def test_pods_of_several_subnets_are_on_several_nodes() -> None:
    batch = staged("name: a, ip: 10.244.1.11", "name: b, ip: 10.244.2.21", "name: c, ip: 10.244.7.7")
    assert subnets(batch) == {"n1": ["10.244.1.0/24"], "n2": ["10.244.2.0/24"], "n3": ["10.244.7.0/24"]}
    is_a_lab(batch)


def test_pods_that_must_be_on_different_nodes_get_smaller_subnets() -> None:
    batch = staged(
        "name: a, ip: 10.0.0.10, node: m1",
        "name: b, ip: 10.0.0.200, node: m2",
        nodes="{name: m1, ips: [192.168.9.11]}, {name: m2}",
    )
    assert subnets(batch) == {"m1": ["10.0.0.0/25"], "m2": ["10.0.0.128/25"]}
    is_a_lab(batch)


def test_addresses_that_no_pod_of_a_small_subnet_can_have_get_a_larger_one() -> None:
    batch = staged("name: a, ip: 10.0.1.0", "name: b, ip: 10.0.1.255")
    assert subnets(batch) == {"n1": ["10.0.0.0/22"]}
    is_a_lab(batch)


def test_both_families_have_one_number_in_both() -> None:
    batch = staged('name: a, ips: [10.0.1.11, "fd00:0:0:1::11"]', 'name: b, ips: [10.0.2.11, "fd00:0:0:2::11"]')
    assert subnets(batch) == {"n1": ["10.0.1.0/24", "fd00:0:0:1::/64"], "n2": ["10.0.2.0/24", "fd00:0:0:2::/64"]}
    is_a_lab(batch)


def test_addresses_outside_are_hosts_behind_the_router() -> None:
    ends = ("203.0.113.7", "172.17.1.1", '"2001:db8::7"')
    batch = staged(
        'name: a, ips: [10.0.1.11, "fd00::11"]',
        probes=", ".join(f"{{from: {end}, to: x/a, port: 80, allowed: true}}" for end in ends),
    )
    is_a_lab(batch)
    assert batch.plan is not None
    assert batch.plan.machines == {
        "172.17.1.1": "external/h1",
        "203.0.113.7": "external/h2",
        "2001:db8::7": "external/h3",
    }


def test_a_pod_is_made_with_its_address_and_answers_where_it_is_probed() -> None:
    batch = staged("name: a, ip: 10.0.1.11, ports: [{name: web, containerPort: 8080}]")
    assert batch.plan is not None
    (pod,) = batch.sequences[0][0].pods
    placed = batch.plan.placed(pod)
    assert placed.metadata.annotations == {"percale.io/ips": "10.0.1.11"}
    assert placed.spec.nodeName == "n1"
    assert [port.containerPort for each in placed.spec.containers for port in each.ports] == [8080, 80]
    assert batch.plan.spare(batch.plan.node_subnets[0]) == ("10.0.1.254",)


def test_what_no_lab_can_be_says_why() -> None:
    far = staged("name: a, ip: 10.0.1.11, node: m1", "name: b, ip: 11.0.1.11, node: m1", nodes="{name: m1}")
    assert (far.plan, far.reason) == (None, "no nodes' subnets hold these pods' addresses as they are spread")
    assert not far.needs_lab


def test_a_probe_that_no_lab_can_send_keeps_no_other_from_being_sent() -> None:
    batch = staged(
        "name: a, ip: 10.0.1.11",
        "name: done, ip: 10.0.1.12, phase: Failed",
        probes=", ".join(
            f"{{from: {one}, to: {other}, protocol: {protocol}, port: 80, allowed: true}}"
            for one, other, protocol in (
                ("x/a", "x/a", "TCP"),
                ("x/done", "x/a", "TCP"),
                ("10.0.1.12", "x/a", "TCP"),
                ("203.0.113.7", "x/a", "UDP"),
                ("x/a", "127.0.0.9", "TCP"),
                ("x/a", "x/a", "SCTP"),
            )
        ),
    )
    is_a_lab(batch)
    assert batch.needs_lab
    assert batch.plan is not None
    assert batch.plan.machines == {"203.0.113.7": "external/h1"}
    (case,) = batch.sequences[0]
    first, done, its_address, outside, loopback, sctp = (batch.why_not_sent(case, probe) for probe in case.probes)
    assert (first, outside) == (None, None)
    assert done == "a lab's pods are Running, x/done is Failed"
    assert its_address is not None
    assert "overlap" in its_address
    assert loopback is not None
    assert "127.0.0" in loopback
    assert sctp == "a lab's probes are TCP and UDP, not SCTP"
    assert not staged(
        "name: a, ip: 10.0.1.11", probes="{from: x/a, to: x/a, protocol: SCTP, port: 1, allowed: true}"
    ).needs_lab
