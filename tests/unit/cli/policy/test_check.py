"""`percale policy check`: what it prints, and how it exits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.cli.conftest import run as run_command

ROOT = Path(__file__).parents[4]
BROKEN = "examples/broken"
POLICY = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n"
RANGE = POLICY + "  ingress:\n  - ports:\n    - port: 80\n      endPort: 80\n"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    return run_command(capsys, "policy", "check", *arguments)


def test_what_users_pasted(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert run(capsys, BROKEN) == (
        1,
        [
            f'{BROKEN}/pasted-broken-egress.yaml:11: a list item begins with "\\-" (left over from Markdown); write `- to:`',
            f'{BROKEN}/pasted-broken-ingress.yaml:10: no colon after "policyTypes"; write `policyTypes: ["Ingress"]`',
            f"{BROKEN}/pasted-broken-policytype.yaml:9: spec.policyTypes[0]: Unsupported value: "
            '"Ingress默认拒绝 而没写Egres，则Egres默认都放行": supported values: "Egress", "Ingress"; '
            'write Ingress; if the rest is a comment, put " #" before it',
            "3 errors; warnings come when there are none",
        ],
    )


def test_errors_of_all_files(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "a.yaml").write_text(RANGE.replace("endPort: 80", "endPort: 79") + "  policyTypes: [ingress]\n")
    (here / "b.yaml").write_text(RANGE.replace("port: 80", "port: 0", 1))
    code, lines = run(capsys, "a.yaml", "b.yaml")
    assert code == 1
    assert lines == [
        "a.yaml:8: spec.ingress[0].ports[0].endPort: Invalid value: 79: must be greater than or equal to port",
        'a.yaml:9: spec.policyTypes[0]: Unsupported value: "ingress": supported values: "Egress", "Ingress"; write Ingress',
        "b.yaml:7: spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        "3 errors; warnings come when there are none",
    ]


def test_warnings_and_strict(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "a.yaml").write_text(RANGE)
    expected = [
        "a.yaml:8: warning: np:default/p#ingress[0].ports[0]: endPort is 80, as port is: this range is one port "
        "(remove endPort, or write the last port of the range)",
        "1 policy: 0 errors, 1 warning",
    ]
    assert run(capsys, "a.yaml") == (0, expected)
    assert run(capsys, "--strict", ".") == (1, expected)


def test_the_pod_network_from_the_command_line_or_a_lab(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "a.yaml").write_text(POLICY + "  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]\n")
    assert run(capsys, "a.yaml") == (0, ["1 policy: 0 errors, 0 warnings"])
    for cidrs in (["10.1.0.0/16"], ["fd00::/48,10.1.0.0/16"], ["fd00::/48", "--pod-cidr", "10.1.0.0/16"]):
        assert "holds the pod network 10.1.0.0/16: " in run(capsys, "a.yaml", "--pod-cidr", *cidrs)[1][0]
    (here / "lab.yaml").write_text(
        "apiVersion: percale.io/v1alpha1\nkind: Lab\nmetadata: {name: l}\nspec: {network: {Network: 10.2.0.0/16}}\n"
    )
    assert "holds the pod network 10.2.0.0/16: " in run(capsys, ".")[1][0]
    assert run(capsys, "a.yaml", "--pod-cidr", "10.1.0.0")[0] == 2


def test_json(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "a.yaml").write_text(RANGE)
    code, lines = run(capsys, "a.yaml", "-o", "json")
    assert code == 0
    document = json.loads("\n".join(lines))
    assert (document["error"], document["warning"], document["info"]) == (0, 1, 0)
    (finding,) = document["findings"]
    assert finding == {
        "file": "a.yaml",
        "line": 8,
        "severity": "warning",
        "code": "end-port-equals-port",
        "subject": "np:default/p#ingress[0].ports[0]",
        "message": "endPort is 80, as port is: this range is one port",
        "hint": "remove endPort, or write the last port of the range",
    }
    (here / "a.yaml").write_text(RANGE.replace("endPort: 80", "endPort: 79"))
    code, lines = run(capsys, "a.yaml", "-o", "json")
    assert code == 1
    (finding,) = json.loads("\n".join(lines))["findings"]
    assert (finding["line"], finding["severity"], finding["code"], finding["subject"]) == (8, "error", "invalid", None)


def test_unknown_fields(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "a.yaml").write_text(
        POLICY + "  egres: [{}]\n  ingress:\n  - from:\n    - podSelector: {matchLabel: {a: b}}\n"
    )
    assert run(capsys, "a.yaml") == (
        1,
        [
            "a.yaml:5: spec.egres: unknown field; did you mean egress?",
            "a.yaml:8: spec.ingress[0].from[0].podSelector.matchLabel: unknown field; did you mean matchLabels?",
            "2 errors; warnings come when there are none",
        ],
    )
    code, lines = run(capsys, "a.yaml", "--validate", "warn")
    assert code == 0
    assert lines[:2] == [
        "a.yaml:5: warning: spec.egres: unknown field (did you mean egress?)",
        "a.yaml:8: warning: spec.ingress[0].from[0].podSelector.matchLabel: unknown field (did you mean matchLabels?)",
    ]
    assert run(capsys, "a.yaml", "--validate", "warn", "--strict")[0] == 1
    assert not any("unknown" in line for line in run(capsys, "a.yaml", "--validate", "ignore")[1])


def test_an_object_that_two_files_have(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (here / name).write_text(RANGE)
    assert run(capsys, ".") == (
        1,
        [
            "b.yaml:1: NetworkPolicy default/p is in a.yaml:1 too; keep one",
            "1 error; warnings come when there are none",
        ],
    )


def test_examples_have_no_errors(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for path in ("examples/policies", "examples/defaults.yaml", "examples/access-nginx.yaml"):
        assert run(capsys, path)[0] == 0


def test_the_help_of_the_group_imports_no_command() -> None:
    probe = (
        "import sys; from percale.cli.main import percale\n"
        "percale.main(['policy', '--help'], standalone_mode=False)\n"
        "print([name for name in sys.modules if name.startswith(('percale.model', 'percale.policy'))])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_empty_list_of_peers(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "a.yaml").write_text(POLICY + "  ingress:\n  - from: []\n  - {}\n")
    assert (
        "a.yaml:6: warning: np:default/p#ingress[0].from: an empty list of peers allows everybody"
        " (write `ingress: []` to allow nobody, or leave from out if everybody is meant)"
    ) in run(capsys, "a.yaml")[1]


def test_the_name_of_a_namespace_is_a_label_of_its_own(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "a.yaml").write_text(
        POLICY + "  ingress:\n  - from:\n    - namespaceSelector: {matchLabels: {name: shop}}\n"
        "---\n{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n"
    )
    (line, *_) = run(capsys, "a.yaml")[1]
    assert line.endswith(
        "(a namespace's name is its label kubernetes.io/metadata.name: write `kubernetes.io/metadata.name: shop`)"
    )


def test_a_template_that_is_not_rendered(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "a.yaml").write_text(POLICY.replace("{name: p}", "{name: {{ .Release.Name }}}") + "  podSelector: {}\n")
    assert run(capsys, "a.yaml")[1][0] == (
        "a.yaml:3: a template that is not rendered; give the output of `helm template`"
    )


def test_a_selector_that_does_not_match_its_template(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    (here / "a.yaml").write_text(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec:\n  selector: {matchLabels: {app: a}}\n"
        "  template:\n    metadata: {labels: {app: b}}\n    spec: {containers: [{name: a}]}\n"
    )
    assert run(capsys, "a.yaml") == (
        1,
        [
            'a.yaml:7: spec.template.metadata.labels: Invalid value: {"app": "b"}: `selector` does not match template `labels`',
            "1 error; warnings come when there are none",
        ],
    )


def test_a_byte_order_mark_is_none_of_the_text(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}}
    text = json.dumps({**policy, "spec": {"podSelector": {}, "ingress": [{"from": []}]}})
    (here / "a.json").write_text(text, encoding="utf-8-sig")
    code, lines = run(capsys, "a.json")
    assert (code, lines[1:]) == (0, ["1 policy: 0 errors, 1 warning"])
    assert lines[0].startswith(
        "a.json:1: warning: np:default/p#ingress[0].from: an empty list of peers allows everybody"
    )
