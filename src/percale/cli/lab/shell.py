"""`percale lab exec`, `node`, `tcpdump`: this machine's own programs inside the lab's pods and nodes."""

from __future__ import annotations

import click

from percale.cli.options import lab_option, namespace_option

_PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}
"""Without `--`, what follows the name belongs to the program."""


class _ProgramCommand(click.Command):
    """With `--`, the program begins there, and before it our own options may stand anywhere."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            ctx.ignore_unknown_options, ctx.allow_interspersed_args = False, True
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            ctx.fail(f"No such option {error.option_name!r} of the lab's; the program's stand behind --")


class _TcpdumpCommand(_ProgramCommand):
    """Without `--`, an option behind the name that could be the lab's is refused: tcpdump's `-n` is another."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = list(args)
        rest = super().parse_args(ctx, args)
        ours = [name for option in self.params if isinstance(option, click.Option) for name in option.opts]
        said = next((word for word in ctx.params["arguments"] if word in ours), None)
        if "--" not in words and said is not None:
            where = ctx.params["where"]
            ctx.fail(f"write {said} before {where} if it is the lab's, behind -- if it is tcpdump's")
        return rest


_terminal_option = click.option(
    "-i",
    "-t",
    "--stdin",
    "--tty",
    "_terminal",
    is_flag=True,
    expose_value=False,
    help="As with kubectl; the program has this terminal anyway.",
)


@click.command("exec", short_help="Run a program in a pod.", cls=_ProgramCommand, context_settings=_PASS_ON)
@namespace_option
@_terminal_option
@lab_option
@click.argument("pod")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- CMD…")
def enter_pod(namespace: str | None, lab: str, pod: str, command: tuple[str, ...]) -> int:
    """Run a program of this machine in a pod: its network, /etc/resolv.conf, /etc/hosts and host name.

    POD is a name, NS/NAME, or deploy/NAME for the first of its pods.
    """
    return _run(lab, pod, namespace, _program(command))


@click.command(
    "node", short_help="Run a program on a node or outside host.", cls=_ProgramCommand, context_settings=_PASS_ON
)
@_terminal_option
@lab_option
@click.argument("node")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="-- CMD…")
def enter_node(lab: str, node: str, command: tuple[str, ...]) -> int:
    """Run a program of this machine on a node or an outside host, for example: percale lab node node1 -- ip route"""
    return _run(lab, node if "/" in node else f"node/{node}", None, _program(command))


@click.command(short_help="Watch packets at a pod or node.", cls=_TcpdumpCommand, context_settings=_PASS_ON)
@namespace_option
@click.option("-i", "--device", default="eth0", show_default=True, metavar="DEVICE", help="Where to listen.")
@lab_option
@click.argument("where", metavar="POD|node/NAME")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENTS…]")
def tcpdump(namespace: str | None, lab: str, device: str, where: str, arguments: tuple[str, ...]) -> int:
    """Watch the packets at a pod's or a node's device; what follows -- goes to tcpdump.

    Without -- that is all behind the name, of which -n and -i could be meant for either: write them before it.

    On node/NAME, -i flannel.1 shows what goes through the tunnel, eth0 the tunnel itself.
    """
    own = ["-Z", "root"]  # there is no other user
    return _run(lab, where, namespace, ["tcpdump", *own, "-l", "-n", "-i", device, *_rest(arguments)])


def _rest(arguments: tuple[str, ...]) -> list[str]:
    return list(arguments[1:] if arguments[:1] == ("--",) else arguments)


def _program(arguments: tuple[str, ...]) -> list[str]:
    command = _rest(arguments)
    if not command:
        raise click.UsageError("name a program to run, after --")
    if arguments[0].startswith("-") and arguments[0] != "--":
        raise click.UsageError(f"write {arguments[0]} before the name: what follows it is the program to run")
    return command


def _run(lab: str, target: str, namespace: str | None, command: list[str]) -> int:
    import msgspec

    from percale.lab.api.client import ask
    from percale.lab.process.nsenter import ExecTarget, run_inside
    from percale.lab.run_dir import locate

    lab_dir = locate(lab)
    found = msgspec.convert(ask(lab_dir, "exec_target", target=target, namespace=namespace), ExecTarget)
    return run_inside(lab_dir, found, command)
