"""Store addresses: `kubernetes:`, `kubernetes:/KUBECONFIG`, `kubernetes:/KUBECONFIG?context=NAME`. Read by `store.py`.

Every agent imports this module, for the form of an address: it imports no HTTP client.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from percale.errors import BadConfig
from percale.suggestion import did_you_mean

PREFIX = "flannel.alpha.coreos.com"
"""Of flannel's annotations, unless configured."""
FORM = "kubernetes:[/KUBECONFIG][?context=NAME]"


class Address(Struct, frozen=True, kw_only=True, rename={"annotation_prefix": "annotation-prefix"}):
    """`kubeconfig` None: this process is in a pod of the cluster."""

    kubeconfig: Path | None = None
    context: str | None = None
    annotation_prefix: str = PREFIX


def parse_address(rest: str) -> Address:
    """What comes after `kubernetes:`. Raises BadConfig."""
    path, _, query = rest.partition("?")
    if path and not path.startswith("/"):
        raise BadConfig(f'"{path}" is not an absolute path', where="store", hint=f"write {FORM}")
    options = dict(parse_qsl(query, keep_blank_values=True))
    known = [field.encode_name for field in msgspec.structs.fields(Address) if field.name != "kubeconfig"]
    for name, value in options.items():
        if name not in known:
            hint = did_you_mean(name, known) or f"there is {' and '.join(known)}"
            raise BadConfig(f'unknown option "{name}"', where="store", hint=hint)
        if not value:
            raise BadConfig(f"{name} is empty", where="store", hint=f"write {FORM}")
    if options.get("context") and not path:
        raise BadConfig("a context needs a kubeconfig", where="store", hint=f"write {FORM}")
    return Address(
        kubeconfig=Path(path) if path else None,
        context=options.get("context"),
        annotation_prefix=options.get("annotation-prefix", PREFIX),
    )
