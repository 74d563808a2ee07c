"""What `-f` takes: manifests, a Lab document, and a network in three shapes."""

from __future__ import annotations

from pathlib import Path

import pytest

from percale.errors import BadManifest, BadManifests, BadNetworkConfig
from percale.lab.run_dir import LabDir
from percale.lab.spec.input import read_input, read_objects
from percale.lab.spec.topology import DEFAULT_NETWORK
from percale.model.manifest.files import read

RUNNING = LabDir("b", Path("/nowhere"))
LAB = "apiVersion: percale.io/v1alpha1\nkind: Lab\nmetadata: {name: x}\n"
POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c}]}\n"
EXAMPLES = Path(__file__).parents[4] / "examples"


def test_nothing_is_a_lab_too() -> None:
    given = read_input([])
    assert (given.objects, given.network, given.wiring) == ((), DEFAULT_NETWORK, "routed")


def test_a_bare_net_conf_is_known_by_its_network() -> None:
    for path in sorted(EXAMPLES.glob("net-conf-*.json")):
        assert read_input(read([str(path)]).documents).network["Network"] in (
            "10.20.0.0/16",
            "10.244.0.0/16",
            "172.33.0.0/16",
        )
    with pytest.raises(BadNetworkConfig, match="did you mean"):
        read_input([("n.json", '{"network": "10.0.0.0/16", "Backand": {}}')])


def test_a_config_map_configures_network_and_wiring_and_is_an_object() -> None:
    given = read_input(read([str(EXAMPLES / "kube-flannel-cfg.yaml")]).documents)
    assert given.network["Network"] == "10.20.0.0/16"
    assert given.wiring == "bridge"
    assert [obj.metadata.name for obj in given.objects] == ["kube-flannel-cfg"]


def test_a_lab_document_has_machines_and_network() -> None:
    given = read_input(read([str(EXAMPLES / "lab/two-racks.yaml")]).documents)
    assert given.network["Backend"]["DirectRouting"] is True
    assert given.lab.nodes is not None
    assert [node.name for node in given.lab.nodes] == ["a1", "a2", "b1", "b2"]
    assert given.objects == ()


@pytest.mark.parametrize("path", sorted((EXAMPLES / "lab").glob("*.yaml")), ids=lambda path: path.stem)
def test_examples_can_be_read(path: Path) -> None:
    assert read_input(read([str(path)]).documents).skipped == ()


def test_a_backend_that_no_agent_has_is_refused_where_it_is_written() -> None:
    network = "spec:\n  network: {Network: 10.0.0.0/16, Backend: {Type: gce}}\n"
    with pytest.raises(BadNetworkConfig, match=r'^a:1 spec\.network: Backend\.Type: the cloud backend "gce"'):
        read_input([("a", LAB + network)])


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([("a", LAB), ("b", LAB.replace("{name: x}", "{name: y}"))], "two of them have a Lab document: a:1 and b:1"),
        (
            [("a.json", '{"Network": "10.0.0.0/16"}'), ("b.json", '{"Network": "10.1.0.0/16"}')],
            "two of them have a network configuration: a.json and b.json",
        ),
        ([("a", POD), ("b", POD)], "b:1: Pod default/p is in a:1 too"),
        ([("a", POD.replace("name: p", "name: ../p"))], "a:1: metadata.name: '../p' is not a name"),
        ([("a", LAB + "spec: {nodes: [{name: a, labels: [x]}]}")], "a:4: spec.nodes[0].labels: expected"),
        ([("a", LAB + "spec: {segments: [{name: a, cidr: 10.0.0.0/33}]}")], "a:4: spec.segments[0].cidr: "),
        ([("a", LAB + "spec: {node: []}")], "a:4: spec: unknown field 'node'; did you mean nodes?"),
        (
            [("a", LAB + "spec:\n  hosts:\n  - name: h\n    port: [80]\n")],
            "a:7: spec.hosts[0]: unknown field 'port'; did you mean ports?",
        ),
        ([("a.json", "{]")], "a.json:1"),
    ],
)
def test_refused(documents: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(BadManifest) as refusal:
        read_input(documents)
    assert message in str(refusal.value)


def test_a_running_lab_keeps_its_network_and_machines() -> None:
    with pytest.raises(BadManifest) as network:
        read_objects([("n.json", '{"Network": "10.0.0.0/16"}')], "default", RUNNING)
    assert str(network.value).endswith("network; start another: percale lab up --lab another -f n.json")
    with pytest.raises(BadManifest) as machines:
        read_objects([("l", LAB)], "default", RUNNING)
    assert "machines; use percale lab add-node --lab b NAME and percale lab remove-node --lab b" in str(machines.value)


def test_applied_objects_are_in_the_namespace_that_is_asked_for() -> None:
    secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\n"
    found, skipped = read_objects([("p", POD + secret)], "shop", RUNNING)
    assert [str(each.object.key) for each in found] == ["shop/p"]
    assert len(skipped) == 1
    assert "Secret" in skipped[0]


def test_directories_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.json", "c.yml", ".hidden.yaml", "README.md"):
        (tmp_path / name).write_text(name)
    assert [text for _, text in read([str(tmp_path)]).documents] == ["a.json", "b.yaml", "c.yml"]


def test_what_cannot_be_read_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "good.yaml").write_text(POD)
    (tmp_path / "bin.yaml").write_bytes(b"\n\xff\xfe")
    (tmp_path / "gone.yaml").symlink_to("nowhere")
    (tmp_path / "wrong.yaml").write_text(POD.replace("name: p", "name: 1"))
    given = read([str(tmp_path / "empty"), str(tmp_path / "nothing"), str(tmp_path)])
    expected = [
        f"{tmp_path}/empty: no manifests in this directory; expected *.yaml, *.yml or *.json",
        f"{tmp_path}/nothing: no such file or directory",
        f"{tmp_path}/bin.yaml:2: not UTF-8 text; save the file as UTF-8",
        f"{tmp_path}/gone.yaml: no such file or directory",
    ]
    assert list(map(str, given.faults)) == expected
    with pytest.raises(BadManifests) as caught:
        read_input(given.documents, "strict", given.faults)
    assert caught.value.lines == (
        *expected,
        f'{tmp_path}/wrong.yaml:3: metadata.name: expected a text, got 1; write "1" in quotes',
    )


def test_a_name_that_no_file_has_is_one_fault() -> None:
    assert [str(fault) for fault in read(["a\0b"]).faults] == ["a\\u0000b: no file has a NUL in its name"]
