"""Manifests of several files: everything that is wrong is there, and files that are a net-conf.json are told apart."""

from __future__ import annotations

import pytest

from percale.errors import BadManifest
from percale.model.manifest.load import load_manifests

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c}]}\n"
BAD = "apiVersion: v1\nkind: Pod\nmetadata: {name: 7}\n"
NET_CONF = '{"Network": "10.244.0.0/16"}'


def test_one_bad_file_does_not_hide_the_others() -> None:
    loaded = load_manifests([("a.yaml", BAD), ("b.yaml", POD), ("c.yaml", BAD), ("d.yaml", POD)], namespace="x")
    assert [str(each.object.key) for each in loaded.entries] == ["x/p", "x/p"]
    assert [each.where for each in loaded.faults] == ["a.yaml:1", "a.yaml:3", "c.yaml:1", "c.yaml:3"]
    assert [str(each) for each in loaded.duplicates] == ["d.yaml:1: Pod x/p is in b.yaml:1 too; keep one"]
    with pytest.raises(BadManifest) as raised:
        loaded.valid()
    assert str(raised.value).count("\n") == 4


def test_a_net_conf_among_manifests_is_no_manifest() -> None:
    loaded = load_manifests([("net-conf.json", NET_CONF), ("pod.yaml", POD)]).valid()
    assert loaded.networks == (("net-conf.json", NET_CONF),)
    assert len(loaded.entries) == 1
