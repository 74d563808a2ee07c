"""Where the net-conf.json comes from."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.silent import silent_problems
from tests.waiting import eventually

from percale.agent.config.settings import AgentConfig
from percale.agent.network.net_conf import configured_network
from percale.agent.problems import Problems
from percale.errors import BadNetworkConfig
from percale.model.configmap import ConfigMap
from percale.model.meta import ObjectKey, ObjectMeta
from percale.store.memory import MemoryStore

BASE = AgentConfig(node="n1", store="files:/unused")


def new_problems() -> Problems:
    return silent_problems()


def config_map(name: str, network: str | None = "10.1.0.0/16") -> ConfigMap:
    data = {"net-conf.json": json.dumps({"Network": network})} if network is not None else {"other": "x"}
    return ConfigMap(metadata=ObjectMeta(name=name, namespace="kube-flannel"), data=data)


async def chosen(store: MemoryStore) -> str:
    async with asyncio.timeout(30):
        return str((await configured_network(BASE, store, new_problems())).networks[0])


async def test_inline_beats_everything() -> None:
    config = AgentConfig(node="n1", store="files:/unused", network={"Network": "10.9.0.0/16"}, networkFile="/nowhere")
    assert str((await configured_network(config, MemoryStore(), new_problems())).networks[0]) == "10.9.0.0/16"


async def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "net-conf.json"
    config = AgentConfig(node="n1", store="files:/unused", networkFile=str(path))
    with pytest.raises(BadNetworkConfig, match=r"net-conf\.json: cannot be read: No such file"):
        await configured_network(config, MemoryStore(), new_problems())
    path.write_text('{"Network": "10.8.0.0/16"}')
    assert str((await configured_network(config, MemoryStore(), new_problems())).networks[0]) == "10.8.0.0/16"


async def test_the_one_config_map_that_has_it() -> None:
    store = MemoryStore()
    await store.put(config_map("other", None))
    await store.put(config_map("kube-flannel-cfg"))
    assert await chosen(store) == "10.1.0.0/16"


async def test_none_and_several_are_waited_out() -> None:
    store, problems = MemoryStore(), new_problems()
    waiting = asyncio.create_task(configured_network(BASE, store, problems))

    async def wait_for_problem(words: str) -> None:
        await eventually(lambda: any(words in problem.error for problem in problems.current.values()))
        assert not waiting.done()

    await wait_for_problem("no ConfigMap with net-conf.json in the store")
    await store.put(config_map("a", None))
    await wait_for_problem("no ConfigMap")
    waiting.cancel()
    await store.put(config_map("b"))
    await store.put(config_map("c", "10.2.0.0/16"))
    waiting = asyncio.create_task(configured_network(BASE, store, problems))
    await wait_for_problem("several ConfigMaps have a net-conf.json: kube-flannel/b, kube-flannel/c")
    await store.delete(ConfigMap, ObjectKey("kube-flannel", "b"))
    async with asyncio.timeout(30):
        assert str((await waiting).networks[0]) == "10.2.0.0/16"
    assert not problems.current


async def test_commands_of_a_config_map_are_refused() -> None:
    """Whoever can write one anywhere would be root on all nodes."""
    store, given = MemoryStore(), {"Network": "10.1.0.0/16", "Backend": {"Type": "extension"}}
    await store.put(replace(config_map("cfg"), data={"net-conf.json": json.dumps(given)}))
    with pytest.raises(BadNetworkConfig, match=r"ConfigMap kube-flannel/cfg .* own files only; pass --network-file"):
        await chosen(store)


async def test_a_bad_one_names_its_config_map() -> None:
    store = MemoryStore()
    await store.put(config_map("cfg", "10.1.0.0/99"))
    with pytest.raises(BadNetworkConfig, match=r'ConfigMap kube-flannel/cfg net-conf\.json: Network: "10\.1\.0\.0/99"'):
        await chosen(store)
