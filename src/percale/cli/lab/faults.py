"""`percale lab break`: a game for learners: something is broken, and they find out what."""

from __future__ import annotations

import click

from percale.cli.options import lab_option
from percale.text_columns import table


@click.command("break", short_help="A game: break something, find it, mend it.")
@click.argument("number", type=int, required=False, metavar="[N]")
@click.option("--check", "way", flag_value="check", help="Whether it is mended.")
@click.option("--hint", "way", flag_value="hint", help="Where to look.")
@click.option("--tell", "way", flag_value="tell", help="What it is.")
@click.option("--undo", "way", flag_value="undo", help="Mend it for me.")
@lab_option
def break_(number: int | None, way: str | None, lab: str) -> int:
    """Break something in a default lab, to find the cause: in the network or in objects. Without N: what there is.

    \b
    percale lab up
    percale lab break 3
    percale lab break 3 --check
    """
    from percale.lab.faults.player import Player
    from percale.lab.faults.registry import FAULTS
    from percale.lab.run_dir import locate

    if number is None:
        if way is not None:
            raise click.UsageError(f"--{way} of which? Name its number")
        click.echo(table([("N", "WHAT IS SEEN"), *((str(each.number), each.seen) for each in FAULTS)]))
        return 0
    fault = next((each for each in FAULTS if each.number == number), None)
    if fault is None:
        raise click.UsageError(f"there is no fault {number}: they are 1 to {len(FAULTS)}")
    player, lab_dir = Player(locate(lab)), locate(lab)
    match way:
        case "check":
            broken = player.broken(fault)
            click.echo(f"not mended: {', '.join(broken)}" if broken else f"{number} is mended")
            return 1 if broken else 0
        case "hint":
            click.echo("\n".join(map(player.spelled, fault.hints)))
        case "tell":
            click.echo(player.spelled(fault.cause))
        case "undo":
            player.undo(fault)
            click.echo(f"{number} is undone")
        case _:
            player.play(fault)
            click.echo(f"{fault.seen}: why? The pods are in the namespace game.")
            click.echo(f"is it mended? {lab_dir.command(f'break {number} --check')}")
            click.echo(f"a hint: {lab_dir.command(f'break {number} --hint')}")
    return 0
