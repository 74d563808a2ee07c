"""`percale migrate`: a node of flannel's becomes Percale's, and back, while its pods' packets go on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import click

from percale.errors import KernelError, StateError


@click.command()
@click.option("--from", "source", type=click.Choice(["flannel"]), help="What this node's pods are attached by.")
@click.option("--to", "target", type=click.Choice(["flannel"]), help="The way back.")
@click.option("--dry-run", is_flag=True, help="Print the plan, and change nothing.")
@click.option("--config", metavar="FILE", type=Path, envvar="PERCALE_CONFIG", help="The agent's configuration file.")
@click.option(
    "--cni-state-dir",
    metavar="DIR",
    type=Path,
    default=Path("/var/lib/cni"),
    show_default=True,
    help="Of the CNI plugins.",
)
@click.option(
    "--cni-bin-dir", metavar="DIR", type=Path, default=Path("/opt/cni/bin"), show_default=True, help="The CNI plugins."
)
def migrate(
    *,
    source: Literal["flannel"] | None,
    target: Literal["flannel"] | None,
    dry_run: bool,
    config: Path | None,
    cni_state_dir: Path,
    cni_bin_dir: Path,
) -> None:
    """Take this node over from flannel, or give it back: its subnet, devices and pods stay as they are.

    Run it when the one agent has stopped, and again when the other one is ready. It prints each step (docs/migrate.md).
    """
    if (source is None) == (target is None):
        raise click.UsageError("either --from flannel or --to flannel")
    from percale.agent.config import loader
    from percale.agent.migration import from_flannel, to_flannel
    from percale.agent.migration.plan import Places

    settings = loader.load(config, os.environ, {})
    direction = from_flannel if source else to_flannel
    try:
        plan = direction.plan(settings, Places(cni_state_dir, cni_bin_dir))
        for step in plan.steps:
            click.echo(step.text)
            if not dry_run:
                step.run()
    except OSError as error:
        if error.filename is None:
            raise KernelError.from_os(error, where="migrate", hint="run as root") from error
        raise StateError(f"{error.strerror}", where=str(error.filename), hint="run as root") from error
    click.echo(f"{'nothing to do' if not plan.steps else 'planned' if dry_run else 'done'}; next: {plan.then}")
