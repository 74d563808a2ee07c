"""`percale lab wait` and `rollout`: until objects are as they should be, with kubectl's words."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import Any, NamedTuple

import click

from percale.cli.lab.requests import ask_lab, get_objects, print_changed
from percale.cli.object_names import Choice, choice_options, wanted_objects
from percale.cli.options import lab_option, namespace_option
from percale.errors import LabError, NotFound, NotInTime

_PATIENCE = 20.0
"""Seconds until the lab answers although nothing has changed."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"(\d+(?:\.\d+)?)(ms|s|m|h)"

Plain = dict[str, Any]
"""An object as JSON has it."""
Key = tuple[str, str]
"""Kind and name as `pod/web`, and the uid: another object of the same name is not the same."""


class Duration(click.ParamType[float]):
    """Seconds, or as Go writes it: 90, 90s, 1m30s, 500ms. Less than 0 is for ever."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> float:
        text = str(value)
        if re.fullmatch(rf"(?:{_PART})+", text):
            return sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, text))
        try:
            seconds = float(text.removesuffix("s"))
        except ValueError:
            self.fail(f"{text!r} is not a time, such as 30s or 1m30s", param, context)
        return seconds if seconds >= 0 else inf


class _Condition(NamedTuple):
    """What `--for` says: `holds` of an object, or that it is deleted."""

    holds: Callable[[Plain], bool]
    words: str = "condition met"
    deleted: bool = False


class _Rollout(NamedTuple):
    """A kind's words, and where its status counts updated, existing and available pods."""

    kind: str
    pods: str
    counts: tuple[str, str, str]


_ROLLOUTS = {
    "Deployment": _Rollout("deployment", "replicas", ("updatedReplicas", "replicas", "availableReplicas")),
    "DaemonSet": _Rollout(
        "daemon set", "pods", ("updatedNumberScheduled", "currentNumberScheduled", "numberAvailable")
    ),
}


@click.command(short_help="Wait until objects are as they should be.")
@click.argument("what", nargs=-1, required=True, metavar="KIND NAME… | KIND/NAME… | KIND")
@click.option(
    "--for",
    "wanted_state",
    required=True,
    metavar="STATE",
    help="condition=TYPE[=STATUS], delete, create, or jsonpath=TEMPLATE[=VALUE].",
)
@choice_options
@click.option("--timeout", type=Duration(), default="30s", show_default=True, help="As 30s or 1m30s; 0 looks once.")
@lab_option
def wait(what: tuple[str, ...], wanted_state: str, choice: Choice, timeout: float, lab: str) -> int:
    """Wait until all these objects are in a state; exit code 0 when they are, 1 when the time is over.

    \b
    percale lab wait --for=condition=Ready pod --all
    percale lab wait --for=condition=Available deployment/web --timeout=1m
    percale lab wait --for=jsonpath='{.status.readyReplicas}'=2 deploy/web
    percale lab wait --for=delete pod/web-0
    """
    chosen = choice.of(what)
    condition = _condition(wanted_state)

    def ask(after: int | None, patience: float) -> Plain:
        return get_objects(lab, after=after, patience=min(patience, _PATIENCE), **chosen)

    deadline = time.monotonic() + timeout
    answer = ask(None, 0)
    while wanted_state == "create" and answer["missing"] and (left := deadline - time.monotonic()) > 0:
        answer = ask(answer["revision"], left)
    if answer["missing"] and wanted_state == "create":
        raise NotInTime("; ".join(answer["missing"]))
    if answer["missing"] and not condition.deleted:
        raise NotFound("; ".join(answer["missing"]))
    pending = dict(_objects(answer))
    if not pending and not answer["missing"]:
        raise NotFound("no matching resources found", hint=answer["nothing"])
    while True:
        there = dict(_objects(answer))
        for key in [key for key in pending if _is_met(condition, there.get(key), key)]:
            del pending[key]
            click.echo(f"{key[0]} {condition.words}")
        if not pending:
            return 0
        if (left := deadline - time.monotonic()) <= 0:
            raise NotInTime(f"timed out waiting for the condition on {', '.join(name for name, _ in pending)}")
        answer = ask(answer["revision"], left)


def _objects(answer: Plain) -> Iterator[tuple[Key, Plain]]:
    for section in answer["sections"]:
        for name, obj in zip(section["names"], section["objects"], strict=True):
            yield (name, obj["metadata"].get("uid", "")), obj


def _is_met(condition: _Condition, obj: Plain | None, key: Key) -> bool:
    if condition.deleted:
        return obj is None
    if obj is None:
        raise NotFound(f"{key[0]} was deleted meanwhile")
    return condition.holds(obj)


def _condition(text: str) -> _Condition:
    """Raises BadJsonPath."""
    from percale.cli import jsonpath

    match text.partition("="):
        case ("delete", "", _):
            return _Condition(lambda _: False, "condition met", deleted=True)
        case ("create", "", _):
            return _Condition(lambda _: True)
        case ("condition", "=", rest) if rest:
            kind, _, status = rest.partition("=")
            return _Condition(lambda obj: _has_condition(obj, kind, status or "True"))
        case ("jsonpath", "=", rest) if rest:
            template, _, value = _split_template(rest)
            nodes = jsonpath.parse(template if "{" in template else f"{{{template}}}")
            return _Condition(lambda obj: _has_value(list(map(jsonpath.to_text, jsonpath.values(nodes, obj))), value))
    raise click.BadParameter(
        f"{text!r}: say condition=Ready, delete, create, or jsonpath='{{.status.phase}}'=Running", param_hint="--for"
    )


def _split_template(text: str) -> tuple[str, str, str]:
    """`{.a[?(@.b=="c")]}=value`: the template may have signs of its own."""
    head, brace, tail = text.rpartition("}")
    if not brace:
        return text.partition("=")
    return head + brace, "=", tail.removeprefix("=")


def _has_condition(obj: Plain, kind: str, status: str) -> bool:
    conditions = obj.get("status", {}).get("conditions", ())
    return any(each["type"].lower() == kind.lower() and each["status"].lower() == status.lower() for each in conditions)


def _has_value(found: Sequence[str], value: str) -> bool:
    """One value, which is this text; without a text any value."""
    return found == [value] if value else bool(found)


_REVISIONS = "a lab keeps no earlier revisions: apply the manifest that you want"
_PAUSES = "a rollout in a lab cannot be paused"
_NOT_HERE = {"history": _REVISIONS, "undo": _REVISIONS, "pause": _PAUSES, "resume": _PAUSES}
"""What kubectl has beside them."""


class _RolloutGroup(click.Group):
    def resolve_command(
        self, context: click.Context, words: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if words[0] in _NOT_HERE:
            context.fail(_NOT_HERE[words[0]])
        return super().resolve_command(context, words)


@click.group(cls=_RolloutGroup, short_help="How far a workload's rollout is; its pods anew.")
def rollout() -> None:
    """How far the rollout of a workload is; and all its pods anew."""


@rollout.command("restart")
@click.argument("what", nargs=-1, required=True, metavar="KIND NAME… | KIND/NAME… | KIND")
@namespace_option
@click.option(
    "-l", "--selector", metavar="SELECTOR", help="Objects of KIND with these labels: app=web,tier!=front,!old."
)
@lab_option
def rollout_restart(what: tuple[str, ...], namespace: str | None, selector: str | None, lab: str) -> int:
    """Replace the pods of Deployments, StatefulSets or DaemonSets by new ones; KIND alone: of all in the namespace."""
    wanted = wanted_objects(what)
    if selector and any(each["names"] for each in wanted):
        raise click.UsageError("either names or -l SELECTOR")
    answer = ask_lab(lab, "restart", wanted=wanted, namespace=namespace, everywhere=False, selector=selector or "")
    return print_changed(answer)


@rollout.command("status")
@click.argument("what", nargs=-1, required=True, metavar="KIND NAME | KIND/NAME")
@namespace_option
@click.option("--timeout", type=Duration(), default="-1", help="As 30s or 1m30s (default: for ever).")
@click.option("-w/-W", "--watch/--no-watch", default=True, help="Wait until it is complete.  [default: wait]")
@lab_option
def rollout_status(what: tuple[str, ...], namespace: str | None, timeout: float, watch: bool, lab: str) -> int:
    """Show the rollout of a Deployment, StatefulSet or DaemonSet, until it is complete."""
    wanted = wanted_objects(what)
    if len(wanted) != 1 or len(wanted[0]["names"]) != 1:
        raise click.UsageError("name one workload: KIND NAME or KIND/NAME")
    deadline = time.monotonic() + timeout
    said, revision = None, None
    while True:
        left = max(0.0, deadline - time.monotonic())
        answer = get_objects(lab, wanted, namespace, after=revision, patience=min(left, _PATIENCE))
        if answer["missing"]:
            raise NotFound(answer["missing"][0])
        complete, text = _progress(answer["sections"][0]["objects"][0])
        if text != said:
            click.echo(text)
        if complete or not watch:
            return 0
        if not left:
            raise NotInTime("timed out waiting for the condition")
        said, revision = text, answer["revision"]


def _progress(workload: Plain) -> tuple[bool, str]:
    """Whether it is complete, and kubectl's sentence."""
    kind, name, status = workload["kind"], workload["metadata"]["name"], workload.get("status", {})
    if kind == "StatefulSet":
        replicas = workload["spec"]["replicas"]
        ready = min(status.get("updatedReplicas", 0), status.get("readyReplicas", 0))
        if ready < replicas:
            return False, f"Waiting for {replicas - ready} pods to be ready..."
        return True, f"statefulset rolling update complete {ready} pods..."
    if kind not in _ROLLOUTS:
        raise LabError(f"a {kind.lower()} has no rollout", hint="name a deployment, statefulset or daemonset")
    words = _ROLLOUTS[kind]
    desired = workload["spec"]["replicas"] if kind == "Deployment" else status.get("desiredNumberScheduled", 0)
    updated, there, available = (status.get(field, 0) for field in words.counts)
    missing = None
    if updated < desired:
        missing = f"{updated} out of {desired} new {words.pods} have been updated..."
    elif there > updated:
        missing = f"{there - updated} old {words.pods} are pending termination..."
    elif available < updated:
        missing = f"{available} of {updated} updated {words.pods} are available..."
    if missing is not None:
        return False, f'Waiting for {words.kind} "{name}" rollout to finish: {missing}'
    return True, f'{words.kind} "{name}" successfully rolled out'
