"""`percale get`: the objects of a store; `percale lab get` shows those of a lab."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from percale.cli.object_names import wanted_objects
from percale.cli.object_output import get_options, print_objects
from percale.cli.store_option import ANY_STORE, store_option
from percale.store.registry import open_store


@click.command(short_help="Show objects: policies, services, leases, …")
@get_options
@store_option(ANY_STORE)
def get(
    *,
    what: tuple[str, ...],
    namespace: str | None,
    all_namespaces: bool,
    output: str | None,
    selector: str | None,
    watch: bool,
    address: str,
) -> int:
    """Show objects as the store has them: networkpolicies, services, pods, nodes, subnetleases, …

    Without -n all of the namespace `default`; where that has none, -A shows the others. What cannot be read is on stderr.
    """
    from percale.objects.in_store import StoreReader
    from percale.objects.selection import Scope, Wanted, wanted_kinds

    wanted = wanted_objects(what)
    kinds = wanted_kinds([Wanted(each["kind"], tuple(each["names"])) for each in wanted])
    scope = Scope(namespace, all_namespaces, selector or "")
    with asyncio.Runner() as runner:
        store = open_store(address)
        reader = StoreReader(store, kinds, scope, wide=output == "wide", note=lambda text: click.echo(text, err=True))

        def ask(after: int | None) -> dict[str, Any]:
            return runner.run(reader.get() if after is None else reader.next())

        try:
            return print_objects(wanted, ask, output, watch=watch)
        finally:
            runner.run(store.close())
