"""Store addresses: `kubernetes:`, `kubernetes:/KUBECONFIG`, `kubernetes:/KUBECONFIG?context=NAME`. Read by `store.py`.

Every agent imports this module, for the form of an address: it imports no HTTP client.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from percale.errors import BadConfig
from percale.store.address_options import address_options

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
    known = [field.encode_name for field in msgspec.structs.fields(Address) if field.name != "kubeconfig"]
    options = address_options(query, known, FORM)
    if options.get("context") and not path:
        raise BadConfig("a context needs a kubeconfig", where="store", hint=f"write {FORM}")
    return Address(
        kubeconfig=Path(path) if path else None,
        context=options.get("context"),
        annotation_prefix=options.get("annotation-prefix", PREFIX),
    )
