"""What people write: manifests, a lab, policy tests, networks, configurations. See `dump.py` for what holds.

`make fuzz MINUTES=10` goes on with other documents for so long; `make check` tries a few.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.inputs.mutating import odd_documents, odd_values
from tests.unit.inputs.reading import command, fuzzed, refused_in_words, scratch
from tests.unit.inputs.valid import (
    CASES,
    CONFIGURATION,
    FLANNEL,
    MANIFESTS,
    NETWORK,
    NODE,
    PLANS,
    POD,
    QUESTION,
    SERVICE,
    SLICE,
)

from percale.agent.config import loader
from percale.backend.registry import make_backend
from percale.cni import conflist
from percale.controllers import control_loop
from percale.controllers.admission import admit
from percale.controllers.service_networks import ServiceNetworks
from percale.explain.policy_tests.cases import decode_cases, in_sequence
from percale.explain.policy_tests.runner import try_offline
from percale.lab.run_dir import LabDir
from percale.lab.spec.input import read_input, read_objects
from percale.lab.spec.service_networks import service_networks
from percale.lab.spec.topology import topology
from percale.model.manifest.decode import decode_manifest, from_json
from percale.model.manifest.encode import to_json
from percale.model.meta import Object
from percale.model.netconf import network_config, parse_network_config
from percale.store.object_cache import ObjectCache

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")  # long documents

# Manifests


@fuzzed
@given(odd_documents(PLANS))
def test_address_plans(data: bytes) -> None:
    with refused_in_words(), scratch() as directory:
        (directory / "plan.yaml").write_bytes(data)
        command("plan", "check", str(directory / "plan.yaml"))


@fuzzed
@given(odd_documents(MANIFESTS), st.sampled_from(("m.yaml", "m.json")))
def test_manifests(data: bytes, name: str) -> None:
    with refused_in_words():
        for obj in decode_manifest(data, name).objects:
            assert from_json(to_json(obj), type(obj)) == obj


@fuzzed
@given(odd_documents(MANIFESTS))
def test_what_a_lab_is_given(data: bytes) -> None:
    with refused_in_words():
        text = data.decode(errors="replace")
        asked = read_input([("m.yaml", text)])
        pods = network_config(asked.network).networks
        machines = topology(asked.lab, pods)
        networks = service_networks(asked.lab, machines, pods, "the lab")
        run_cluster((each.object for each in admit(asked.found, (), networks)), networks)
    with refused_in_words():
        read_objects([("m.yaml", text)], "default", LabDir("lab", Path("/nowhere")))


def run_cluster(objects: Iterable[Object], networks: ServiceNetworks) -> None:
    """What the lab's controller makes of them, in a few passes."""
    cache = ObjectCache()
    for obj in objects:
        cache.put(obj)
    for _ in range(3):
        for write in control_loop.plan(cache, (), networks).writes:
            (cache.remove if type(write).__name__ == "Delete" else cache.put)(write.object)
            assert to_json(write.object)


@fuzzed
@given(
    odd_documents(MANIFESTS), st.sampled_from((("policy", "check"), ("service", "check"), ("service", "list", "-f")))
)
def test_commands_that_look_at_manifests(data: bytes, words: tuple[str, ...]) -> None:
    with scratch() as directory:
        (directory / "m.yaml").write_bytes(data)
        command(*words, str(directory / "m.yaml"))


@fuzzed
@given(odd_documents([{"apiVersion": "v1", "kind": "List", "items": [NODE, POD, SERVICE, SLICE]}]))
def test_commands_that_explain(data: bytes) -> None:
    with scratch() as directory:
        (file := directory / "m.yaml").write_bytes(data)
        command("matrix", str(file))
        command("why", "default/a", "svc/default/web:80", "-f", str(file))
        command("service", "show", "web", "-f", str(file))


@fuzzed
@given(st.lists(odd_documents([QUESTION], ["json"]), max_size=5))
def test_lines_of_a_batch(lines: Sequence[bytes]) -> None:
    with scratch() as directory:
        file = directory / "m.json"
        file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [NODE, POD, SERVICE, SLICE]}))
        command("service", "resolve", "--batch", "-", "-f", str(file), stdin=b"\n".join(lines))


@fuzzed
@given(odd_documents(CASES))
def test_policy_tests(data: bytes) -> None:
    with refused_in_words():
        for sequence in in_sequence(decode_cases(data, "case.yaml")):
            list(try_offline(sequence))


# Networks and configuration


@fuzzed
@given(odd_documents([NETWORK], ["json", "lines"]))
def test_network_configurations(data: bytes) -> None:
    with refused_in_words():
        network = parse_network_config(data.decode(errors="replace"))
        make_backend(network)


@fuzzed
@given(odd_documents([FLANNEL, conflist.conflist("routed")], ["json", "lines"]))
def test_conflists(data: bytes) -> None:
    text = data.decode(errors="replace")
    with refused_in_words():
        json.dumps(conflist.from_flannel(text, "cni-conf.json"))
    with refused_in_words():
        conflist.wiring_of(text, "cni-conf.json")


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")  # of odd regular expressions
@fuzzed
@given(odd_documents([CONFIGURATION]), odd_values, st.data())
def test_agent_configurations(data: bytes, flag: Any, more: st.DataObject) -> None:
    variable = loader.environment_name(more.draw(st.sampled_from(sorted(loader.TYPES))))
    text = more.draw(odd_documents([NETWORK, "eth0,eth1", "1", [], 7], ["json"])).decode("utf-8", "surrogateescape")
    name = more.draw(st.sampled_from(sorted(loader.TYPES)))
    with scratch() as directory:
        (directory / "agent.yaml").write_bytes(data)
        with refused_in_words():
            use(loader.load(directory / "agent.yaml", {}, {}))
    with refused_in_words():
        use(loader.load(None, {variable: text}, {"store": "files:/x"}))
    with refused_in_words():
        use(loader.load(None, {}, {"store": "files:/x", name: flag}))


def use(config: Any) -> None:
    """As an agent would."""
    network = network_config(config.network if config.network is not None else NETWORK, "network")
    loader.service_config(config, network)
    make_backend(network)
