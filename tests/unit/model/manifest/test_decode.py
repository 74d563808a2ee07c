"""Manifests become objects: both formats, lists, namespaces, nulls, and what is left out."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from percale.errors import BadManifest
from percale.model.configmap import ConfigMap
from percale.model.kinds import KINDS, kinds_of
from percale.model.manifest import yaml_reader as reading_yaml
from percale.model.manifest.decode import Manifest, decode_manifest
from percale.model.manifest.written_objects import WrittenObjects
from percale.model.meta import Object, ObjectKey, ObjectMeta
from percale.model.namespace import Namespace
from percale.model.networkpolicy import NetworkPolicy
from percale.model.node import Node
from percale.model.pod import Pod
from percale.model.service import Service


def pod(name: str = "web", **more: Any) -> dict[str, Any]:
    spec = {"containers": [{"name": "c", "image": "nginx", "ports": [{"containerPort": 80}]}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec, **more}


def decode(text: str, file: str = "a.yaml") -> Manifest:
    return decode_manifest(text.encode(), file)


def only(manifest: Manifest) -> Any:
    assert len(manifest.entries) == 1
    return manifest.entries[0].object


@pytest.mark.parametrize("file", ["a.json", "a.yaml", "-"])
def test_json_and_yaml_are_the_same(file: str) -> None:
    text = json.dumps(pod()) if file != "a.yaml" else yaml.safe_dump(pod())
    found = only(decode(text, file))
    assert isinstance(found, Pod)
    assert found.key == ObjectKey("default", "web")
    assert found.spec.containers[0].ports[0].containerPort == 80


def test_documents_keep_their_lines() -> None:
    manifest = decode("# mine\n\n---\n---\n" + yaml.safe_dump(pod("a")) + "---\n" + yaml.safe_dump(pod("b")) + "...\n")
    assert [(each.object.metadata.name, each.source.line) for each in manifest.entries] == [("a", 5), ("b", 16)]


@pytest.mark.parametrize("kind", ["List", "PodList"])
@pytest.mark.parametrize("as_json", [True, False])
def test_lists(kind: str, as_json: bool) -> None:
    items = [pod("a"), pod("b")]
    if kind == "PodList":
        for item in items:
            del item["kind"], item["apiVersion"]
    document = {"apiVersion": "v1", "kind": kind, "items": items}
    text = json.dumps(document) if as_json else yaml.safe_dump(document, sort_keys=False)
    manifest = decode(text)
    assert [each.object.metadata.name for each in manifest.entries] == ["a", "b"]
    assert [each.source.item for each in manifest.entries] == [0, 1]
    if not as_json:
        starts = [number for number, line in enumerate(text.splitlines(), 1) if line.startswith("- ")]
        assert [each.source.line for each in manifest.entries] == starts


@pytest.mark.parametrize("text", ["", "\n", "---\n", "# nothing\n", "---\n---\n", "null\n"])
def test_nothing(text: str) -> None:
    assert decode(text) == Manifest()
    assert decode(text.replace("---", "").replace("# nothing", "").replace("null", ""), "a.json") == Manifest()


def test_unknown_fields_are_left_out() -> None:
    found = only(decode(yaml.safe_dump(pod(spec={"containers": [], "tolerations": [{"key": 1}], "x": {"y": []}}))))
    assert found.spec.containers == ()


def test_unknown_kinds_are_skipped_and_said() -> None:
    text = "apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: g}\n---\n" + yaml.safe_dump(pod())
    for each in (
        decode(text),
        decode(json.dumps({"apiVersion": "v1", "kind": "List", "items": list(yaml.safe_load_all(text))})),
    ):
        assert [obj.metadata.name for obj in each.objects] == ["web"]
        assert "Gadget of example.com/v1 is not known here" in str(each.skipped[0])


@pytest.mark.parametrize("as_json", [True, False])
def test_a_known_kind_of_another_version_is_an_error(as_json: bool) -> None:
    document = {"kind": "Deployment", "apiVersion": "extensions/v1beta1", "metadata": {"name": "a"}}
    text = json.dumps(document, indent=1) if as_json else yaml.safe_dump(document, sort_keys=False)
    with pytest.raises(BadManifest) as caught:
        decode(text, "x.json" if as_json else "x.yaml")
    line = "x.json:3" if as_json else "x.yaml:2"
    assert str(caught.value) == (
        f"{line}: apiVersion: Deployment of extensions/v1beta1 is not known here; write apps/v1"
    )


def test_another_room_adds_its_kind() -> None:
    class Gadget(Object, frozen=True, kw_only=True):
        API_VERSION = "example.com/v1"
        KIND = "Gadget"
        NAMESPACED = False

    text = b"apiVersion: example.com/v1\nkind: Gadget\nmetadata: {name: g, namespace: not-for-this}\n"
    found = only(decode_manifest(text, "a", kinds={**KINDS, **kinds_of(Gadget)}))
    assert found == Gadget(metadata=ObjectMeta(name="g"))


def test_namespaces() -> None:
    text = yaml.safe_dump_all(
        [
            pod("a"),
            pod("b", metadata={"name": "b", "namespace": "zoo"}),
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}},
        ]
    )
    manifest = decode_manifest(text.encode(), "a", namespace="mine")
    assert [str(obj.key) for obj in manifest.objects] == ["mine/a", "zoo/b", "n"]


def test_a_namespace_always_has_the_label_with_its_name() -> None:
    space = Namespace(metadata=ObjectMeta(name="zoo", labels={"team": "a"}))
    assert space.labels == {"team": "a", "kubernetes.io/metadata.name": "zoo"}


def test_null_is_not_there() -> None:
    text = """
apiVersion: v1
kind: Pod
metadata:
  name: web
  creationTimestamp: null
  labels:
    node-role:
  annotations: null
spec:
  nodeSelector:
  containers: [{name: c, ports: null, image: null}]
status: null
"""
    for each in (decode(text), decode(json.dumps(yaml.safe_load(text)), "a.json")):
        found = only(each)
        assert found.metadata.labels == {"node-role": ""}
        assert found.metadata.annotations == {}
        assert found.spec.containers[0].ports == ()


def test_an_empty_peer_selector_is_no_selector() -> None:
    text = (
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {ingress: [{from: [%s]}]}\n"
    )
    everybody = only(decode(text % "podSelector: {}"))
    assert isinstance(everybody, NetworkPolicy)
    assert everybody.spec.ingress[0].from_[0].podSelector is not None
    with pytest.raises(BadManifest, match=r"a:4: spec.ingress\[0\].from\[0\]: Required value: must specify a peer"):
        decode(text % "podSelector: null", "a")


def test_what_unquoted_scalars_mean() -> None:
    text = """
apiVersion: v1
kind: ConfigMap
metadata: {name: a}
data:
  date: 2024-01-01
  time: 12:30:45
  mac: 00:11:22:33:44:55
  version: 1.2.3
  y: n
  quoted: "true"
  forced: !!str 80
  block: |
    true
  on: text
  80: text
"""
    data = only(decode(text)).data
    assert data == {
        "date": "2024-01-01", "time": "12:30:45", "mac": "00:11:22:33:44:55", "version": "1.2.3", "y": "n",
        "quoted": "true", "forced": "80", "block": "true\n", "on": "text", "80": "text",
    }  # fmt: skip


@pytest.mark.parametrize(("written", "number"), [("80", 80), ("0x50", 80), ("0120", 80), ("0o120", 80), ("8_0", 80)])
def test_numbers(written: str, number: int) -> None:
    text = f"apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: [{{port: {written}}}]}}\n"
    found = only(decode(text))
    assert isinstance(found, Service)
    assert found.spec.ports[0].port == number


def test_aliases_and_merges() -> None:
    text = """
apiVersion: v1
kind: Pod
metadata: {name: a, labels: &l {app: web}}
spec:
  nodeSelector: {<<: *l, zone: b}
  containers: [&c {name: c, image: nginx}, {<<: *c, name: d}]
"""
    found = only(decode(text))
    assert found.spec.nodeSelector == {"app": "web", "zone": "b"}
    assert [(each.name, each.image) for each in found.spec.containers] == [("c", "nginx"), ("d", "nginx")]


def test_a_mark_at_the_beginning_and_other_line_ends() -> None:
    assert only(decode("\ufeff" + yaml.safe_dump(pod()).replace("\n", "\r\n"))).metadata.name == "web"
    assert only(decode("\ufeff" + json.dumps(pod()), "a.json")).metadata.name == "web"


def test_the_line_of_a_field() -> None:
    text = "# c\n---\n" + yaml.safe_dump(pod("a"), sort_keys=False) + "---\n" + json.dumps(pod("b"), indent=1)
    first, second = decode(text).entries
    written = WrittenObjects([(first.source.file, text)])
    assert written.line(first.source, ("spec", "containers", 0, "ports", 0, "containerPort")) == 12
    assert written.line(second.source, ("metadata", "name")) == 18
    assert written.line(second.source, ("spec", "nothing")) == 20


def test_addresses_of_a_pod_and_networks_of_a_node() -> None:
    found = only(
        decode(yaml.safe_dump(pod(status={"podIP": "10.1.0.2", "podIPs": [{"ip": "10.1.0.2"}, {"ip": "fd00::2"}]})))
    )
    assert list(map(str, found.ips)) == ["10.1.0.2", "fd00::2"]
    assert only(decode(yaml.safe_dump(pod(status={"podIP": "10.1.0.2"})))).ips == found.ips[:1]
    assert only(decode(yaml.safe_dump(pod()))).ips == ()
    node = only(decode("apiVersion: v1\nkind: Node\nmetadata: {name: n}\nspec: {podCIDR: 10.1.0.7/24}\n"))
    assert isinstance(node, Node)
    assert list(map(str, node.pod_cidrs)) == ["10.1.0.0/24"]
    assert not node.ready


def test_policy_types_default_as_in_kubernetes() -> None:
    text = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {%s}\n"
    assert only(decode(text % "")).spec.types == ("Ingress",)
    assert only(decode(text % "egress: [{}]")).spec.types == ("Ingress", "Egress")
    assert only(decode(text % "policyTypes: [Egress]")).spec.types == ("Egress",)


def test_configmap_of_flannel() -> None:
    text = 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata:\n  net-conf.json: |\n    {"Network": "10.1.0.0/16"}\n'
    found = only(decode(text))
    assert isinstance(found, ConfigMap)
    assert json.loads(found.data["net-conf.json"]) == {"Network": "10.1.0.0/16"}


def test_without_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "# c\n" + yaml.safe_dump_all([pod("a"), pod("b")])
    usual = decode(text)
    monkeypatch.setattr(reading_yaml, "Parser", yaml.SafeLoader)
    assert decode(text) == usual
    with pytest.raises(BadManifest, match=r"a\.yaml:2: not valid YAML: special characters are not allowed"):
        decode("a: b\n\x00")
    with pytest.raises(BadManifest, match=r'a\.yaml:2: no colon after "spec"'):
        decode("kind: Pod\nspec {}\nmetadata: {}\n")
