"""YAML as kubectl shows it, and as every YAML reader takes it for the same texts."""

from __future__ import annotations

import pytest
import yaml

from percale.model.configmap import ConfigMap
from percale.model.manifest.decode import decode_manifest
from percale.model.manifest.encode import to_plain
from percale.model.manifest.yaml_writer import plain_to_yaml
from percale.model.meta import ObjectMeta


def _yaml(data: dict[str, str]) -> str:
    return plain_to_yaml(to_plain(ConfigMap(metadata=ObjectMeta(name="a"), data=data)))


def test_kind_comes_first() -> None:
    assert _yaml({"x": "1"}).startswith("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n")


@pytest.mark.parametrize("text", ["y", "N", "1e3", "08", "0o17", "true", "null", "12", "1.5", "0x1f", "~"])
def test_ambiguous_texts_are_quoted(text: str) -> None:
    written = _yaml({"k": text})
    assert written.endswith(f"k: '{text}'\n")


@pytest.mark.parametrize("space", ["\u00a0", "\u2003", "\u200b", "\u3000"])
def test_a_key_that_begins_with_a_space_that_is_none_is_read_again(space: str) -> None:
    obj = ConfigMap(metadata=ObjectMeta(name="a", namespace="default", annotations={space: ""}))
    assert [entry.object for entry in decode_manifest(plain_to_yaml(to_plain(obj)).encode(), "a.yaml").entries] == [obj]


def test_a_long_text_is_a_block() -> None:
    written = _yaml({"k": "one\ntwo: 2\n"})
    assert written.endswith("  k: |\n    one\n    two: 2\n")
    assert yaml.safe_load(written)["data"] == {"k": "one\ntwo: 2\n"}
