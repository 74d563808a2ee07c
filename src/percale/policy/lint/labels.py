"""A label that no pod has, and the one that may be meant: `app: wbe` where pods have `app: web`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from percale.model.selector import LabelSelector
from percale.suggestion import is_one_edit, nearest

_SIMILAR = 0.8
"""From which two words may be the same, misspelt."""
_NAMES_OF_APPS = frozenset(("app", "k8s-app", "name", "app.kubernetes.io/name"))
"""Keys that people take for each other."""


def label_meant(selector: LabelSelector, pods: Sequence[Mapping[str, str]]) -> str | None:
    """`app=web`, if a pod has all that the selector asks for but a label that is nearly the one that it asks for."""
    for key, value, others in _asked(selector):
        for labels in pods:
            if others.matches(labels):
                for there in labels.items():
                    if _resembles((key, value), there):
                        return "=".join(there)
    return None


def _asked(selector: LabelSelector) -> Iterator[tuple[str, str, LabelSelector]]:
    """Each label, with what the selector asks for besides."""
    for key, value in selector.matchLabels.items():
        yield key, value, replace(selector, matchLabels=_without(selector.matchLabels.items(), key))
    for each in selector.matchExpressions:
        others = replace(
            selector, matchExpressions=tuple(other for other in selector.matchExpressions if other is not each)
        )
        for value in each.values if each.operator == "In" else ():
            yield each.key, value, others


def _without(labels: Iterable[tuple[str, str]], key: str) -> dict[str, str]:
    return {other: value for other, value in labels if other != key}


def _resembles(asked: tuple[str, str], there: tuple[str, str]) -> bool:
    (key, value), (known_key, known_value) = asked, there
    if key == known_key:
        return _is_misspelt(value, known_value)
    return value == known_value and (_is_misspelt(key, known_key) or {key, known_key} <= _NAMES_OF_APPS)


def _is_misspelt(word: str, known: str) -> bool:
    """`wbe` for `web`, `Frontend` for `frontend`; `team-a` and `team-b`, `v1` and `v2` are two."""
    different = set(word.split("-")) ^ set(known.split("-"))
    if any(len(part) < 2 or part[-1].isdigit() for part in different):
        return False
    return is_one_edit(word, known) or nearest(word, [known], cutoff=_SIMILAR) is not None
