"""`percale delete`: objects of a store; `percale lab delete` deletes those of a lab."""

from __future__ import annotations

import click

from percale.cli.object_names import Choice, choice_options, require_one_way
from percale.cli.store_option import ANY_STORE, store_option, with_store
from percale.store.protocol import Store
from percale.store.registry import has_api_server


@click.command()
@click.argument("what", nargs=-1, metavar="[KIND NAME… | KIND/NAME… | KIND]")
@click.option("-f", "files", metavar="FILE|DIR", multiple=True, help="Delete what these manifests name.")
@store_option(ANY_STORE)
@choice_options
def delete(what: tuple[str, ...], files: tuple[str, ...], address: str, choice: Choice) -> int:
    """Delete objects: those of files, by name, or with --all or -l those of KIND; a namespace with all that is in it."""
    require_one_way(what, files, choice)
    from percale.model.manifest.files import read
    from percale.objects import changes
    from percale.objects.in_store import StoreObjects, load
    from percale.objects.selection import Scope, Wanted, wanted_kinds

    written = [each.object for each in load(read(files), choice.namespace, "ignore").entries]
    chosen = choice.of(what) if what else {"wanted": ()}
    kinds = wanted_kinds([Wanted(each["kind"], tuple(each["names"])) for each in chosen["wanted"]])
    scope = Scope(choice.namespace, choice.everywhere, choice.selector or "")

    async def run(store: Store) -> None:
        objects = StoreObjects(store, api_server=has_api_server(address))
        if files:
            async for line in changes.delete_written(objects, written):
                click.echo(line)
            return
        found = await changes.choose(objects, kinds, scope)
        async for line in changes.delete_chosen(objects, found):
            click.echo(line)
        if not found.all:
            click.echo(found.nothing, err=True)

    with_store(address, run)
    return 0
