"""Which keys an object has, and what objects keys mean. Used by `contents.py` and `store.py`.

PREFIX/percale/objects/Pod/shop/web-1      an object's JSON; without a namespace: …/Node/n1
PREFIX/config, PREFIX/subnets/…            flannel's (`flannel_format.py`)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias
from urllib.parse import quote, unquote

import msgspec

from percale.errors import BadManifest
from percale.model.configmap import ConfigMap
from percale.model.kinds import Kinds
from percale.model.manifest.decode import with_namespace
from percale.model.meta import Object, ObjectKey
from percale.model.subnet_lease import SubnetLease, lease_name
from percale.store.decode import decode_object
from percale.store.encoded_object import encode
from percale.store.etcd import flannel_format
from percale.store.etcd.messages import KeyValue
from percale.store.versioning import unversioned

Identity: TypeAlias = tuple[type[Object], ObjectKey]


class Layout:
    """Of one prefix, without a slash at its end."""

    def __init__(self, prefix: str, kinds: Kinds) -> None:
        self.prefix = prefix.encode() + b"/"
        self._kinds = kinds
        self._config = self.prefix + b"config"
        self._subnets = self.prefix + b"subnets/"
        self._holders = self.prefix + b"percale/leases/"
        self._objects = self.prefix + b"percale/objects/"

    def prefixes(self, kind: type[Object]) -> tuple[bytes, ...]:
        """All keys of this kind begin with one of them."""
        if kind is SubnetLease:
            return (self._subnets, self._holders)
        own = self._objects + kind.KIND.encode() + b"/"
        return (own, self._config) if kind is ConfigMap else (own,)

    def identity(self, key: bytes) -> Identity | None:
        """The object that this key is about; None for a key that is none of ours. Raises BadManifest."""
        if key == self._config:
            return ConfigMap, flannel_format.NETWORK
        for prefix in (self._subnets, self._holders):
            if key.startswith(prefix):
                lease = flannel_format.lease_key(key[len(prefix) :].decode(errors="replace"))
                return SubnetLease, ObjectKey(None, lease.name)
        if not key.startswith(self._objects):
            return None
        name, *rest = key[len(self._objects) :].decode(errors="replace").split("/")
        kind = self._kinds.get(name)
        if kind is None:
            return None
        if len(rest) != 1 + kind.NAMESPACED:
            raise BadManifest(f"not the key of a {name}")
        *namespace, name = map(unquote, rest)
        return kind, ObjectKey(namespace[0] if namespace else None, name)

    def keys(self, identity: Identity) -> tuple[bytes, ...]:
        """Where it is, the key that says that it exists first. Raises BadManifest."""
        kind, key = identity
        if kind is SubnetLease:
            text = flannel_format.lease_key_of_name(key.name).text.encode()
            return self._subnets + text, self._holders + text
        if identity == (ConfigMap, flannel_format.NETWORK):
            return (self._config,)
        parts = [kind.KIND, *(quote(part, safe="") for part in key if part is not None)]
        return (self._objects + "/".join(parts).encode(),)

    def values(self, obj: Object) -> Mapping[bytes, bytes]:
        """What is written for it. Raises BadManifest."""
        keys = self.keys((type(obj), obj.key))
        match obj:
            case SubnetLease():
                if obj.metadata.name != lease_name(obj.spec.subnets):
                    raise BadManifest(
                        f"SubnetLease {obj.key}: its subnets are {obj.spec.subnets}", hint="name it by them"
                    )
                return dict(zip(keys, (flannel_format.lease_value(obj), flannel_format.holder_value(obj)), strict=True))
            case ConfigMap() if obj.key == flannel_format.NETWORK:
                return {keys[0]: flannel_format.network_value(obj)}
        return {keys[0]: encode(unversioned(obj)).content}

    def grouped(
        self, listed: Iterable[KeyValue]
    ) -> tuple[dict[Identity, dict[bytes, KeyValue]], dict[bytes, BadManifest]]:
        """The keys of each object, and why others are none of any."""
        found: dict[Identity, dict[bytes, KeyValue]] = {}
        errors: dict[bytes, BadManifest] = {}
        for each in listed:
            try:
                identity = self.identity(each.key)
            except BadManifest as error:
                errors[each.key] = error
                continue
            if identity is not None:
                found.setdefault(identity, {})[each.key] = each
        return found, errors

    def decoded(self, identity: Identity, found: Mapping[bytes, KeyValue]) -> Object | None:
        """The object of these keys, None if it does not exist. Raises BadManifest."""
        kind, key = identity
        first, *others = self.keys(identity)
        entry = found.get(first)
        if entry is None:
            return None
        if kind is SubnetLease:
            holder = found.get(others[0])
            lease_key = flannel_format.lease_key_of_name(key.name)
            return flannel_format.lease_of(
                lease_key, entry.value, holder.value if holder else None, reserved=not entry.lease
            )
        if first == self._config:
            return flannel_format.network_of(entry.value)
        try:
            obj = with_namespace(decode_object(entry.value, kind))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise BadManifest(f"not a {kind.KIND}: {error}") from error
        if obj.key != key:
            raise BadManifest(f"this is {kind.KIND} {obj.key}")
        return obj
