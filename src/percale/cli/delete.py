"""`percale delete`: objects of a store; `percale lab delete` deletes those of a lab."""

from __future__ import annotations

import click

from percale.cli.given_store import ANY_STORE, store_option, with_store
from percale.cli.object_names import object_names
from percale.cli.options import namespace_option
from percale.store.protocol import Store
from percale.store.registry import has_api_server


@click.command()
@click.argument("what", nargs=-1, metavar="[KIND NAME… | KIND/NAME…]")
@click.option("-f", "files", metavar="FILE|DIR", multiple=True, help="Delete what these manifests name.")
@store_option(ANY_STORE)
@namespace_option
def delete(what: tuple[str, ...], files: tuple[str, ...], address: str, namespace: str | None) -> int:
    """Delete objects, by file or by name; a namespace with all that is in it."""
    if bool(what) == bool(files):
        raise click.UsageError("name what to delete: KIND NAME, KIND/NAME, or -f FILE")
    from percale.model.manifest.files import read
    from percale.objects import changes
    from percale.objects.in_store import StoreObjects, load

    written = [each.object for each in load(read(files), namespace, "ignore").entries]
    names = object_names(what) if what else []

    async def run(store: Store) -> None:
        objects = StoreObjects(store, api_server=has_api_server(address))
        done = changes.delete_written(objects, written) if files else changes.delete_named(objects, names, namespace)
        async for line in done:
            click.echo(line)

    with_store(address, run)
    return 0
