"""Which label is meant by one that no pod has, and where none is."""

from __future__ import annotations

import pytest

from percale.model.selector import LabelSelector, LabelSelectorRequirement
from percale.policy.lint.labels import label_meant

PODS = (
    {"app": "web", "tier": "frontend", "env": "prod", "team": "team-a", "version": "v1"},
    {"app.kubernetes.io/name": "ledger", "tier": "backend", "role": "db"},
)


@pytest.mark.parametrize(
    ("labels", "meant"),
    [
        ({"app": "wbe"}, "app=web"),
        ({"app": "Web"}, "app=web"),
        ({"app": "web", "tier": "frontends"}, "tier=frontend"),
        ({"teir": "backend"}, "tier=backend"),
        ({"app": "ledger"}, "app.kubernetes.io/name=ledger"),
        ({"app": "ledger", "tier": "backend"}, "app.kubernetes.io/name=ledger"),
        ({"app": "webb", "tier": "backend"}, None),
        ({"app": "api"}, None),
        ({"version": "v2"}, None),
        ({"team": "team-b"}, None),
        ({"stage": "prod"}, None),
        ({"app": "prod"}, None),
        ({"tier": "backend", "role": "dc", "app": "x"}, None),
    ],
)
def test_the_label_that_is_meant(labels: dict[str, str], meant: str | None) -> None:
    assert label_meant(LabelSelector(matchLabels=labels), PODS) == meant


def test_the_values_of_an_expression() -> None:
    wanted = LabelSelectorRequirement(key="app", operator="In", values=("api", "weeb"))
    assert label_meant(LabelSelector(matchExpressions=(wanted,)), PODS) == "app=web"
    none = LabelSelectorRequirement(key="app", operator="NotIn", values=("weeb",))
    assert label_meant(LabelSelector(matchExpressions=(none,)), PODS) is None
