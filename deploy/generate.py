"""Renders the chart's templates into manifests for kubectl, and its values' schema: `python -m deploy.generate`, or `make docs`.

The templates keep to the part of Helm's language that is here, so that one source makes both; tests compare the files, and
what the real helm makes of the chart.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml

from percale.agent.config.settings import AgentConfig

HERE = Path(__file__).parent
CHART = HERE / "chart"
NAMESPACE = "percale"


class Manifest(NamedTuple):
    """A file for kubectl: its first line, the templates in the order of applying, and what is not as in values.yaml."""

    title: str
    templates: tuple[str, ...]
    changed: Mapping[str, Any]


MANIFESTS: Mapping[str, Manifest] = {
    "percale.yaml": Manifest(
        "kubectl apply -f deploy/percale.yaml; the image must be on each node before: see deploy/README.md.",
        ("namespace", "rbac", "configmap", "daemonset"),
        {"namespace": True},
    ),
    "cleanup.yaml": Manifest(
        "Puts in the agents' place what removes everything of Percale from each node: see deploy/README.md.",
        ("daemonset",),
        {"cleanup": True},
    ),
    "clusternetworkpolicies.yaml": Manifest(
        "The CRD of ClusterNetworkPolicies: see deploy/README.md.",
        ("clusternetworkpolicies",),
        {"clusterNetworkPolicies": True},
    ),
    "addressblocks.yaml": Manifest(
        "The CRD of AddressBlocks, for IP pools: see deploy/README.md.",
        ("addressblocks",),
        {"addressBlocks": True},
    ),
}
_ACTION = re.compile(r"(\s*)\{\{(-?) (.*?) \}\}")
_FUNCTIONS: Mapping[str, Callable[..., str]] = {
    "toJson": lambda value: json.dumps(value, sort_keys=True, separators=(",", ":")),
    "quote": lambda value: json.dumps(str(value)),
    "toPrettyJson": lambda value: json.dumps(value, sort_keys=True, indent=2),
    "toYaml": lambda value: yaml.safe_dump(value, sort_keys=True).rstrip("\n"),
    "sha256sum": lambda text: hashlib.sha256(text.encode()).hexdigest(),
    "nindent": lambda width, text: "\n" + "\n".join(" " * int(width) + line for line in text.splitlines()),
}


def values() -> dict[str, Any]:
    """The chart's."""
    return dict(yaml.safe_load((CHART / "values.yaml").read_text()))


def render(template: str, context: Mapping[str, Any]) -> str:
    """One template's text. Raises KeyError for what this part of the language does not have."""
    output, position = [], 0
    shown = [True]
    for action in _ACTION.finditer(template):
        text, (space, trim, words) = template[position : action.start()], action.groups()
        if shown[-1]:
            output += [text, "" if trim else space]
        position = action.end()
        keyword, _, condition = words.partition(" ")
        if keyword == "if":
            shown.append(shown[-1] and bool(_look_up(condition, context)))
        elif keyword == "else":
            shown[-1] = shown[-2] and not shown[-1]
        elif keyword == "end":
            shown.pop()
        elif shown[-1]:
            output.append(_evaluate(words, context))
    return "".join([*output, template[position:]]).strip("\n")


def _evaluate(words: str, context: Mapping[str, Any]) -> str:
    """A pipeline: what is before `|` is the last argument of what is behind."""
    result: Any = None
    for number, command in enumerate(words.split(" | ")):
        first, *others = [_look_up(word, context) if word.startswith(".") else word for word in command.split(" ")]
        result = first if command.startswith(".") else _FUNCTIONS[first](*others, *([result] if number else []))
    return str(result)


def _look_up(path: str, context: Mapping[str, Any]) -> Any:
    found: Any = context
    for name in path.removeprefix(".").split("."):
        found = found[name]
    return found


def schema() -> dict[str, Any]:
    """Of the values, by which Helm refuses others: names and kinds as in values.yaml, settings as the agent checks them."""
    free = {"type": "object"}
    found = _schema_of(values())
    settings = msgspec.json.schema(AgentConfig)["$defs"]
    settings["AgentConfig"]["required"] = ["store"]  # each node has a name of its own
    found["properties"] |= dict.fromkeys(("network", "resources", "global"), free)
    found["properties"]["agent"] = {"$ref": "#/$defs/AgentConfig"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found, "$defs": settings}


def _schema_of(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        properties = {name: _schema_of(each) for name, each in value.items()}
        return {"type": "object", "properties": properties, "additionalProperties": False}
    return {"type": "boolean" if isinstance(value, bool) else ["string", "integer"]}  # `--set` makes numbers of digits


def generated() -> dict[str, str]:
    """The files beside the chart, and its schema."""
    found = {"chart/values.schema.json": json.dumps(schema(), indent=2) + "\n"}
    for name, manifest in MANIFESTS.items():
        context = {"Values": {**values(), **manifest.changed}, "Release": {"Namespace": NAMESPACE}}
        objects = (render((CHART / f"templates/{each}.yaml").read_text(), context) for each in manifest.templates)
        text = "\n---\n".join(objects)
        found[name] = f"# {manifest.title}\n# Generated from deploy/chart by `make docs`.\n{text}\n"
    return found


if __name__ == "__main__":
    for file, content in generated().items():
        (HERE / file).write_text(content)
