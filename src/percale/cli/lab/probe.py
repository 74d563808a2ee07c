"""`percale lab probe`: one real connection or datagram, and who answered it."""

from __future__ import annotations

import shlex

import click
from msgspec import Struct, convert, field

from percale.cli.json_output import format_json
from percale.cli.lab.requests import ask_lab
from percale.cli.options import lab_option, probe_options
from percale.lab.commands import lab_command, lab_words


class AnsweredDocument(Struct, frozen=True):
    """Who answered, and as whom it saw the client."""

    kind: str
    name: str
    node: str | None
    client: str


class ProbeDocument(Struct, frozen=True):
    """What came of it; the field names are an interface."""

    from_: str = field(name="from")
    to: str
    port: int
    protocol: str
    result: str
    milliseconds: float
    reason: str | None
    answered: AnsweredDocument | None
    endpoint: str
    address: str | None
    nobody: bool
    """No machine, pod or Service of the lab has the address."""
    sender: str | None
    """Who sent the ICMP error; None: nobody did, or the kernel where FROM is had no route."""
    routes: str | None
    """The command that shows the routes where there was none."""
    why: str | None
    """The command that has the reason, where a policy or a Service may be it."""
    cuts: tuple[tuple[str, ...], ...]
    """Pairs of machines of the lab that cannot reach each other."""


@click.command(short_help="Try a connection between two places.")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.argument("port", metavar="PORT[/PROTO]", required=False)
@probe_options(2.0)
@click.option("-o", "--output", type=click.Choice(["json"]))
@lab_option
def probe(
    *,
    source: str,
    target: str,
    port: str | None,
    namespace: str | None,
    ipv6: bool,
    timeout: float,
    output: str | None,
    lab: str,
) -> int:
    """Try one connection (TCP) or datagram (UDP) between two places; exit code 0: it got an answer.

    FROM, TO and PORT are named as for `percale why`; TO may also be a name that FROM asks its name server for. Node
    ports: node/NAME and the port.
    The result is allowed, refused (it arrived, no socket listens), unreachable (no route, or an ICMP error) or timeout.
    """
    from percale.explain.end_names import split_port

    target, own_port = split_port(target, port)
    answer = ask_lab(
        lab,
        "probe",
        source=source,
        target=target,
        port=own_port,
        namespace=namespace,
        version=6 if ipv6 else None,
        timeout_seconds=timeout,
    )
    words = answer.pop("question")
    answer["why"] = None
    if words is not None:
        answer["why"] = f"percale why {shlex.join(words)}{lab_words(lab)}"
    if output == "json":
        click.echo(format_json(convert(answer, ProbeDocument), indent=0))
    else:
        by = f", from {answer['sender']}" if answer["sender"] else ""
        reason = f" ({answer['reason']}{by})" if answer["reason"] else ""
        click.echo(
            f"{answer['result']}: {answer['from']} → {answer['to']}, {answer['endpoint']}, "
            f"{answer['milliseconds']} ms{reason}{_who(answer['answered'])}"
        )
        if answer["nobody"] and answer["result"] != "allowed":
            click.echo(f"nobody: no machine, pod or Service of this lab has {answer['address']}")
        if answer["routes"] is not None:
            click.echo(f"routes: {answer['routes']}")
        if answer["why"] is not None:
            click.echo(f"why: {answer['why']}")
        if answer["result"] == "timeout":
            for one, other in answer["cuts"]:
                undo = lab_command(lab, f"heal {one} {other}")
                click.echo(f"cut: {one} and {other} cannot reach each other; undo it: {undo}")
    return 0 if answer["result"] == "allowed" else 1


def _who(answered: dict[str, str] | None) -> str:
    """Who has answered, and as whom it saw the asker."""
    if answered is None:
        return ""
    on = f" on {answered['node']}" if answered["node"] else ""
    return f"; {answered['kind']} {answered['name']}{on} saw {answered['client']}"
