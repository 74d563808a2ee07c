"""`percale plan name`: what addresses say, by themselves or in any text."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import ip_network

import click
from msgspec import Struct

from percale.cli.json_output import format_json
from percale.cli.options import output_option
from percale.cli.plan.given_plan import address_or_network, plan_option, usable_plan
from percale.ipam.address_plan.plan import Meaning, Plan

_LIKE_AN_ADDRESS = re.compile(
    r"(?:(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\w|\.[0-9])|(?<![\w:.])[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}(?![\w:]))(?:/[0-9]{1,3}\b)?"
)


class NamedAddress(Struct, frozen=True):
    """`meaning` is null for an address that is not of the plan."""

    address: str
    meaning: Meaning | None


@click.command(short_help="What addresses say by the plan; with - in any text.")
@plan_option
@output_option
@click.argument("addresses", metavar="ADDRESS|CIDR…", nargs=-1, required=True)
def name(*, file: str, output: str | None, addresses: tuple[str, ...]) -> int:
    """Say what addresses mean; of a network what its addresses have in common.

    With - standard input is printed, and behind each line what its addresses mean: percale status | percale plan name -.
    Exits with 1 when an address is not of the plan.
    """
    plan = usable_plan(file)
    if addresses == ("-",):
        if output == "json":
            raise click.UsageError("-o json goes with addresses, not with -")
        for line in sys.stdin:
            click.echo(with_meanings(plan, line.rstrip("\n")))
        return 0
    networks = [address_or_network(each) for each in addresses]
    found = [NamedAddress(text, plan.meaning(network)) for text, network in zip(addresses, networks, strict=True)]
    if output == "json":
        click.echo(format_json(found))
    else:
        for each in found:
            click.echo(f"{each.address}: {each.meaning or 'not of the plan'}")
    return 0 if all(each.meaning for each in found) else 1


def with_meanings(plan: Plan, line: str) -> str:
    """A line of any text, and behind it what its addresses mean."""
    words = list(dict.fromkeys(_meanings(plan, _LIKE_AN_ADDRESS.findall(line))))
    return f"{line}   # {'; '.join(words)}" if words else line


def _meanings(plan: Plan, texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        with suppress(ValueError):  # 300.1.2.3 looks like one
            meaning = plan.meaning(ip_network(text, strict=False))
            if meaning is not None and meaning.fields:
                yield f"{text} {meaning}"
