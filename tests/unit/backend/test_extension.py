"""The extension backend's commands: a script writes down how it was called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from percale.backend.extension import commands
from percale.backend.extension.backend import ExtensionBackend
from percale.backend.protocol import LocalNode
from percale.errors import StateError
from percale.model.backend_options import ExtensionOptions
from percale.model.ip_family import Family
from percale.model.subnet_lease import SubnetLease

Peer = Callable[..., SubnetLease]

SCRIPT = """#!/bin/sh
read input
echo "$* $input" >> "$(dirname "$0")/calls"
[ ! -e "$(dirname "$0")/broken-$2" ] || { echo "no way to $2" >&2; exit 1; }
echo "printed $1"
"""


class Node:
    """`life` is an agent that starts; `calls` are those since it was asked last."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        script = directory / "do"
        script.write_text(SCRIPT)
        script.chmod(0o755)
        self.options = ExtensionOptions(
            f"{script} pre",
            f"{script} post $SUBNET ${{PUBLIC_IP}} $IPV6SUBNET",
            f"{script} add $SUBNET '$PUBLIC_IP $PUBLIC_IPV6'",
            f"{script} remove $SUBNET",
        )

    def life(self) -> ExtensionBackend:
        backend = ExtensionBackend(self.options)
        state = self.directory / "state"
        state.mkdir(exist_ok=True)
        backend.load(state)
        return backend

    def calls(self) -> list[str]:
        path = self.directory / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines


@pytest.fixture
def calling(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def ensure(backend: ExtensionBackend, node: LocalNode, *leases: SubnetLease) -> None:
    assert backend.process is not None
    await backend.process.ensure(node, leases)


@pytest.fixture
def theirs(peer: Peer) -> Peer:
    return lambda number, **changes: peer(
        number, **{"backendType": "extension", "backendData": f"said by {number}", "backendV6Data": None, **changes}
    )


TWO = "add 10.244.2.0/24 192.0.2.2 2001:db8::2 said by 2"


async def test_each_command_runs_once_with_flannels_variables(calling: Node, node: LocalNode, theirs: Peer) -> None:
    backend = calling.life()
    assert backend.lease_data(node) == dict.fromkeys(Family, "printed pre")
    await ensure(backend, node, theirs(2))
    await ensure(backend, node, theirs(2), theirs(3))
    assert calling.calls() == [
        "pre ",
        "post 10.244.1.0/24 192.0.2.1 fd00:0:0:1::/64 ",
        TWO,
        "add 10.244.3.0/24 192.0.2.3 2001:db8::3 said by 3",
    ]


async def test_a_restart_runs_what_changed_meanwhile(calling: Node, node: LocalNode, theirs: Peer) -> None:
    await ensure(calling.life(), node, theirs(2), theirs(3), theirs(4))
    calling.calls()
    again = calling.life()
    assert again.lease_data(node) == dict.fromkeys(Family, "printed pre")
    await ensure(again, node, theirs(2), theirs(3, backendData="now this"))
    assert calling.calls() == [
        "remove 10.244.3.0/24 said by 3",
        "add 10.244.3.0/24 192.0.2.3 2001:db8::3 now this",
        "remove 10.244.4.0/24 said by 4",
    ]


async def test_after_a_reboot_all_is_run_again_and_nothing_undone(
    calling: Node, node: LocalNode, theirs: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ensure(calling.life(), node, theirs(2), theirs(3))
    calling.calls()
    monkeypatch.setattr(commands, "boot_id", lambda: "another")
    await ensure(calling.life(), node, theirs(2))
    assert calling.calls() == ["pre ", "post 10.244.1.0/24 192.0.2.1 fd00:0:0:1::/64 ", TWO]


async def test_another_backend_has_peers_undone(calling: Node, node: LocalNode, theirs: Peer) -> None:
    await ensure(calling.life(), node, theirs(2))
    calling.calls()
    calling.options = ExtensionOptions()
    last = calling.life()
    assert last.process is not None
    await last.process.stop()
    assert calling.calls() == ["remove 10.244.2.0/24 said by 2"]


async def test_a_command_that_fails_is_told_and_tried_again_and_the_others_run(
    calling: Node, node: LocalNode, theirs: Peer
) -> None:
    backend, broken = calling.life(), calling.directory / "broken-10.244.2.0"
    script = calling.options.subnet_add_command.split()[0]
    calling.options = replace(calling.options, subnet_add_command=f"{script} add 10.244.2.0")
    backend = calling.life()
    broken.touch()
    with pytest.raises(StateError, match=r"^Backend.Type extension: .*/do add 10.244.2.0: no way to 10.244.2.0$"):
        await ensure(backend, node, theirs(2), theirs(3))
    assert [line for line in calling.calls() if line.startswith("add")] == [
        "add 10.244.2.0 said by 2",
        "add 10.244.2.0 said by 3",
    ]
    broken.unlink()
    await ensure(backend, node, theirs(2), theirs(3))
    assert len(calling.calls()) == 2


async def test_what_cannot_be_undone_is_told_once(calling: Node, node: LocalNode, theirs: Peer) -> None:
    calling.options = replace(calling.options, subnet_remove_command="false")
    backend = calling.life()
    await ensure(backend, node, theirs(2))
    with pytest.raises(StateError, match="false: exit code 1"):
        await ensure(backend, node)
    await ensure(backend, node)


@pytest.mark.parametrize(
    ("command", "reason"),
    [("sleep 60", "it takes more than 0 s"), ("/nowhere/at-all", "/nowhere/at-all: No such file or directory")],
)
def test_a_command_that_hangs_or_is_not_there(
    calling: Node, command: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_TIMEOUT", 0.2)
    calling.options = ExtensionOptions(command)
    with pytest.raises(StateError, match=reason):
        calling.life()


async def test_what_a_peer_says_is_input_and_never_a_word(calling: Node, node: LocalNode, theirs: Peer) -> None:
    backend = calling.life()
    await ensure(backend, node, theirs(2, backendData="$(touch hacked); $SUBNET"))
    assert calling.calls()[-1] == "add 10.244.2.0/24 192.0.2.2 2001:db8::2 $(touch hacked); $SUBNET"


async def test_commands_that_are_not_given_are_not_run(calling: Node, node: LocalNode, theirs: Peer) -> None:
    calling.options = ExtensionOptions()
    backend = calling.life()
    await ensure(backend, node, theirs(2))
    await ensure(backend, node)
    assert backend.lease_data(node) == {}
    assert calling.calls() == []
