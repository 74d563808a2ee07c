"""What every command answers: its exit codes and its JSON. docs/answers.md is written from here and from the structs themselves.

tests/unit/docs/test_answers.py holds the table against the commands, and the commands against the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
from msgspec import inspect

from percale.agent.status import Status
from percale.cli.bgp.routes import BgpRoutesDocument
from percale.cli.bgp.status import BgpStatusDocument
from percale.cli.checked_host import CheckedHost
from percale.cli.doctor import DoctorDocument
from percale.cli.etcd import EtcdDocument
from percale.cli.findings import FindingsDocument
from percale.cli.ipam.check import IpamCheckDocument
from percale.cli.ipam.show import IpamShowDocument
from percale.cli.lab.probe import ProbeDocument
from percale.cli.lab.watch import WatchedDocument
from percale.cli.plan.name import NamedAddress
from percale.cli.plan.next import NextFree
from percale.cli.policy.test_report import TestsDocument
from percale.cli.trace import TraceDocument
from percale.explain.matrix.document import DiffDocument, MatrixDocument
from percale.explain.services.document import ServiceDocument as ShownService
from percale.explain.services.list import Row
from percale.explain.why.document import ConnectionDocument, ServiceDocument
from percale.lab.api.status import LabStatus, RunningLab
from percale.service.packet_lookup import Answer as Resolved

KUBERNETES = "the object as Kubernetes has it; of several a List"


class Answer(NamedTuple):
    """Codes 0 and 1 in words, and what `-o json` prints: structs, each with its occasion, or words."""

    yes: str = "done"
    no: str | None = None
    json: Mapping[str, Any] | str | None = None
    other: str | None = None
    """Codes that are not as everywhere."""


_PROGRAM = "the program's own; 127: there is no such program"
_IN_TIME = "not in time"

ANSWERS: Mapping[str, Answer] = {
    "agent": Answer("it was stopped"),
    "apply": Answer(),
    "bgp routes": Answer("shown", json={"": BgpRoutesDocument}),
    "bgp status": Answer("all sessions are established", "some are not", {"": BgpStatusDocument}),
    "completion": Answer("shown"),
    "delete": Answer(),
    "doctor": Answer("nothing is wrong", "something is", {"": DoctorDocument}, other="3: warnings, and no error"),
    "etcd init": Answer("written"),
    "etcd reserve": Answer("reserved"),
    "etcd show": Answer("shown", json={"": EtcdDocument}),
    "get": Answer("there", json=KUBERNETES),
    "ipam check": Answer("nothing is wrong", "something is", {"": IpamCheckDocument}),
    "ipam release": Answer("given back"),
    "ipam show": Answer("shown", json={"": IpamShowDocument}),
    "lab add-node": Answer(),
    "lab apply": Answer(),
    "lab break": Answer("done; with `--check` it is mended", "with `--check`: it is not"),
    "lab cut": Answer(),
    "lab delete": Answer(),
    "lab describe": Answer("there"),
    "lab down": Answer(),
    "lab exec": Answer("the program's own", other=_PROGRAM),
    "lab get": Answer("there", json=KUBERNETES),
    "lab heal": Answer(),
    "lab kubeconfig": Answer("there"),
    "lab label": Answer(),
    "lab list": Answer("shown", json={"an array": RunningLab}),
    "lab logs": Answer("shown"),
    "lab migrate": Answer(),
    "lab node": Answer("the program's own", other=_PROGRAM),
    "lab probe": Answer("allowed", "refused, unreachable, timeout", {"": ProbeDocument}),
    "lab remove-node": Answer(),
    "lab restart-agent": Answer(),
    "lab rollout restart": Answer(),
    "lab rollout status": Answer("complete", _IN_TIME),
    "lab scale": Answer(),
    "lab status": Answer("shown", json={"": LabStatus}),
    "lab tcpdump": Answer("tcpdump's own", other=_PROGRAM),
    "lab up": Answer("all nodes and pods are Ready", _IN_TIME + "; the lab runs"),
    "lab wait": Answer("all conditions hold", _IN_TIME),
    "lab watch": Answer("its time is over, or its count reached", json={"a line each": WatchedDocument}),
    "matrix": Answer(
        "shown; with `--diff` no flow flips",
        "with `--diff`: flows flip",
        {"": MatrixDocument, "with `--diff`": DiffDocument},
        other="2: also when `--diff` cannot tell, as of IPv6 blocks where nothing says the pods' network",
    ),
    "migrate": Answer("done; with `--dry-run` planned"),
    "mk-docker-opts": Answer("written"),
    "plan check": Answer(
        "no errors; with `--strict` no warnings", "errors; with `--strict` warnings", {"": FindingsDocument}
    ),
    "plan name": Answer("all are of the plan", "some are not", {"an array": NamedAddress}),
    "plan next": Answer("there is one", "all are in use", {"": NextFree}),
    "plan render": Answer("shown"),
    "policy check": Answer(
        "no errors; with `--strict` no warnings", "errors; with `--strict` warnings", {"": FindingsDocument}
    ),
    "policy test": Answer("every probe is as expected", "some are not", {"": TestsDocument}),
    "preflight": Answer(
        "no errors; with `--strict` no warnings", "errors; with `--strict` warnings", {"": CheckedHost}
    ),
    "service check": Answer("no errors", "errors", {"": FindingsDocument}),
    "service list": Answer("shown", json={"an array": Row}),
    "service resolve": Answer(
        "shown", json={"": Resolved}, other="2: also when a line of `--batch` cannot be answered"
    ),
    "service show": Answer("shown", json={"": ShownService}),
    "status": Answer("shown", json={"": Status}),
    "support": Answer("written"),
    "trace": Answer("answered", "refused, unreachable, dropped, lost", {"": TraceDocument}),
    "why": Answer(
        "allowed",
        "denied",
        {"TO is a pod, a node or an address": ConnectionDocument, "TO is a Service": ServiceDocument},
        other="2: also when nobody can tell, and when some endpoints of a Service are allowed",
    ),
}
"""By the command's path below `percale`."""

_HEAD = """\
# Exit codes and JSON

Written by docs/generate.py from docs/answers.py and from the structs that `-o json` prints (`make docs`).

One rule for every command:

| code | |
|---|---|
| 0 | done, or the answer is yes |
| 1 | the answer is no: denied, not answered, errors found, not in time |
| 2 | an error, so there is no answer: wrong usage, a name or lab that is not there, bad manifests, a change that was refused |
| 130 | interrupted |
| 141 | nobody reads the output any more, as behind `| head` |

An error is a line on stderr, `percale: WHERE: WHAT; HINT`, or a line for each fault of a manifest.
With `-o json` stdout has it too, as one object:

```
{"errors": [{"what": string, "where": string | null, "hint": string | null}, …]}
```

With `-o json` stdout has nothing but JSON; notes and warnings are on stderr.
A field with `?` is left out where it has no meaning. Fields may be added, and keep their meaning.
"""


def text() -> str:
    """The whole page."""
    return "\n".join([_HEAD, "## Codes 0 and 1\n", *_codes(), "\n## JSON\n", *_documents()]) + "\n"


def documents(path: str, value: Any) -> list[type[msgspec.Struct]]:
    """The structs of a command that this JSON value is, without a field too many or too few."""
    shapes = ANSWERS[path].json
    assert isinstance(shapes, Mapping), path
    found = []
    for occasion, struct in shapes.items():
        for each in value if occasion == "an array" else [value]:
            with suppress(msgspec.ValidationError):
                if json.loads(msgspec.json.encode(msgspec.convert(each, struct))) == each:
                    found.append(struct)
    return found


def _codes() -> Iterator[str]:
    yield "| command | 0 | 1 | else |"
    yield "|---|---|---|---|"
    for path, answer in ANSWERS.items():
        yield f"| `percale {path}` | {answer.yes} | {answer.no or ''} | {answer.other or ''} |"


def _documents() -> Iterator[str]:
    for path, answer in ANSWERS.items():
        if isinstance(answer.json, str):
            yield f"### percale {path}\n\n{answer.json[0].upper()}{answer.json[1:]}.\n"
        elif answer.json is not None:
            yield f"### percale {path}\n"
            for occasion, document in answer.json.items():
                if occasion:
                    yield f"{occasion[0].upper()}{occasion[1:]}:\n"
                yield f"```\n{_shape(inspect.type_info(document))}\n```\n"


def _shape(kind: inspect.Type, indent: str = "") -> str:
    """A type as it looks in JSON."""
    match kind:
        case inspect.StructType(cls=struct, fields=fields):
            tag = [f'{indent}  "{kind.tag_field}": "{kind.tag}"'] if kind.tag_field is not None else []
            lines = tag + [
                f'{indent}  "{each.encode_name}"{_mark(each, struct)}: {_shape(each.type, indent + "  ")}'
                for each in fields
            ]
            return "\n".join(["{", *lines, f"{indent}}}"])
        case inspect.UnionType(types=types):
            return " | ".join(_shape(each, indent) for each in types if not _is_unset(each))
        case inspect.LiteralType(values=values):
            return " | ".join(f'"{each}"' for each in values)
        case inspect.VarTupleType(item_type=item) | inspect.CollectionType(item_type=item):
            return f"[{_shape(item, indent)}, …]"
        case inspect.DictType(key_type=key, value_type=value):
            return f"{{{_shape(key, indent)}: {_shape(value, indent)}, …}}"
        case _:
            return _SCALARS[type(kind)]


_SCALARS: Mapping[type[inspect.Type], str] = {
    inspect.StrType: "string",
    inspect.IntType: "number",
    inspect.FloatType: "number",
    inspect.BoolType: "true | false",
    inspect.NoneType: "null",
}


def _is_unset(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.CustomType) and kind.cls is msgspec.UnsetType


def _mark(field: inspect.Field, struct: type[msgspec.Struct]) -> str:
    """`?` behind a field that is left out at times."""
    omitted = struct.__struct_config__.omit_defaults and field.default is not msgspec.NODEFAULT
    return "?" if omitted or field.default is msgspec.UNSET else ""
