"""Label selectors of `-l`, in kubectl's grammar."""

from __future__ import annotations

import pytest

from percale.errors import BadInput
from percale.model.selector_text import parse_label_selector

WEB, API, BARE, EMPTY = {"app": "web", "tier": "front"}, {"app": "api"}, {"tier": "front"}, {"app": ""}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", [WEB, API, BARE, EMPTY]),
        ("app=web", [WEB]),
        ("app == web", [WEB]),
        ("app=", [EMPTY]),
        ("app!=web", [API, BARE, EMPTY]),
        ("app != web,app", [API, EMPTY]),
        ("app", [WEB, API, EMPTY]),
        ("!app", [BARE]),
        ("! app , tier", [BARE]),
        ("app in (web,api)", [WEB, API]),
        ("app in ( web , api ),tier=front", [WEB]),
        ("app in(web)", [WEB]),
        ("app in (web,)", [WEB, EMPTY]),
        ("app notin (web,api)", [BARE, EMPTY]),
        ("app=web,tier!=back,!gone", [WEB]),
        ("app=web,app=api", []),
        ("in", []),
        ("in in (in),notin notin (in)", []),
    ],
)
def test_what_is_selected(text: str, selected: list[dict[str, str]]) -> None:
    selector = parse_label_selector(text)
    assert [each for each in (WEB, API, BARE, EMPTY) if selector.matches(each)] == selected


def test_keys_with_a_prefix() -> None:
    selector = parse_label_selector("app.kubernetes.io/name=web,!percale.io/x")
    assert selector.matches({"app.kubernetes.io/name": "web"})
    assert not selector.matches({"app.kubernetes.io/name": "web", "percale.io/x": ""})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        *((text, repr(text)) for text in (" ", ",", "=web", "!", "app in web", "app in (web", "app>1", "app=a b")),
        ("app=web,", "''"),
        ("app=web, tier is front", "' tier is front'"),
        ("app=web)", "'app=web)'"),
        ("!app=web", "'!app=web'"),
        ("app in (web),app nothing (web)", "'app nothing (web)'"),
        ("-app=web", "name part must consist of"),
        ("app=-web", "a valid label must be an empty string or consist of"),
        ("app in (web,-)", "a valid label must be"),
    ],
)
def test_what_is_none(text: str, named: str) -> None:
    with pytest.raises(BadInput) as error:
        parse_label_selector(text)
    assert named in str(error.value)
    assert "app in (web,api)" in str(error.value)
