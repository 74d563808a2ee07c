"""`python -m tests.cluster.testbed up`: a Kubernetes cluster on this machine to look around in, with Percale as its network."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import click
from tests.cluster.testbed import cgroups, cluster, suite
from tests.cluster.testbed.layout import DIRECTORY, FAMILIES, Layout, load
from tests.cluster.testbed.networks import NETWORKS
from tests.cluster.testbed.processes import TestbedError, in_control_plane, in_node

_ROOT = Path(__file__).parents[3]


@click.group()
def main() -> None:
    """A Kubernetes cluster on this machine, in namespaces, with Percale as its network."""


@main.command()
@click.option("--nodes", default=3, show_default=True)
@click.option("--stack", type=click.Choice([*FAMILIES]), default="ipv4", show_default=True)
@click.option("--network", type=click.Choice([*NETWORKS]), default="vxlan", show_default=True)
def up(nodes: int, stack: str, network: str) -> None:
    """Bring it up; what fails stays for a look, until `down`."""
    made = subprocess.run([_ROOT / "scripts/kubernetes-binaries", "e2e"], stdout=subprocess.PIPE, text=True, check=True)
    cluster.up(Layout(made.stdout.strip(), nodes, stack, network))


@main.command()
def down() -> None:
    """Remove all of it."""
    cluster.down()


@main.command()
def status() -> None:
    """Nodes, pods, and what each node takes."""
    layout = _existing()
    subprocess.run([*_kubectl(layout), "get", "nodes,pods", "--all-namespaces", "-o=wide"], check=False)
    for node in layout.nodes:
        seconds, memory = cgroups.usage(node.name)
        click.echo(f"{node.name}: {seconds:.0f} s of CPU time, {memory >> 20} MiB")


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def kubectl(arguments: tuple[str, ...]) -> None:
    """kubectl as the cluster's administrator."""
    _become([*_kubectl(_existing()), *arguments])


@main.command(name="exec", context_settings={"ignore_unknown_options": True})
@click.argument("node")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def execute(node: str, command: tuple[str, ...]) -> None:
    """Run a command in a node's namespaces."""
    layout = _existing()
    if node not in {each.name for each in layout.nodes}:
        raise TestbedError(f"no node {node}; there are {', '.join(each.name for each in layout.nodes)}")
    _become([*in_node(layout, node), *command])


@main.command()
@click.argument("focus")
@click.option("--skip", multiple=True, default=("SCTP",), show_default=True)
@click.option("--processes", default=3, show_default=True)
@click.option("--report", type=click.Path(path_type=Path), default=DIRECTORY / "report", show_default=True)
def e2e(focus: str, skip: tuple[str, ...], processes: int, report: Path) -> None:
    """Run the end-to-end specs whose names have FOCUS, a regular expression."""
    specs = suite.run(_existing(), suite.Selection(focus, skip), report, processes=processes)
    for spec in specs:
        click.echo(f"{spec.state:8} {spec.seconds:6.1f} s  {spec.name}")
        if spec.message:
            click.echo(f"         {spec.message.splitlines()[0][:300]}")
    counts = Counter(spec.state for spec in specs)
    click.echo(", ".join(f"{count} {state}" for state, count in counts.most_common()) or "no spec has such a name")
    sys.exit(any(spec.failed for spec in specs) or not specs)


def _existing() -> Layout:
    layout = load()
    if layout is None:
        raise TestbedError("no testbed is up; type: python -m tests.cluster.testbed up")
    return layout


def _kubectl(layout: Layout) -> list[str]:
    return [*in_control_plane(layout), str(layout.programs / "kubectl"), f"--kubeconfig={layout.kubeconfig}"]


def _become(command: list[str]) -> None:
    os.execvp(command[0], command)


if __name__ == "__main__":
    try:
        main()
    except (TestbedError, AssertionError) as error:
        sys.exit(f"testbed: {error}")
