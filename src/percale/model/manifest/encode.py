"""Encodes objects: JSON for stores, plain values for YAML (`yaml_writer.py`)."""

from __future__ import annotations

from typing import Any

import msgspec

from percale.model.meta import Object

_JSON = msgspec.json.Encoder(enc_hook=str, order="deterministic")


def to_json(obj: Object) -> bytes:
    """One line with apiVersion and kind first; equal objects give equal bytes."""
    head = f'{{"apiVersion":"{obj.API_VERSION}","kind":"{obj.KIND}",'.encode()
    return head + _JSON.encode(obj)[1:]  # never empty: metadata is always there


def to_plain(obj: Object) -> dict[str, Any]:
    """As dicts, lists and scalars, apiVersion and kind first."""
    return {"apiVersion": obj.API_VERSION, "kind": obj.KIND, **msgspec.to_builtins(obj, enc_hook=str)}
