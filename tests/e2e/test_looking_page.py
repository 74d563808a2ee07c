"""The commands of docs/looking.md in the lab that it describes, and what it quotes of their output."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.e2e.conftest import ROOT, Person
from tests.page_commands import blocks
from tests.waiting import until

PAGE = ROOT / "docs" / "looking.md"
ENDLESS = "percale lab watch"
QUOTED = re.compile(r"<!-- quoted: hops -->\n```\n(.*?)```", re.DOTALL)


def asked() -> Iterator[str]:
    """The commands of the table."""
    for line in PAGE.read_text().splitlines():
        if line.startswith("| "):
            yield from (each for each in re.findall(r"`(percale [^`]*)`", line) if "ADDRESS" not in each)


@contextmanager
def capturing(person: Person, command: str) -> Iterator[subprocess.Popen[str]]:
    """One of the page's `percale lab tcpdump`, until its first packet."""
    line = command.partition("   #")[0].replace(" -- ", " -- -c 1 -l -n -t ")
    process = subprocess.Popen(
        shlex.split(line),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**person.environment, "PATH": f"{ROOT}/.venv/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    assert process.stderr is not None
    try:
        assert any("listening on" in each for each in process.stderr), f"{line} has ended"
        yield process
    finally:
        process.kill()
        process.wait()


def without_chance(text: str) -> str:
    """Nodes' subnets, ports that the kernel chose, and what is behind the sequence number."""
    text = re.sub(r"10\.244\.\d+\.", "10.244.N.", text)
    return re.sub(r"(?<=\.)\d+(?= >)|(?<=, seq ).*", "…", text)


def test_the_page(percale: Person) -> None:
    percale("lab", "up")
    percale("lab", "apply", "-f", "examples/across-nodes.yaml")
    percale("lab", "wait", "--for=condition=Ready", "pod", "--all", "-A", "--timeout=60s")
    until(lambda: "not reached" not in percale.out("lab", "status"))
    commands = [each for each in asked() if each != ENDLESS]
    assert len(commands) > 10
    for command in commands:
        percale.shell(command)

    (hops,) = blocks("hops", PAGE)
    with ExitStack() as opened:
        captures = [opened.enter_context(capturing(percale, each)) for each in hops.splitlines()]
        percale.shell("percale lab probe across-nodes/client across-nodes/far 80")
        seen = "".join(each.communicate(timeout=30)[0] for each in captures)
    quoted = QUOTED.search(PAGE.read_text())
    assert quoted is not None
    assert without_chance(quoted[1]) == without_chance(seen)
