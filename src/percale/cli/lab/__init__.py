"""`percale lab`: a cluster on this machine. Here its life: up, down, list, status; the other verbs are in the modules here.

get.py       get                                   what the cluster says
describe.py  describe logs
wait.py      wait rollout
objects.py   apply delete scale label
shell.py     exec node tcpdump                     this machine's tools, in there
watch.py     watch
probe.py     probe
machines.py  cut heal add-node remove-node restart-agent migrate
faults.py    break                                 a game for learners
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from percale.cli.lab.describe import describe, logs
from percale.cli.lab.faults import break_
from percale.cli.lab.get import get
from percale.cli.lab.machines import add_node, cut, heal, migrate, remove_node, restart_agent
from percale.cli.lab.objects import apply, delete, label, scale
from percale.cli.lab.probe import probe
from percale.cli.lab.shell import enter_node, enter_pod, tcpdump
from percale.cli.lab.wait import rollout, wait
from percale.cli.lab.watch import watch
from percale.cli.lab_option import given_lab, group_lab_option, lab_argument
from percale.cli.options import lab_option, output_option, validate_option, validation
from percale.lab.commands import default_lab
from percale.text_columns import table

if TYPE_CHECKING:
    from percale.lab.api.status import MachineStatus, PeerStatus


class _InOrder(click.Group):
    """Lists the verbs as a newcomer needs them, not by the alphabet."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, context: click.Context, words: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A command beside `lab` is named as such."""
        above = context.parent
        beside = above.command.list_commands(above) if above and isinstance(above.command, click.Group) else []
        if words[0] in beside and words[0] not in self.commands:
            context.fail(f"{words[0]} is no command of lab; write: percale {words[0]} …")
        return super().resolve_command(context, words)


@click.group(cls=_InOrder)
@group_lab_option
def lab() -> None:
    """A cluster on this machine: nodes and pods are network namespaces, agents and packets are real.

    Start with: percale lab up
    """


@lab.command()
@lab_argument
@click.option(
    "-f",
    "files",
    metavar="FILE|DIR",
    multiple=True,
    help="Manifests, a `kind: Lab` document, or a net-conf.json; - is stdin.",
)
@validate_option
@click.option(
    "--lab",
    "--name",
    "lab",
    metavar="NAME",
    callback=given_lab,
    help="The same as LAB.",
)
@click.option(
    "--timeout",
    type=float,
    metavar="SECONDS",
    help="How long to wait for all pods; default: 30, with --kubernetes 120.",
)
@click.option("-v", "--verbose", is_flag=True, help="Agents log each kernel change as an ip, bridge or nft command.")
@click.option(
    "--kubernetes",
    is_flag=True,
    help="With Kubernetes' own etcd, API server, controllers and scheduler, for kubectl (built by make kubernetes).",
)
def up(files: tuple[str, ...], lab: str | None, timeout: float | None, verbose: bool, kubernetes: bool) -> int:
    """Start a lab; ends when all its pods are Ready.

    Several may run side by side, each with a name (LAB; default: $PERCALE_LAB, else lab).

    Without a Lab document: node1 and node2 on one segment, node3 behind a router, and a host outside the cluster.
    """
    from percale.lab.up import start

    name = lab or default_lab()
    return start(name, files, timeout, verbose, echo=click.echo, validate=validation(), kubernetes=kubernetes)


@lab.command()
@lab_argument
@lab_option
@click.option("--all", "everything", is_flag=True, help="All labs of this user.")
def down(lab: str, everything: bool) -> int:
    """End a lab; nothing of it is left."""
    from percale.lab import run_dir

    lab_dirs = run_dir.all_lab_dirs() if everything else [run_dir.locate(lab)]
    ended = [each.name for each in lab_dirs if run_dir.take_down(each)]
    if not ended and not everything:
        run_dir.require_running(lab_dirs[0])
    click.echo(f"ended: {', '.join(ended)}" if ended else "no lab is running")
    return 0


@lab.command()
@lab_argument
@lab_option
def kubeconfig(lab: str) -> int:
    """The path of the kubeconfig of a lab with Kubernetes.

    \b
    export KUBECONFIG=$(percale lab kubeconfig)
    """
    from percale.errors import LabError
    from percale.lab import run_dir

    lab_dir = run_dir.locate(lab)
    run_dir.require_running(lab_dir)
    if not lab_dir.kubeconfig.exists():
        hint = f"end it, then: {lab_dir.command('up --kubernetes')}"
        raise LabError(f"lab {lab_dir.name} has no Kubernetes", hint=hint)
    click.echo(lab_dir.kubeconfig)
    return 0


@lab.command("list")
@lab_argument
@click.option("--lab", metavar="NAME", callback=given_lab, help="This one only.")
@output_option
def list_labs(lab: str | None, output: str | None) -> int:
    """The labs that are running; or this one."""
    from percale.cli.json_output import format_json
    from percale.lab import run_dir
    from percale.lab.api.client import ask
    from percale.lab.api.status import RunningLab

    if lab is None:
        running = list(run_dir.all_running())
    else:
        lab_dir = run_dir.locate(lab)
        running = [(lab_dir, run_dir.require_running(lab_dir))]
    labs = [RunningLab(**ask(each, "about"), name=each.name, pid=pid) for each, pid in running]
    if output == "json":
        click.echo(format_json(labs))
        return 0
    head = ["NAME", "PID", "NODES", "PODS", "READY", "NETWORK", "BACKEND"]
    rows = [[lab.name, *map(str, (lab.pid, lab.nodes, lab.pods, lab.ready)), lab.network, lab.backend] for lab in labs]
    click.echo(table([head, *rows]) if rows else "no lab is running; start one: percale lab up")
    return 0


@lab.command(short_help="Machines, agents, peers, pods, cuts, what is wrong.")
@lab_argument
@output_option
@lab_option
def status(output: str | None, lab: str) -> int:
    """Nodes, agents, peers as each agent sees them, pods, cuts, and what is wrong."""
    import msgspec

    from percale.cli.json_output import format_json
    from percale.lab.api.client import ask
    from percale.lab.api.status import LabStatus
    from percale.lab.run_dir import locate

    found = locate(lab)
    seen = msgspec.convert(ask(found, "status"), LabStatus)
    if output == "json":
        click.echo(format_json(seen))
        return 0
    click.echo(f"lab {lab}: network {seen.network}, backend {seen.backend}, files in {found.directory}\n")
    head = ["MACHINE", "SEGMENT", "ADDRESS", "POD-SUBNET", "PEERS", "AGENT", "RESTARTS"]
    click.echo(table([head, *map(_machine_row, seen.machines)]))
    click.echo(f"\npods: {seen.ready} of {seen.pods} Ready")
    for line in (*seen.problems, *(f"cut: {one} and {other} cannot reach each other" for one, other in seen.cuts)):
        click.echo(line)
    return 0


def _machine_row(machine: MachineStatus) -> list[str]:
    row = [machine.name, machine.segment, machine.address]
    agent = machine.agent
    if agent is None:
        return [*row, "-", "-", "-", "-"]
    state = f"ready, pid {agent.pid}" if agent.ready else "not ready" if agent.pid else "dead"
    return [*row, ",".join(machine.subnets) or "none yet", _peers(machine.peers), state, str(agent.restarts)]


def _peers(peers: Sequence[PeerStatus] | None) -> str:
    """`1 direct, 2 tunnel, 1 not reached`; by others: the backend brings no routes."""
    if peers is None:
        return "unknown"
    counts = Counter((each.path or "by others") if each.reached else "not reached" for each in peers)
    words = ("direct", "tunnel", "by others", "not reached")
    return ", ".join(f"{counts[word]} {word}" for word in words if counts[word]) or "none"


for _verb in (
    get,
    describe,
    apply,
    delete,
    scale,
    label,
    wait,
    rollout,
    enter_pod,
    enter_node,
    tcpdump,
    logs,
    probe,
    watch,
    cut,
    heal,
    add_node,
    remove_node,
    restart_agent,
    migrate,
    break_,
):
    lab.add_command(_verb)
