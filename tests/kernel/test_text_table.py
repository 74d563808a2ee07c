"""A table that nft loads as a whole: what is told of it, and what it holds."""

from __future__ import annotations

import pytest
from tests.kernel.conftest import Space
from tests.waiting import eventually

from percale.kernel.netns import NetnsThread
from percale.kernel.nftables.event_subscriptions import EventSubscriptions
from percale.kernel.nftables.text_table import TextTable
from percale.render.nft.objects import TableName

FLOWS = "set flows { type ipv4_addr; flags timeout; timeout 1h; }"
PATIENCE = 30


async def test_a_removed_table_is_told_and_a_replaced_one_is_there(space: Space) -> None:
    lines: list[str] = []
    table = TextTable(
        TableName("netdev"),
        log_command=lines.append,
        subscriptions=EventSubscriptions(),
        netns=NetnsThread(space.descriptor),
    )
    told: list[None] = []
    table.on_foreign_change(lambda: told.append(None))
    await table.start()
    assert not await table.exists()
    await table.load(FLOWS)
    await eventually(lambda: told)
    assert await table.exists()
    await table.load(f"{FLOWS}\nset more {{ type mark; }}")
    assert await table.exists()
    assert "more" in space.run("nft", "list", "table", "netdev", "percale")
    told.clear()
    space.run("nft", "table netdev other; delete table netdev other; table ip percale; delete table ip percale")
    space.run("nft", "delete table netdev percale")
    await eventually(lambda: told)
    assert not await table.exists()
    await table.load(FLOWS)
    space.run("nft", "add element netdev percale flows { 10.0.0.1 }")
    await table.flush(["flows"])
    assert "10.0.0.1" not in space.run("nft", "list", "table", "netdev", "percale")
    with pytest.raises(OSError, match="syntax error"):
        await table.load("nonsense")
    assert await table.exists()
    await table.remove()
    await table.remove()
    assert not await table.exists()
    assert lines[-1] == "nft 'delete table netdev percale'"
    assert (
        lines[0] == f"nft -f - <<'END'\ntable netdev percale\ndelete table netdev percale\n"
        f"table netdev percale {{\n{FLOWS}\n}}\nEND"
    )
    await table.stop()
