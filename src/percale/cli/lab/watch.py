"""`percale lab watch`: what policies decide about new connections, as it happens."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING

import click
from msgspec import Struct, field

from percale.cli.json_output import format_json
from percale.cli.options import lab_option, namespace_option
from percale.counted import counted

if TYPE_CHECKING:
    from percale.lab.watch import Connection

_NO_RULE = "no policy"


class WatchedDocument(Struct, frozen=True):
    """A line of `-o json`; the field names are an interface."""

    time: str
    verdict: str
    from_: str = field(name="from")
    to: str
    address: str
    port: int | None
    protocol: str
    rules: Sequence[str]
    node: str


@click.command("watch", short_help="Watch policies decide, connection by connection.")
@click.option("--pod", metavar="NAME", help="Only connections from or to this pod, node or host outside.")
@namespace_option
@click.option("--denied", "only", flag_value="denied", help="Only those that are denied.")
@click.option("--allowed", "only", flag_value="allowed", help="Only those that are allowed.")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--for", "seconds", type=click.FloatRange(min=0), metavar="SECONDS", help="End after this time.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many lines.")
@click.option(
    "--rate",
    type=click.IntRange(1, 100_000),
    default=100,
    show_default=True,
    help="New connections a second on a node.",
)
@lab_option
def watch(
    *,
    pod: str | None,
    namespace: str | None,
    only: str | None,
    output: str,
    seconds: float | None,
    count: int | None,
    rate: int,
    lab: str,
) -> int:
    """Show each new connection that passes a node: allowed or denied, and the rule that decided.

    From the kernel's traces of its rules. Connections between a node and its own pods are not evaluated, and a
    retried connection is shown once.
    """
    from percale.lab.api.client import ask
    from percale.lab.run_dir import locate
    from percale.lab.watch import LeftOut
    from percale.lab.watch import watch as watching

    shown, lab_dir = 0, locate(lab)
    wanted = ask(lab_dir, "name", target=pod, namespace=namespace)["name"] if pod is not None else None
    until = time.monotonic() + seconds if seconds is not None else inf
    interrupted = interrupt_flag()
    with closing(watching(lab_dir, rate, stop=lambda: interrupted() or time.monotonic() >= until)) as found:
        for seen in found:
            if isinstance(seen, LeftOut):
                click.echo(f"not traced so far: {counted(seen.count, 'new connection')}; --rate traces more", err=True)
            elif _is_wanted(seen, wanted, only):
                click.echo(_as_json(seen) if output == "json" else _as_text(seen))
                shown += 1
                if shown == count:
                    break
    return 0


def interrupt_flag() -> Callable[[], bool]:
    """Whether Ctrl-C was pressed: the exception alone is lost when it is raised in a finalizer."""
    interrupted = False

    def interrupt(_number: int, _frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    return lambda: interrupted


def _is_wanted(seen: Connection, pod: str | None, only: str | None) -> bool:
    return pod in (None, seen.source, seen.destination) and only in (None, _verdict(seen))


def _verdict(seen: Connection) -> str:
    return "allowed" if seen.allowed else "denied"


def _as_text(seen: Connection) -> str:
    when = datetime.fromtimestamp(seen.time).astimezone().strftime("%H:%M:%S.%f")[:-3]
    target = seen.destination if seen.destination == seen.address else f"{seen.destination} ({seen.address})"
    port = f"{seen.port}/{seen.protocol}" if seen.port is not None else seen.protocol
    rule = ", ".join(seen.rules) or _NO_RULE
    return f"{when} {_verdict(seen):7}  {seen.source} → {target} {port}  {rule}  {seen.node}"


def _as_json(seen: Connection) -> str:
    document = WatchedDocument(
        time=datetime.fromtimestamp(seen.time, UTC).isoformat(timespec="milliseconds"),
        verdict=_verdict(seen),
        from_=seen.source,
        to=seen.destination,
        address=seen.address,
        port=seen.port,
        protocol=seen.protocol,
        rules=seen.rules,
        node=seen.node,
    )
    return format_json(document, indent=0)
