"""`--store ADDRESS`, and what is done with the store of that address. Called by the commands that need no agent and no lab."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from percale.store.protocol import Store
from percale.store.registry import open_store

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")


class _StoreOption(click.Option):
    """Where it is missing, a lab may be meant, whose commands are others."""

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        try:
            return super().process_value(ctx, value)
        except click.MissingParameter:
            lab = f"; of a lab: percale lab {ctx.info_name}" if ctx.info_name in ("get", "apply", "delete") else ""
            raise click.UsageError(f"which store? Give --store or set PERCALE_STORE{lab}", ctx) from None


def store_option(forms: str) -> Callable[[F], F]:
    """`forms` is how addresses are written."""
    return click.option(
        "--store",
        "address",
        cls=_StoreOption,
        metavar="ADDRESS",
        envvar="PERCALE_STORE",
        required=True,
        help=f"{forms}, as the agent's.",
    )


ANY_STORE = "files:/DIRECTORY, kubernetes:[/KUBECONFIG] or etcd:http[s]://HOST:PORT[,…]"


def with_store(address: str, action: Callable[[Store], Awaitable[R]]) -> R:
    """Raises BadConfig, and what the action raises."""

    async def run() -> R:
        store = open_store(address)
        try:
            return await action(store)
        finally:
            await store.close()

    return asyncio.run(run())
