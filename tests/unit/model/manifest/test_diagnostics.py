"""What is wrong with a manifest, where, and what to type: one line, for each way in which people get it wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from percale.errors import BadManifest
from percale.model.manifest.decode import decode_manifest

EXAMPLES = Path(__file__).parents[4] / "examples" / "broken"


def complaint(text: str | bytes, file: str = "f.yaml") -> str:
    with pytest.raises(BadManifest) as caught:
        decode_manifest(text if isinstance(text, bytes) else text.encode(), file)
    return str(caught.value)


POD = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n"
POLICY = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: p\nspec:\n"
SERVICE = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec:\n"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("egress", '11: a list item begins with "\\-" (left over from Markdown); write `- to:`'),
        ("ingress", '10: no colon after "policyTypes"; write `policyTypes: ["Ingress"]`'),
        (
            "policytype",
            '9: spec.policyTypes[0]: Unsupported value: "Ingress默认拒绝 而没写Egres，则Egres默认都放行": '
            'supported values: "Egress", "Ingress"; write Ingress; if the rest is a comment, put " #" before it',
        ),
    ],
)
def test_the_broken_examples(file: str, said: str) -> None:
    path = EXAMPLES / f"pasted-broken-{file}.yaml"
    assert complaint(path.read_bytes(), str(path)) == f"{path}:{said}"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("  ingress:\n  --  from: []\n", '7: a list item begins with "--"; write `- from: []`'),
        ("  ingress:\n  - from:\n    -- podSelector: {}\n", '8: a list item begins with "--"; write `- podSelector: {}`'),
        ("  egress:\n  \\* to: []\n", '7: a list item begins with "\\*" (left over from Markdown); write `- to: []`'),
        ("  egress:\n  – to: []\n", '7: a list item begins with "–"; write `- to: []`'),
        ("  policyTypes:\n  -- Ingress\n", '7: a list item begins with "--"; write `- Ingress`'),
        ("  policyTypes\n  - Ingress\n", '6: spec: no colon after "policyTypes"; write `policyTypes:`'),
        ("  podSelector {}\n  ingress: []\n", '6: no colon after "podSelector"; write `podSelector: {}`'),
        ("  policyTypes：[Ingress]\n", "6: spec: a wide colon (：); write `policyTypes: [Ingress]`"),
        ("  podSelector: {}\n\tingress: []\n", "7: a tab in the indentation; indent with spaces"),
        ("\u00a0 podSelector: {}\n", "6: the line begins with a space that is not an ordinary one; indent with ordinary spaces"),
        ("  policyTypes: “Ingress”\n", '6: spec.policyTypes: typographic quotes; write `"Ingress"`'),
        ("  podSelector:\n    matchLabels:\n      app:web\n",
         '8: spec.podSelector.matchLabels: no space after "app:"; write `app: web`'),
        ("  policyTypes:\n    -- Ingress\n", '7: spec.policyTypes: a list item begins with "--"; write `- Ingress`'),
        ("  policyTypes: [Ingress\n", "6: not valid YAML: did not find expected ',' or ']'"),
    ],
)  # fmt: skip
def test_pasted_faults(spec: str, said: str) -> None:
    assert complaint(POLICY + spec) == f"f.yaml:{said}"


def test_the_first_fault_counts_and_block_texts_do_not() -> None:
    script = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  run: |\n    -- from\n    policyTypes [x]\n---\n"
    )
    assert complaint(script + POLICY + "  egress:\n  -- to: []\n  ingress:\n  \\- from: []\n").startswith("f.yaml:15: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (POD + "  labels:\n    a: b\n    access: true\nspec: {containers: []}\n",
         '7: metadata.labels.access: expected a text, got true; write "true" in quotes'),
        (POD + "  annotations: {a.b/c: 0x10}\nspec: {containers: []}\n",
         '5: metadata.annotations["a.b/c"]: expected a text, got 0x10; write "0x10" in quotes'),
        (POD + "spec:\n  nodeSelector:\n    zone: yes\n  containers: []\n",
         '7: spec.nodeSelector.zone: expected a text, got yes; write "yes" in quotes'),
        (POD.replace("name: a", "name: 123") + "spec: {containers: []}\n",
         '4: metadata.name: expected a text, got 123; write "123" in quotes'),
        (POD + "spec:\n  containers:\n  - name: c\n    ports:\n    - containerPort: \"80\"\n",
         '9: spec.containers[0].ports[0].containerPort: expected a whole number, got "80"; write 80 without quotes'),
        (POD + "spec:\n  containers:\n  - name: c\n    ports:\n    - containerPort: 0\n",
         "9: spec.containers[0].ports[0].containerPort: expected a whole number >= 1, got 0"),
        (POD + "spec:\n  containers:\n    name: c\n",
         '6: spec.containers: expected a list, got a mapping; begin each item with "- "'),
        (POD + "spec:\n  - containers: []\n", '5: spec: expected a mapping, got a list; remove the "- "'),
        (POD + "spec:\n  hostNetwork: \"true\"\n  containers: []\n",
         '6: spec.hostNetwork: expected true or false, got "true"; write true without quotes'),
        (POD, "1: spec: missing"),
        (POD + "spec:\n  containers:\n  - image: x\n", "7: spec.containers[0].name: missing"),
        (POD + "spec: {containers: []}\nstatus: {podIP: 10.1.2}\n", '6: status: "10.1.2" is not an IP address'),
        (POLICY + "  policyTypes: Ingress\n", '6: spec.policyTypes: expected a list, got "Ingress"; write [Ingress]'),
        (POLICY + "  ingress:\n  -\n", "7: spec.ingress[0]: expected a mapping, got nothing; write {} if it is empty on purpose"),
        (SERVICE + "  ports:\n  - port: 80\n    protocol: tcp\n",
         '8: spec.ports[0].protocol: expected SCTP, TCP or UDP, got "tcp"; write TCP'),
        ("kind: Pod\n", "1: apiVersion: missing; write `apiVersion: v1`"),
        ("kind: NetworkPolicy\n", "1: apiVersion: missing; write `apiVersion: networking.k8s.io/v1`"),
        ("kind: Pdo\n", "1: apiVersion: missing; for example `apiVersion: v1`"),
        ("apiVersion: v1\nkind: [Pod]\n", "2: kind: expected a text; for example `kind: Pod`"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {}\nspec: {containers: []}\n",
         "1: metadata.name: missing; give the object a name"),
        (POD.replace("name: a", 'name: "a\\x1b[2J"') + "spec: {containers: []}\n",
         "1: metadata.name: has characters that cannot be printed: 'a\\x1b[2J'; use small letters, digits, '-' and '.'"),
        (POD + '  namespace: "a\\nb"\nspec: {containers: []}\n',
         "1: metadata.namespace: has characters that cannot be printed: 'a\\nb'; use small letters, digits, '-' and '.'"),
        ("just a text\n", "1: not an object; a manifest begins with apiVersion, kind and metadata"),
        ("apiVersion: v1\nkind: List\nitems: {}\n", "3: items: expected a list"),
        ("apiVersion: v1\nkind: List\nitems:\n- 1\n", "4: items[0]: not an object"),
        (POD + "spec: {containers: []}\n---\n" + POD + "spec: {containers: []}\n",
         "7: Pod default/a is in this file twice (first on line 1); remove one of them"),
        (POD + "  name: b\n", '5: "name" is there twice (first on line 4); remove one of them'),
        ("apiVersion: percale.io/v1alpha1\nkind: SubnetLease\nmetadata: {name: a}\nspec: {node: n, subnet: 10.1.2.3/24}\n",
         "4: spec.subnet: 10.1.2.3/24 has host bits set"),
    ],
)  # fmt: skip
def test_values(text: str, said: str) -> None:
    assert complaint(text) == f"f.yaml:{said}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{\n "kind": "Pod",\n}', '3: not valid JSON: expected a key in quotes, found "}"; remove the comma before it'),
        ('{\n "kind" "Pod"\n}', '2: no colon after "kind"; write `"kind": …`'),
        ('{\n "kind": "Pod"\n "a": 1}', '3: not valid JSON: expected "," or "}", found """; add it after line 2'),
        ('{"kind": Pod}', '1: not valid JSON: expected a value, found "P"'),
        ('{"kind": "Pod"', '1: not valid JSON: expected "," or "}", found the end of the file; add it after line 1'),
        ('{"kind": "Po\n', "1: not valid JSON: invalid control character"),
        ('{"a": 1,\n"a": 2}', '2: "a" is there twice (first on line 1); remove one of them'),
        ("{} {}", '1: there is more after the document; put several objects into a "kind": "List"'),
        ("[" * 100_000, "1: nested too deep"),
        ("[]", "1: not an object; a manifest begins with apiVersion, kind and metadata"),
    ],
)
def test_json(text: str, said: str) -> None:
    assert complaint(text, "f.json") == f"f.json:{said}"


def test_a_wrong_value_in_a_long_json_list() -> None:
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p{number}"}, "spec": {"containers": []}}
        for number in range(3)
    ]
    pods[2]["spec"] = {"containers": [{"name": 5}]}
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}, indent=1)
    line = text[: text.index(": 5")].count("\n") + 1
    assert complaint(text, "f.json") == (
        f'f.json:{line}: spec.containers[0].name: expected a text, got 5; write "5" in quotes'
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"kind: Pod\nname: \xff\n", "2: not UTF-8 text; save the file as UTF-8"),
        (b"kind: Pod\nname: a\x00b\n", "2: not valid YAML: control characters are not allowed"),
        (b"kind: !!python/object:os.system x\n",
         "1: the tag tag:yaml.org,2002:python/object:os.system is not allowed; leave it out"),
        (b"kind: *nobody\n", '1: no value is named &nobody; quote "*nobody" if it is a text'),
        (b"a: &a\n  b: *a\n", '2: no value is named &a; quote "*a" if it is a text'),
        (b"? [a]\n: b\n", "1: a key is a list or a mapping; write a word before the colon"),
        (b"[" * 100_000, "1: nested too deep"),
    ],
)  # fmt: skip
def test_hostile_yaml(text: bytes, said: str) -> None:
    assert complaint(text) == f"f.yaml:{said}"


def test_aliases_of_aliases_do_not_fill_the_memory() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 12)]
    assert complaint("\n".join(levels)) == "f.yaml:1: its aliases make it too large; write the values out"
