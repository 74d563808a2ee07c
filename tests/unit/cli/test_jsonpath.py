"""kubectl's JSONPath templates, against what kubectl prints."""

from __future__ import annotations

from typing import Any

import pytest

from percale.cli.jsonpath import BadJsonPath, parse, render

PODS: dict[str, Any] = {
    "kind": "List",
    "items": [
        {"metadata": {"name": "a", "labels": {"app": "x", "k8s.io/y": "z"}}, "status": {"phase": "Running", "n": 1}},
        {"metadata": {"name": "b"}, "status": {"phase": "Pending", "n": 2, "ready": False}},
    ],
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{.kind}", "List"),
        ("{$.kind}", "List"),
        ("{kind}", "List"),
        ("kind: {.kind}!", "kind: List!"),
        (".kind", ".kind"),
        ("{.items[*].metadata.name}", "a b"),
        ("{.items[0].metadata.name} {.items[-1].metadata.name}", "a b"),
        ("{.items[0:1].status.n}", "1"),
        ("{.items[::2].status.n}", "1"),
        ("{.items[1,0].status.n}", "2 1"),
        ("{.items[0]['metadata'].labels['k8s.io/y']}", "z"),
        (r"{.items[0].metadata.labels.k8s\.io/y}", "z"),
        ("{.items[0].metadata['name','labels']}", 'a {"app":"x","k8s.io/y":"z"}'),
        ("{..name}", "a b"),
        ("{..status.*}", "Running 1 Pending 2 false"),
        ("{.items[0].metadata.labels}", '{"app":"x","k8s.io/y":"z"}'),
        ("{.items[1].status.ready}", "false"),
        ('{.items[?(@.status.phase=="Running")].metadata.name}', "a"),
        ("{.items[?(@.status.phase!='Running')].metadata.name}", "b"),
        ("{.items[?(@.status.n >= 2)].metadata.name}", "b"),
        ("{.items[?(@.status.n<2)].metadata.name}", "a"),
        ('{.items[?(@.status.n<"2")].metadata.name}', ""),
        ("{.items[?(@.metadata.labels)].metadata.name}", "a"),
        ("{.items[?(@.status.ready==false)].metadata.name}", "b"),
        ('{range .items[*]}{.metadata.name}{"\\t"}{.status.phase}{"\\n"}{end}', "a\tRunning\nb\tPending\n"),
        ("{range .items[*]}[{.metadata.name}, {.status.n}] {end}", "[a, 1] [b, 2] "),
        ("{range .items[*]}{range .metadata.labels.*}{@};{end}{end}", "x;z;"),
        ("{.nothing.there[0]}", ""),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert render(parse(template), PODS) == text


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{.items", "character 8: '}' is missing"),
        ("{.items[*]", "'}' is missing"),
        ("{.items[}", "brackets take an index"),
        ("{.items[?(@.a==)]}", "is not a path"),
        ("{.items[0:2:0]}", "a slice's step is more than 0"),
        ("{range .items[*]}", "a {range} without {end}"),
        ("{end}", "an {end} without {range}"),
        ('{"a', "a quoted text does not end"),
        ("{..}", "a field's name is missing"),
        ("{!}", "'!}' is not a path"),
        ("{range .a[*]}" * 2000, "more than 50 ranges or filters in each other"),
        ("{.a" + "[?(@.a" * 2000, "more than 50 ranges or filters in each other"),
    ],
)
def test_what_is_no_template(template: str, complaint: str) -> None:
    with pytest.raises(BadJsonPath, match=r"^jsonpath") as caught:
        parse(template)
    assert complaint in str(caught.value)


def test_an_index_beyond_the_end_is_an_error_as_in_kubectl() -> None:
    with pytest.raises(BadJsonPath, match="array index out of bounds: index 2, length 2"):
        render(parse("{.items[2]}"), PODS)
