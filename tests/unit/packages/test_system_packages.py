"""`scripts/system-packages` names every program that the code starts, so that a fresh machine lacks none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.cluster.testbed.cluster import PROGRAMS
from tests.cluster.testbed.images import TOOLS
from tests.unit.packages.started import Code, in_shell, python_files

ROOT = Path(__file__).parents[3]

# Percale's own command, and one that a test means not to be there.
_NO_PACKAGE = {"percale", "nosuch"}
# They copy tables that iptables has made: where there are some, there is iptables.
# A node whose network has the backend bgp needs BIRD: preflight and the agent say so.
# `percale support` asks the journal where there is one.
_THERE_WHEN_STARTED = {"iptables-save", "iptables-restore", "bird", "journalctl"}
_TESTBED = ROOT / "tests/cluster/testbed"


def _named(*wanted: str) -> set[str]:
    """The programs of these parts' packages: the user's, those for `tests` and for `cluster`."""
    user, *others = re.split(r'if \[ "\$\{1:-\}" = (\w+) \]', (ROOT / "scripts/system-packages").read_text())
    parts = {"user": user, **dict(zip(others[::2], others[1::2], strict=True))}
    return {name for part in wanted for name in re.findall(r"^ *need (\S+) \S+", parts[part], re.MULTILINE)}


def _started(*folders: str) -> set[str]:
    files = python_files(*(ROOT / folder for folder in folders))
    code = Code(path.read_text() for path in files if not path.is_relative_to(_TESTBED))
    return code.programs() - _NO_PACKAGE


def test_a_user_has_what_percale_and_the_demo_start() -> None:
    demo = in_shell((ROOT / "scripts/demo").read_text(), functions=("say", "typed", "denied"))
    started = _started("src") | demo - _NO_PACKAGE
    assert {"ip", "nft", "tcpdump", "wget"} <= started
    assert started - _named("user") == _THERE_WHEN_STARTED, "name their packages in scripts/system-packages"


def test_the_tests_and_benchmarks_have_what_they_start() -> None:
    started = _started("src", "tests", "bench", "docs")
    assert {"conntrack", "curl", "iperf3", "kill", "ping", "ss", "sysctl", "tc", "wrk"} <= started
    assert started - _named("user", "tests") == set(), "name their packages in scripts/system-packages, below `tests`"


def test_a_testbed_has_what_it_starts_and_puts_into_images() -> None:
    named = _named("user", "tests", "cluster")
    assert {*PROGRAMS, *TOOLS} - named == set(), "name their packages in scripts/system-packages, below `cluster`"


def test_no_package_is_a_users_and_the_tests() -> None:
    assert _named("user") & _named("tests") == set()
    assert _named("user", "tests") & _named("cluster") == set()


@pytest.mark.parametrize(
    "text",
    [
        'subprocess.run(["strange", "-x"], check=True)',
        'def sh(space, *command):\n    subprocess.run(["nsenter", f"--net={space}", *command])\nsh("n1", "strange")',
        'class A:\n    def run(self, *words):\n        subprocess.run(words)\nA().run("strange", "1")',
        'def at(line):\n    subprocess.run(["bash", "-ec", line])\nat(f"cd /; X={1} nft list | timeout 1 strange {2}")',
        'def f():\n    command = [*inside(), "strange"]\n    subprocess.Popen(command)',
        'subprocess.run(["ip", "netns", "exec", "n1", "unshare", "-m", "sh", "-c", "true && echo $(strange)"])',
        'percale("lab", "exec", "pod", "--", "strange", "--flag")',
        'asyncio.create_subprocess_exec("strange", "-x")',
        'shutil.which("strange")',
    ],
)
def test_a_program_is_found_however_it_is_started(text: str) -> None:
    assert "strange" in Code([text]).programs()
    assert "stranger" in Code([text.replace("strange", "stranger")]).programs()


def test_words_that_are_no_program_are_not_taken_for_one() -> None:
    text = 'def ip(*words):\n    subprocess.run(["ip", *words])\nip("link", "show")\nother(["address"])'
    assert Code([text]).programs() == {"ip"}
