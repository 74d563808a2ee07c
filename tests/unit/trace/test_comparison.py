"""What the kernel did against the model: agreement is silent, each difference is a line that names both."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from tests import builders

from percale.kernel.probe_packet import Header, Probe
from percale.policy.evaluator import Evaluator
from percale.service.node_context import ServiceConfig
from percale.service.resolver import ServiceResolver
from percale.trace.comparison import policy_differences, service_differences, with_services
from percale.trace.evidence import Evidence, Observation, Step
from percale.trace.hops import NatHop

CLIENT, WEB, VIP, NODE = "10.244.1.2", "10.244.2.2", "10.96.0.5", "192.168.0.1"
WORLD = (
    builders.pod("client", CLIENT, namespace="x", labels={"app": "client"}),
    builders.pod("web", WEB, namespace="x", labels={"app": "web"}, node="n2"),
    builders.service(namespace="x", clusterIP=VIP, clusterIPs=[VIP], selector={"app": "web"}),
    builders.endpoint_slice("web", WEB, namespace="x"),
)


def header(source: str, destination: str) -> Header:
    return Header(ip_address(source), ip_address(destination), 6, 40000, 80)


def evidence(place: str, destination: str, *steps: Step) -> Evidence:
    probe = Probe.new("TCP", 4, 80, (80,), b"abcd")
    seen = Observation(place, "node", (), steps, (), (), {})
    return Evidence(probe, ip_address(destination), "x/client", 40000, 0, None, (seen,))


def own_node_steps(verdict: str, comment: str) -> tuple[Step, ...]:
    first = Step(1, "inet", "percale", "own-node-input", "jump", False, 5, header=header(CLIENT, NODE), input="a")
    said = Step(1, "inet", "percale", "egress-node4-abc", verdict, False, 6, comment)
    return first, said, Step(1, "inet", "percale", "own-node-input", "accept", True, 0)


@pytest.mark.parametrize(
    ("action", "verdict", "told"),
    [
        ("Deny", "drop", None),
        ("Deny", "return", "the kernel passes it (cnp:c#egress[0]), by the policies it is denied"),
        ("Accept", "drop", "the kernel drops it (cnp:c#egress[0]), by the policies it is allowed"),
        ("Pass", "drop", "the kernel drops it (cnp:c#egress[0]), by the policies it is allowed (node)"),
    ],
)
def test_what_a_pod_sends_to_its_own_node(action: str, verdict: str, told: str | None) -> None:
    objects = [*WORLD, builders.node("n1", NODE)]
    objects.append(builders.cluster_policy("c", egress=[{"action": action, "to": [{"nodes": {}}]}]))
    seen = evidence("n1", NODE, *own_node_steps(verdict, "cnp:c#egress[0]"))
    differences = list(policy_differences(seen, Evaluator(objects)))
    assert len(differences) == (told is not None)
    assert told is None or told in differences[0]


def policy_steps(verdict: str, comment: str) -> tuple[Step, ...]:
    first = Step(1, "inet", "percale", "policies", "jump", False, 5, header=header(CLIENT, WEB), input="a", output="b")
    said = Step(1, "inet", "percale", "ingress4-abc", verdict, False, 6, comment)
    return first, said, Step(1, "inet", "percale", "policies", "accept", True, 0)


@pytest.mark.parametrize(
    ("app", "verdict", "comment", "told"),
    [
        ("client", "return", "np:x/p#ingress[0]", None),
        ("other", "drop", "no rule allows it: np:x/p", None),
        (
            "other",
            "return",
            "np:x/p#ingress[0]",
            "the kernel passes it (np:x/p#ingress[0]), by the policies it is denied",
        ),
        (
            "client",
            "drop",
            "no rule allows it: np:x/p",
            "the kernel drops it (no rule allows it: np:x/p), by the policies",
        ),
        (
            "client",
            "return",
            "np:x/q#ingress[0]",
            "the kernel's rule is np:x/q#ingress[0], by the policies it is np:x/p#in",
        ),
    ],
)
def test_a_verdict_that_is_not_the_evaluators_is_told(app: str, verdict: str, comment: str, told: str | None) -> None:
    allows = {"from": [{"podSelector": {"matchLabels": {"app": app}}}]}
    policy = builders.policy("p", namespace="x", podSelector={"matchLabels": {"app": "web"}}, ingress=[allows])
    objects = (*WORLD, policy)
    found = list(policy_differences(evidence("n2", WEB, *policy_steps(verdict, comment)), Evaluator(objects)))
    assert [told is not None and told in each for each in found] == [True] * (told is not None)
    assert not list(policy_differences(evidence("n1", WEB, *policy_steps(verdict, comment)), Evaluator(objects))), (
        "not its node"
    )


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        (f"{WEB}:80", None),
        ("10.244.9.9:80", f"the kernel chose 10.244.9.9:80, the Service's endpoints are {WEB}:80"),
        (None, f"the kernel chose no endpoint, the Service has {WEB}:80"),
    ],
)
def test_an_endpoint_that_is_not_the_resolvers_is_told(chosen: str | None, told: str | None) -> None:
    step = Step(1, "inet", "percale-services", "prerouting", "jump", False, 5, header=header(CLIENT, VIP), input="a")
    routed = Step(1, "inet", "percale", "policies", "accept", True, 0, header=header(CLIENT, VIP), output="b")
    hops = [NatHop("n1", "request", None, "dnat", False, f"{VIP}:80", chosen)] if chosen else []
    table = ServiceResolver(ServiceConfig("n1"), WORLD)
    found = list(service_differences(evidence("n1", VIP, step, routed), hops, WORLD, lambda node: table))
    assert [told is not None and told in each for each in found] == [True] * (told is not None)


def test_translations_are_named_by_their_service() -> None:
    there = NatHop("n1", "request", None, "dnat", False, f"{VIP}:80", f"{WEB}:80")
    back = NatHop("n1", "reply", None, "dnat", True, f"{WEB}:80", f"{VIP}:80")
    other = NatHop("n1", "request", None, "snat", False, f"{CLIENT}:40000", "192.168.1.2:1")
    named = with_services((there, back, other), WORLD, "TCP")
    assert [each.service for each in named if isinstance(each, NatHop)] == ["svc/x/web:80", "svc/x/web:80", None]
