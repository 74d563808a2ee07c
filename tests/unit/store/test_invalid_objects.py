"""An object that the API server would refuse does not come into force: the last good one stays."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace
from tests.unit.store.conftest import upcoming

from percale.model.networkpolicy import NetworkPolicy
from percale.store.files.store import FilesStore
from percale.store.protocol import ReadProblem, Snapshot, Upserted

POLICY = """apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p}
spec:
  ingress:
  - ports: [{port: 80, endPort: 90}]
"""


async def test_an_unknown_field_is_a_problem_of_a_policy_in_force(root: Path, store: FilesStore) -> None:
    file = root / "p.yaml"
    file.write_text(POLICY.replace("  ingress:", "  podselector: {}\n  ingress:"))
    events = store.watch(NetworkPolicy)
    problem, snapshot = [await upcoming(events) for _ in range(2)]
    assert isinstance(problem, ReadProblem)
    assert str(problem.error) == f"{file}:5: spec.podselector: unknown field, left out; did you mean podSelector?"
    assert isinstance(snapshot, Snapshot)
    (policy,) = snapshot.of(NetworkPolicy)
    assert policy.spec.ingress[0].ports[0].endPort == 90
    file.write_text(POLICY.replace("90", "91").replace("  ingress:", "  podselectors: {}\n  ingress:"))
    changed, problem = [await upcoming(events) for _ in range(2)]
    assert isinstance(changed, Upserted)
    assert isinstance(problem, ReadProblem)
    assert "spec.podselectors: unknown field, left out" in str(problem.error)
    file.write_text(POLICY.replace("90", "91"))
    assert await upcoming(events) == ReadProblem(str(file), None)


async def test_what_is_written_into_such_a_file_keeps_the_field(root: Path, store: FilesStore) -> None:
    file = root / "p.yaml"
    file.write_text(POLICY.replace("  ingress:", "  podselector: {}\n  ingress:"))
    (policy,) = await store.list(NetworkPolicy)
    await store.put(replace(policy, metadata=replace(policy.metadata, labels={"a": "b"})))
    assert "podselector: {}" in file.read_text()


async def test_the_last_good_policy_stays(root: Path, store: FilesStore) -> None:
    file = root / "p.yaml"
    file.write_text(POLICY)
    events = store.watch(NetworkPolicy)
    await upcoming(events)
    file.write_text(POLICY.replace("90", "79").replace("80", "0") + "    from: [{}]\n")
    event = await upcoming(events)
    assert isinstance(event, ReadProblem)
    assert str(event.error).splitlines() == [
        f"{file}:6: spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        f"{file}:7: spec.ingress[0].from[0]: Required value: must specify a peer",
    ]
    (policy,) = await store.list(NetworkPolicy)
    assert policy.spec.ingress[0].ports[0].endPort == 90
    file.write_text(POLICY.replace("90", "91"))
    assert {type(await upcoming(events)) for _ in range(2)} == {Upserted, ReadProblem}
