"""`percale apply`: manifests into a store, for clusters without Kubernetes; `percale lab apply` does it in a lab."""

from __future__ import annotations

import click

from percale.cli.options import namespace_option, networks, validate_option, validation
from percale.cli.store_option import ANY_STORE, store_option, with_store
from percale.store.protocol import Store
from percale.store.registry import has_api_server


@click.command()
@click.option("-f", "files", metavar="FILE|DIR", multiple=True, required=True, help="Manifests; - is stdin.")
@store_option(ANY_STORE)
@namespace_option
@validate_option
@click.option(
    "--service-cidr",
    "cidrs",
    metavar="CIDR,…",
    multiple=True,
    envvar="PERCALE_SERVICES_CIDRS",
    help="Where cluster IPs are allocated without an API server (default: 10.96.0.0/12).",
)
def apply(files: tuple[str, ...], address: str, namespace: str | None, cidrs: tuple[str, ...]) -> int:
    """Create or change objects. All are checked first: one bad document, and nothing is applied.

    Each object is written if it is still the one that was compared; when the store fails in the midst, the error says
    how many are applied, and the same command goes on.
    """
    from percale.controllers.offline import DEFAULT_SERVICE_CIDR
    from percale.model.manifest.files import read
    from percale.objects.in_store import StoreObjects, load

    loaded = load(read(files), namespace, validation())
    service_cidrs = networks(cidrs, "--service-cidr") or (DEFAULT_SERVICE_CIDR,)

    async def run(store: Store) -> None:
        objects = StoreObjects(store, api_server=has_api_server(address))
        async for line in objects.apply(loaded, service_cidrs):
            click.echo(line)

    with_store(address, run)
    for note in loaded.notes(validation()):
        click.echo(note)
    return 0
