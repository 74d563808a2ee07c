"""Verdicts in words: who is meant, which rule decides, the nearest rule, and what nobody can tell."""

from __future__ import annotations

import pytest
from msgspec import to_builtins
from msgspec.structs import replace
from tests import builders
from tests.unit.explain.why.conftest import NOWHERE

from percale.errors import BadInput, NotFound
from percale.explain.end_names import parse_name
from percale.explain.why.connection import Reply, explain_connection
from percale.explain.why.document import connection_document
from percale.explain.why.smallest_fix import NoFix
from percale.explain.why.targets import TargetLookup, port_of
from percale.explain.why.text import change_text, to_text
from percale.explain.world import Tool
from percale.model.manifest.decode import decode_manifest
from percale.model.meta import ObjectKey
from percale.policy.evaluator import Evaluator


def pod(name: str, ip: str | None, labels: str = "", extra: str = "", ports: str = "") -> str:
    namespace, _, name = name.rpartition("/")
    ips = ", ".join(f'{{ip: "{each}"}}' for each in ip.split()) if ip else ""
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace or "default"}, labels: {{{labels}}}}}
spec: {{containers: [{{name: c, ports: [{ports}]}}]{extra}}}
status: {{phase: Running, podIPs: [{ips}]}}
---"""


def policy(name: str, spec: str) -> str:
    return f"""
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}, namespace: x}}
spec: {spec}
---"""


NODE = """
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}
---"""

PODS = (
    pod("x/server", "10.0.0.1", "app: server", ", nodeName: n1", "{name: web, containerPort: 8081}")
    + pod("x/client", "10.0.0.2", "app: client")
    + pod("y/other", "10.0.0.3", "app: client")
    + NODE
)


def around(text: str, *made_up: str, hosts: dict[str, tuple[str, ...]] | None = None) -> TargetLookup:
    keys = frozenset(ObjectKey(*each.split("/")) for each in made_up)
    objects = decode_manifest(text.encode(), "t.yaml").objects
    return TargetLookup(Evaluator(objects), objects, keys, hosts)


def ask(text: str, question: str, *made_up: str) -> Reply:
    source, destination, port = question.split()
    there = around(text, *made_up)
    end = there.find(destination)
    return explain_connection(there, there.find(source), end, *port_of(port, end))


def nearest(spec: str, question: str) -> tuple[str, str]:
    """What differs from the nearest rule, and the fix, or why there is none."""
    answer = ask(PODS + policy("p", spec), question)
    assert answer.word == "denied"
    (near,), (fix,) = answer.answers[0].nearest, answer.answers[0].fixes
    return near.what, fix.change.reason if isinstance(fix.change, NoFix) else change_text(fix.change, Tool())


def rule_for(port: str, peer: str = "podSelector: {matchLabels: {app: client}}") -> str:
    return f"add to spec.ingress of np:x/p: - {{from: [{{{peer}}}], ports: [{{{port}}}]}}"


HTTP = "port: 80, protocol: TCP"
Y_CLIENT = (
    "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: y}}, podSelector: {matchLabels: {app: client}}"
)
ICMP = "ICMP has no port: a rule allows it only with all ports of every protocol"


def server(rule: str) -> str:
    return f"{{podSelector: {{matchLabels: {{app: server}}}}, ingress: [{rule}]}}"


@pytest.mark.parametrize(
    ("rule", "question", "what", "fix"),
    [
        (
            "{ports: [{port: 80}]}",
            "x/client x/server 8080",
            "it allows port 80, you asked 8080",
            rule_for("port: 8080, protocol: TCP"),
        ),
        (
            "{ports: [{port: 80, endPort: 90}, {port: 53, protocol: UDP}]}",
            "x/client x/server 91",
            "it allows ports 80-90, you asked 91",
            rule_for("port: 91, protocol: TCP"),
        ),
        (
            "{ports: [{port: 80}]}",
            "x/client x/server 80/udp",
            "it allows TCP, you asked UDP",
            rule_for("port: 80, protocol: UDP"),
        ),
        (
            "{ports: [{port: 53, protocol: UDP}]}",
            "x/client x/server 80",
            "it allows port 53/UDP, you asked 80/TCP",
            rule_for("port: 80, protocol: TCP"),
        ),
        ("{ports: [{port: 80}]}", "x/client x/server icmp", "it allows port 80, ICMP has no port", ICMP),
        (
            "{ports: [{port: web}]}",
            "x/client x/server 80",
            "named port web is 8081/TCP on x/server, you asked 80",
            rule_for("port: 80, protocol: TCP"),
        ),
        (
            "{ports: [{port: metrics}]}",
            "x/client x/server 80",
            "it allows the named port metrics, x/server has none of this name",
            rule_for("port: 80, protocol: TCP"),
        ),
        (
            '{from: [{podSelector: {matchLabels: {access: "true"}}}]}',
            "x/client x/server 80",
            "it allows pods with access=true, x/client has no label access=true",
            "kubectl label pod -n x client access=true",
        ),
        (
            "{from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [a, b]}]}}]}",
            "x/client x/server 80",
            "it allows pods with app in (a, b), x/client has app=client, not a or b",
            rule_for(HTTP),
        ),
        (
            "{from: [{podSelector: {matchExpressions: [{key: app, operator: DoesNotExist}]}}]}",
            "x/client x/server 80",
            "it allows pods with no app, x/client has app=client",
            rule_for(HTTP),
        ),
        (
            "{from: [{namespaceSelector: {matchLabels: {team: a}}}]}",
            "y/other x/server 80",
            "namespace y is not selected: it lacks team=a",
            rule_for(HTTP, Y_CLIENT),
        ),
        (
            "{from: [{podSelector: {}}]}",
            "y/other x/server 80",
            "it allows pods of namespace x, y/other is in y",
            rule_for(HTTP, Y_CLIENT),
        ),
        (
            "{from: [{ipBlock: {cidr: 172.16.0.0/12, except: [172.17.0.0/28]}}]}",
            "172.17.0.5 x/server 80",
            "172.17.0.5 is in the except 172.17.0.0/28 of 172.16.0.0/12",
            rule_for(HTTP, "ipBlock: {cidr: 172.17.0.5/32}"),
        ),
        (
            "{from: [{ipBlock: {cidr: 172.16.0.0/12}}]}",
            "203.0.113.5 x/server 80",
            "it allows 172.16.0.0/12, 203.0.113.5 is not in it",
            rule_for(HTTP, "ipBlock: {cidr: 203.0.113.5/32}"),
        ),
        (
            "{from: [{podSelector: {}}]}",
            "203.0.113.5 x/server 80",
            "it allows pods, 203.0.113.5 is no pod",
            rule_for(HTTP, "ipBlock: {cidr: 203.0.113.5/32}"),
        ),
    ],
)
def test_the_nearest_rule_says_what_differs_and_the_line_that_would_do(
    rule: str, question: str, what: str, fix: str
) -> None:
    assert nearest(server(rule), question) == (what, fix)


def test_the_rule_with_the_fewest_differences_is_the_nearest() -> None:
    rules = '{from: [{podSelector: {matchLabels: {a: "1", b: "2"}}}], ports: [{port: 1}]}, {ports: [{port: 80}]}'
    answer = ask(PODS + policy("p", server(rules)), "x/client x/server 81")
    assert str(answer.answers[0].nearest[0].rule) == "np:x/p#ingress[1]"


def test_a_verdict_in_words() -> None:
    answer = ask(PODS + policy("p", server("{ports: [{port: 80}]}")), "x/client x/server 81")
    assert list(to_text(answer, NOWHERE)) == [
        "denied: x/client (10.0.0.2) → x/server (10.0.0.1), 81/TCP",
        "  egress   open: no policy isolates x/client",
        "  ingress  denied: isolated by np:x/p, and no rule allows it",
        "  nearest  np:x/p#ingress[0]: it allows port 80, you asked 81",
        f"  fix      {rule_for('port: 81, protocol: TCP')}",
    ]


def test_a_verdict_as_json() -> None:
    reply = ask(PODS + policy("p", server("{ports: [{port: 80}]}")), "x/client x/server 80")
    answer = to_builtins(connection_document(reply, NOWHERE))
    assert answer["verdict"] == "allowed"
    (flow,) = answer["flows"]
    assert flow["ingress"] == {
        "allowed": True,
        "why": "rule",
        "rule": "np:x/p#ingress[0]",
        "place": None,
        "isolating": ({"policy": "np:x/p", "place": None},),
    }
    assert flow["egress"]["why"] == "open"


def test_its_own_node_and_itself_need_no_rule() -> None:
    text = PODS + policy("p", "{podSelector: {}, policyTypes: [Ingress, Egress]}")
    for question in (
        "node/n1 x/server 80",
        "x/server node/n1 10250",
        "x/server x/server 80",
        "192.168.0.1 x/server icmp",
    ):
        assert ask(text, question).word == "allowed"
    assert ask(text, "node/n1 x/client 80").word == "denied"


def test_each_family_that_both_have_is_judged_and_one_denial_is_a_denial() -> None:
    text = (
        pod("x/server", "10.0.0.1 fd00::1", "app: server")
        + pod("x/client", "10.0.0.2 fd00::2")
        + policy("p", server("{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}"))
    )
    answer = ask(text, "x/client x/server 80")
    assert [each.word for each in answer.answers] == ["allowed", "denied"]
    assert answer.word == "denied"
    assert ask(text, "x/client 10.0.0.1 80").word == "allowed"


def test_no_family_in_common_is_something_that_nobody_can_tell() -> None:
    text = pod("x/a", "10.0.0.1") + pod("x/b", "fd00::2")
    answer = ask(text, "x/a x/b 80")
    assert answer.word == "unknown"
    assert list(to_text(answer, NOWHERE)) == ["cannot tell: x/a → x/b, 80/TCP: x/a has only IPv4 and x/b only IPv6"]


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        ("{from: [{podSelector: {}}]}", "allowed"),  # whatever its address
        ("{ports: [{port: 81}], from: [{ipBlock: {cidr: 10.0.0.0/8}}]}", "denied"),
        ("{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}", "unknown"),
        ("{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}", "allowed"),
        ("{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.9.0.0/16]}}]}", "unknown"),
        ("{from: [{ipBlock: {cidr: 10.0.0.0/8}}, {podSelector: {matchLabels: {app: client}}}]}", "allowed"),
    ],
)
def test_a_pod_without_an_address_gets_its_verdict_unless_a_rule_asks_for_the_address(rule: str, word: str) -> None:
    answer = ask(PODS + policy("p", server(rule)), "x/client x/server 80", "x/client")
    assert answer.word == word
    if word == "unknown":
        assert answer.answers[0].doubt == (
            "it depends on the address of x/client, which has none yet: np:x/p#ingress[0] names addresses;"
            " --pod-cidr says the pods' network"
        )


def hint_at(there: TargetLookup, text: str) -> str | None:
    with pytest.raises(NotFound) as caught:
        there.find(text)
    return caught.value.hint


def test_an_unknown_name_is_told_with_the_nearest_that_is_known() -> None:
    there = around(PODS, hosts={"outside": ("203.0.113.2",)})
    for text, hint in (
        ("server", "did you mean x/server?"),
        ("x/servr", "did you mean x/server?"),
        ("x/serv", "did you mean x/server?"),
        ("node/n2", "did you mean node/n1?"),
        ("node/zzz", "there are node/n1"),
        ("n2", "there are external/outside, node/n1"),
        ("external/zzz", "there are external/outside"),
        ("external/outsid", "did you mean external/outside?"),
        ("outside", "did you mean external/outside?"),
        ("external", "for what is outside, give an address; for a Service, svc/NS/NAME"),
        ("x/zzzzzzzz", "there are x/client, x/server"),
    ):
        assert hint_at(there, text) == hint
    assert there.find("external/outside").ends[0].pod is None


def test_a_service_of_that_name_is_meant_perhaps() -> None:
    services = [builders.service(name, namespace="x") for name in ("front", "serv")]
    there = around(PODS)
    there = replace(there, objects=(*there.objects, *services))
    for text, hint in (
        ("front", "did you mean svc/x/front?"),
        ("x/front", "did you mean svc/x/front?"),
        ("x/serv", "did you mean x/server or svc/x/serv?"),
    ):
        with pytest.raises(NotFound) as caught:
            there.target(parse_name(text))
        assert caught.value.hint == hint
        assert "svc/x" not in (hint_at(there, text) or ""), "FROM is no Service"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("80", ("TCP", 80)),
        ("53/udp", ("UDP", 53)),
        ("9/SCTP", ("SCTP", 9)),
        ("icmp", ("ICMP", None)),
        ("web", ("TCP", 8081)),
    ],
)
def test_a_port_as_people_type_it(text: str, found: tuple[str, int | None]) -> None:
    assert port_of(text, around(PODS).find("x/server")) == found


@pytest.mark.parametrize("text", ["0", "65536", "80/http", "http", "web/udp", "80/icmp", ""])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        port_of(text, around(PODS).find("x/server"))
