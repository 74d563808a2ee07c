"""Label selectors as people write them after `-l`, in kubectl's grammar. Called by `objects/selection.py`; pure.

    app=web  app==web  app!=web  app in (web,api)  app notin (web)  app  !app      with commas between them: all must hold

Source: k8s.io/apimachinery/pkg/labels, Parse.
"""

from __future__ import annotations

import re

from percale.errors import BadInput
from percale.model.selector import LabelSelector, LabelSelectorRequirement
from percale.model.validation.shared import check_labels

_KEY = r"[^\s,()=!<>]+"
_REQUIREMENT = re.compile(
    rf"""\s* (?: !\s*(?P<absent>{_KEY})
        | (?P<key>{_KEY}) \s* (?: (?P<sign>==?|!=) \s* (?P<value>[^\s,()=!<>]*)
                                | (?P<word>in|notin) \s* \( (?P<values>[^()=!<>]*) \) )?
    ) \s* (?P<end>,|$)""",
    re.VERBOSE,
)
_HINT = "write app=web, app!=web, app in (web,api), app notin (web), app or !app, with commas between them"


def parse_label_selector(text: str) -> LabelSelector:
    """What it means; nothing selects everything. Raises BadInput."""
    requirements: list[LabelSelectorRequirement] = []
    place, more = 0, bool(text)
    while more:
        found = _REQUIREMENT.match(text, place)
        if found is None:
            raise BadInput(f"-l: {text[place:]!r} is no label selector", hint=_HINT)
        requirements.append(_checked(_requirement(found)))
        place, more = found.end(), found["end"] == ","
    return LabelSelector(matchExpressions=tuple(requirements))


def _requirement(found: re.Match[str]) -> LabelSelectorRequirement:
    if found["absent"] is not None:
        return LabelSelectorRequirement(key=found["absent"], operator="DoesNotExist")
    match found["sign"] or found["word"]:
        case "=" | "==" | "in":
            return LabelSelectorRequirement(key=found["key"], operator="In", values=_values(found))
        case "!=" | "notin":
            return LabelSelectorRequirement(key=found["key"], operator="NotIn", values=_values(found))
        case _:
            return LabelSelectorRequirement(key=found["key"], operator="Exists")


def _values(found: re.Match[str]) -> tuple[str, ...]:
    if found["values"] is None:
        return (found["value"],)
    return tuple(each.strip() for each in found["values"].split(","))


def _checked(requirement: LabelSelectorRequirement) -> LabelSelectorRequirement:
    """Raises BadInput for a key or value that no label has."""
    for value in requirement.values or ("",):
        for error in check_labels({requirement.key: value}, ()):
            raise BadInput(f"-l: {error.value!r}: {error.detail}", hint=_HINT)
    return requirement
