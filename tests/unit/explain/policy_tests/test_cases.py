"""Cases as people write them: what is read, and each mistake with file, line, and what to write instead."""

from __future__ import annotations

import pytest

from percale.errors import BadManifest
from percale.explain.policy_tests.cases import Case, decode_cases, in_sequence
from percale.model.manifest.load import load_manifests
from percale.policy.compiled_policy import PolicyKey, RuleRef

SMALL = """\
name: small
pods:
- {namespace: x, name: a, labels: {app: a}, ip: 10.0.0.1, ports: [{name: web, containerPort: 80}]}
- {name: b, ip: 10.0.0.2}
policies:
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: deny, namespace: x}
  spec:
    podSelector: {}
    ingress:
    - ports:
      - port: 81
probes:
- {from: default/b, to: x/a, protocol: TCP, port: 80, allowed: false}
"""


def decoded(text: str) -> Case:
    (case,) = decode_cases(text.encode(), "t.yaml")
    return case


def complaints(text: str) -> list[str]:
    with pytest.raises(BadManifest) as caught:
        decode_cases(text.encode(), "t.yaml")
    return str(caught.value).splitlines()


def test_a_case_is_objects_and_probes_with_their_lines() -> None:
    case = decoded(SMALL)
    assert [str(pod.key) for pod in case.pods] == ["x/a", "default/b"]
    assert [each.metadata.name for each in case.namespaces] == ["x", "default"]
    (probe,) = case.probes
    assert (str(probe), probe.line, probe.allowed) == ("default/b → x/a 80/TCP", 15, False)
    assert case.addresses("x/a") == ("10.0.0.1",)
    assert case.addresses("203.0.113.1") == ("203.0.113.1",)


def test_a_file_has_a_case_in_each_document_and_lines_go_on() -> None:
    first, second = decode_cases(f"{SMALL}---\n{SMALL.replace('small', 'second')}".encode(), "t.yaml")
    assert (first.name, second.name) == ("small", "second")
    assert second.probes[0].line == 15 + 16


def test_states_of_a_sequence_stand_together_in_their_order() -> None:
    cases = [
        decoded(f"{SMALL}sequence: {{group: g, index: {index}, of: 2}}\n".replace("small", f"state-{index}"))
        for index in (2, 1)
    ]
    assert [[case.name for case in group] for group in in_sequence([cases[0], decoded(SMALL), cases[1]])] == [
        ["state-1", "state-2"],
        ["small"],
    ]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("allowed: false", "alowed: false", "t.yaml:15: unknown field 'alowed'; did you mean allowed?"),
        (", allowed: false", "", "t.yaml:15: probes[0].allowed: missing"),
        ("port: 80, allowed", "port: 70000, allowed", "t.yaml:15: probes[0].port: expected"),
        ("protocol: TCP, port: 80, ", "protocol: TCP, ", "t.yaml:15: probes[0]: `port`: missing"),
        ("protocol: TCP, port: 80, a", "protocol: ICMP, port: 80, a", "t.yaml:15: probes[0]: `port`: ICMP has none"),
        ("protocol: TCP, port: 80, a", "protocol: tcp, port: 80, a", "t.yaml:15: probes[0].protocol: expected"),
        ("to: x/a", "to: x/aa", "t.yaml:15: probes[0].to: x/aa is no pod of this case; did you mean x/a?"),
        ("to: x/a", "to: a", "t.yaml:15: probes[0].to: a is no pod of this case, and no address; "),
        ("to: x/a", 'to: "fd00::1"', "t.yaml:15: probes[0]: its ends have no family in common"),
        (", ip: 10.0.0.2", "", "t.yaml:4: pods[1]: `ip`: missing"),
        ("10.0.0.2", "10.0.0.256", 't.yaml:4: pods[1]: "10.0.0.256" is not an IP address'),
        ("pods:\n", "pods:\n- {namespace: x, name: a, ip: 10.0.0.9}\n", "t.yaml:4: pods[1]: x/a is there twice"),
        ("10.0.0.2", "10.0.0.1", "t.yaml:4: pods[1]: default/b has the address 10.0.0.1, and so has x/a"),
        ("containerPort", "port", "t.yaml:3: unknown field 'port'; did you mean containerPort?"),
        ("containerPort", "containerport", "t.yaml:3: unknown field 'containerport'; did you mean containerPort?"),
        (
            "- port: 81",
            "- endPort: 81",
            "t.yaml:13: spec.ingress[0].ports[0].endPort: Invalid value: 81: may not be specified when port",
        ),
        ("kind: NetworkPolicy", "kind: Pod", "t.yaml:6: Pod of networking.k8s.io/v1 is no policy that is known here"),
        ("name: small", "kind: Pod\napiVersion: v1", "t.yaml:1: Pod: a manifest, and not a case; "),
    ],
)
def test_a_mistake_is_told_with_its_line_and_what_to_write(old: str, new: str, complaint: str) -> None:
    assert old in SMALL
    (line,) = complaints(SMALL.replace(old, new, 1))
    assert line.startswith(complaint)


def test_all_mistakes_of_a_file_are_told_at_once() -> None:
    text = SMALL.replace("- port: 81", "- endPort: 81").replace("to: x/a", "to: x/z")
    assert len(complaints(f"{text}---\n[]\n")) == 3


MANIFEST = """\
apiVersion: v1
kind: Namespace
metadata: {name: x, labels: {team: a}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {selector: {}, template: {spec: {containers: []}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: real, namespace: x}
spec:
  ingress:
  - ports: [{port: 82}]
"""


def test_policies_and_namespaces_come_from_the_manifests_that_a_case_names() -> None:
    text = SMALL + "manifests: [../policy.yaml]\n"
    (case,) = decode_cases(text.encode(), "t.yaml", lambda path: load_manifests([(path.removeprefix("../"), MANIFEST)]))
    assert [each.metadata.name for each in case.policies] == ["deny", "real"]
    assert {each.metadata.name: each.metadata.labels for each in case.namespaces}["x"] == {"team": "a"}
    rules = [RuleRef(PolicyKey("np", "x", name), "ingress", 0) for name in ("deny", "real")]
    assert [case.place(rule) for rule in rules] == ["t.yaml:12", "policy.yaml:15"]
    assert [case.policy_place(rule.policy) for rule in rules] == ["t.yaml:6", "policy.yaml:10"]


def test_a_broken_manifest_is_told_as_its_own() -> None:
    text = SMALL + "manifests: [p.yaml]\n"
    with pytest.raises(BadManifest, match=r"^p\.yaml:15: spec\.ingress\[0\]\.ports\[0\]\.port"):
        decode_cases(text.encode(), "t.yaml", lambda path: load_manifests([(path, MANIFEST.replace("82", "0"))]))
