"""`percale lab probe`, `cut`, `heal`, `add-node`, `remove-node`, `restart-agent`: try the network, and disturb it."""

from __future__ import annotations

import json
from typing import Any

import click

from percale.cli.lab.requests import ask_lab
from percale.cli.options import lab_option, namespace_option


@click.command(short_help="Try a connection between two places.")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.argument("port", metavar="PORT[/PROTO]")
@namespace_option
@click.option("-6", "ipv6", is_flag=True, help="By IPv6, where TO has both.")
@click.option("--timeout", default=2.0, show_default=True, metavar="SECONDS")
@click.option("-o", "--output", type=click.Choice(["json"]))
@lab_option
def probe(
    *,
    source: str,
    target: str,
    port: str,
    namespace: str | None,
    ipv6: bool,
    timeout: float,
    output: str | None,
    lab: str,
) -> int:
    """Try one connection (TCP) or datagram (UDP) between two places; exit code 0: it got an answer.

    FROM and TO: a pod's name, NS/POD, deploy/NAME, node/NAME, external/NAME or an address. TO may also be svc/NAME,
    svc/NS/NAME, or a name that FROM asks its name server for. Node ports: node/NAME and the port.
    The result is allowed, refused (it arrived, no socket listens), unreachable (an ICMP error) or timeout.
    """
    answer = ask_lab(
        lab,
        "probe",
        source=source,
        target=target,
        port=port,
        namespace=namespace,
        version=6 if ipv6 else None,
        timeout_seconds=timeout,
    )
    if output == "json":
        click.echo(json.dumps(answer))
    else:
        reason = f" ({answer['reason']})" if answer["reason"] else ""
        click.echo(
            f"{answer['result']}: {answer['from']} → {answer['to']}, {answer['endpoint']}, "
            f"{answer['milliseconds']} ms{reason}{_who(answer['answered'])}"
        )
    return 0 if answer["result"] == "allowed" else 1


def _who(answered: dict[str, str] | None) -> str:
    """Who has answered, and as whom it saw the asker."""
    if answered is None:
        return ""
    on = f" on {answered['node']}" if answered["node"] else ""
    return f"; {answered['kind']} {answered['name']}{on} saw {answered['client']}"


@click.command(short_help="Drop all packets between two machines.")
@click.argument("a", metavar="NODE")
@click.argument("b", metavar="NODE")
@lab_option
def cut(a: str, b: str, lab: str) -> int:
    """Drop all packets between two machines, on any path."""
    return _do(lab, "cut", a=a, b=b)


@click.command(short_help="Undo a cut, or all of them.")
@click.argument("names", nargs=-1, metavar="[NODE NODE]")
@lab_option
def heal(names: tuple[str, ...], lab: str) -> int:
    """Undo the cut between two machines; without names, all cuts."""
    if len(names) not in (0, 2):
        raise click.UsageError("name two machines, or none for all cuts")
    return _do(lab, "heal", names=list(names))


@click.command("add-node")
@click.argument("name")
@click.option("--segment", metavar="NAME", help="Where it is plugged in (default: the first segment).")
@click.option("--label", "labels", metavar="K=V", multiple=True)
@lab_option
def add_node(name: str, segment: str | None, labels: tuple[str, ...], lab: str) -> int:
    """One node more, with an agent of its own."""
    if not all("=" in text for text in labels):
        raise click.UsageError("a label is K=V")
    return _do(lab, "add_node", name=name, segment=segment, labels=dict(text.split("=", 1) for text in labels))


@click.command("remove-node", short_help="A node leaves, its pods move.")
@click.argument("name")
@lab_option
def remove_node(name: str, lab: str) -> int:
    """A node leaves: its pods move if a workload owns them, its subnet becomes free."""
    return _do(lab, "remove_node", name=name)


@click.command("restart-agent", short_help="Restart a node's agent.")
@click.argument("node")
@click.option("--kill", is_flag=True, help="By SIGKILL, in the middle of whatever it does.")
@lab_option
def restart_agent(node: str, kill: bool, lab: str) -> int:
    """Restart a node's agent; its pods keep their addresses and connections."""
    return _do(lab, "restart_agent", node=node, kill=kill)


def _do(lab: str, verb: str, **arguments: Any) -> int:
    click.echo("\n".join(ask_lab(lab, verb, **arguments)["lines"]))
    return 0
