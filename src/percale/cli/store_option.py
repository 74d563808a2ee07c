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


def store_option(forms: str) -> Callable[[F], F]:
    """`forms` is how addresses are written."""
    return click.option(
        "--store",
        "address",
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
