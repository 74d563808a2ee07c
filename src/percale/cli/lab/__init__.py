"""`percale lab`: a cluster on this machine. Here its life: up, down, list, status; the other verbs are in the modules here.

objects.py   get apply delete scale label          what the cluster says
shell.py     exec node tcpdump                     this machine's tools, in there
watch.py     watch
probe.py     probe
machines.py  cut heal add-node remove-node restart-agent
"""

from __future__ import annotations

import click

from percale.cli.lab.get import get
from percale.cli.lab.machines import add_node, cut, heal, remove_node, restart_agent
from percale.cli.lab.objects import apply, delete, label, scale
from percale.cli.lab.probe import probe
from percale.cli.lab.shell import enter_node, enter_pod, tcpdump
from percale.cli.lab.wait import rollout, wait
from percale.cli.lab.watch import watch
from percale.cli.options import lab_option, validate_option, validation
from percale.text_columns import table


class _InOrder(click.Group):
    """Lists the verbs as a newcomer needs them, not by the alphabet."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder)
def lab() -> None:
    """A cluster on this machine: nodes and pods are network namespaces, agents and packets are real.

    Start with: percale lab up
    """


@lab.command()
@click.option(
    "-f",
    "files",
    metavar="FILE|DIR",
    multiple=True,
    help="Manifests, a `kind: Lab` document, or a net-conf.json; - is stdin.",
)
@validate_option
@click.option("--name", default="lab", show_default=True, help="Several labs may run side by side.")
@click.option("--timeout", default=30.0, show_default=True, metavar="SECONDS", help="How long to wait for all pods.")
@click.option("-v", "--verbose", is_flag=True, help="Agents log each kernel change as an ip, bridge or nft command.")
def up(files: tuple[str, ...], name: str, timeout: float, verbose: bool) -> int:
    """Start a lab; ends when all its pods are Ready.

    Without a Lab document: node1 and node2 on one segment, node3 behind a router, and a host outside the cluster.
    """
    from percale.lab.up import start

    return start(name, files, timeout, verbose, echo=click.echo, validate=validation())


@lab.command()
@click.argument("name", default="lab")
@click.option("--all", "everything", is_flag=True, help="All labs of this user.")
def down(name: str, everything: bool) -> int:
    """End a lab; nothing of it is left."""
    from percale.lab import run_dir

    lab_dirs = run_dir.all_lab_dirs() if everything else [run_dir.locate(name)]
    ended = [each.name for each in lab_dirs if run_dir.take_down(each)]
    if not ended and not everything:
        run_dir.require_running(lab_dirs[0])
    click.echo(f"ended: {', '.join(ended)}" if ended else "no lab is running")
    return 0


@lab.command("list")
def list_labs() -> int:
    """The labs that are running."""
    from percale.lab import run_dir
    from percale.lab.api.client import ask

    rows = [["NAME", "PID", "NODES", "PODS", "READY", "NETWORK", "BACKEND"]]
    for each, pid in run_dir.all_running():
        about = ask(each, "about")
        counts = [about[key] for key in ("nodes", "pods", "ready", "network", "backend")]
        rows.append([each.name, str(pid), *map(str, counts)])
    click.echo(table(rows) if rows[1:] else "no lab is running; start one: percale lab up")
    return 0


@lab.command()
@lab_option
def status(lab: str) -> int:
    """Nodes, agents, pods, cuts, and what is wrong."""
    from percale.lab.api.client import ask
    from percale.lab.run_dir import locate

    found = locate(lab)
    content = ask(found, "status")
    click.echo(f"lab {lab}: network {content['network']}, backend {content['backend']}, files in {found.directory}\n")
    click.echo(table(content["machines"]))
    click.echo(f"\npods: {content['ready']} of {content['pods']} Ready")
    for line in content["problems"]:
        click.echo(line)
    return 0


for _verb in (
    get,
    apply,
    delete,
    scale,
    label,
    wait,
    rollout,
    enter_pod,
    enter_node,
    tcpdump,
    probe,
    watch,
    cut,
    heal,
    add_node,
    remove_node,
    restart_agent,
):
    lab.add_command(_verb)
