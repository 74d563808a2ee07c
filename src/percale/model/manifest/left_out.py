"""Why a document of a kind that Percale does not know is left out, and whether somebody may rely on it. Called by `decode.py`.

A Secret or a StorageClass means nothing to the network. A policy that is not enforced does, and so does a misspelt kind.
"""

from __future__ import annotations

from msgspec import Struct

from percale.model.kinds import Kinds
from percale.suggestion import did_you_mean

_POLICY_KINDS = frozenset(
    {
        "ciliumnetworkpolicy",
        "ciliumclusterwidenetworkpolicy",
        "globalnetworkpolicy",
        "stagednetworkpolicy",
        "stagedglobalnetworkpolicy",
        "stagedkubernetesnetworkpolicy",
        "multinetworkpolicy",
        "adminnetworkpolicy",
        "baselineadminnetworkpolicy",
    }
)
"""Of Cilium, Calico, k8snetworkplumbingwg, and the API that ClusterNetworkPolicy replaces; in small letters."""
_REPLACED = frozenset({"adminnetworkpolicy", "baselineadminnetworkpolicy"})
_POD_MAKERS = {("", "ReplicationController")}
"""By API group: kinds of Kubernetes whose pods are not made here."""
_MISSPELT = 0.88
"""The similarity from which a kind is a misspelt one: IngressClass (0.74) is none, NetworkPolcy is."""


class LeftOut(Struct, frozen=True, gc=False):
    """`reason` follows "KIND of APIVERSION". `matters`: every command that reads the document says so; of a `policy`, those
    on Services alone do not."""

    reason: str
    hint: str | None = None
    matters: bool = False
    policy: bool = False
    pods: bool = False
    """It would have pods: an answer about all pods says that it is left out."""


NOT_KNOWN = LeftOut("is not known here")


def is_foreign(api_version: str, known: str) -> bool:
    """Is it the API of somebody else, who may use a name of Kubernetes: `projectcalico.org/v3`?"""
    group = api_version.rpartition("/")[0]
    return "." in group and not group.endswith(".k8s.io") and group != known.rpartition("/")[0]


def why_left_out(api_version: str, kind: str, kinds: Kinds) -> LeftOut:
    """For a kind that is not among these, or is another API's."""
    lower = kind.casefold()
    known = kinds.get(kind)
    if known is not None and is_foreign(api_version, known.API_VERSION):
        if lower.endswith("networkpolicy"):
            reason = f"has another schema than that of {known.API_VERSION} and is not enforced by Percale"
            return LeftOut(reason, matters=True, policy=True)
        return NOT_KNOWN
    if lower in _REPLACED:
        return LeftOut("is not enforced by Percale", "ClusterNetworkPolicy replaces it", matters=True, policy=True)
    if lower in _POLICY_KINDS or (lower.endswith("networkpolicy") and is_foreign(api_version, "")):
        return LeftOut("is not enforced by Percale", matters=True, policy=True)
    if (api_version.rpartition("/")[0], kind) in _POD_MAKERS:
        return LeftOut("makes no pods here", pods=True)
    siblings = {name: each.PLURAL for name, each in kinds.items() if api_version == each.API_VERSION}
    plural_of = next((name for name, plural in siblings.items() if plural == lower), kind)
    meant = did_you_mean(plural_of, siblings, cutoff=_MISSPELT)
    return LeftOut("is no kind", meant, matters=True) if meant is not None else NOT_KNOWN
