"""The kinds of policies. The evaluator, the linter and the controller take them as a value, so that tests can add their own."""

from __future__ import annotations

from typing import Any

from percale.model.meta import Object, ObjectKey
from percale.policy.compiled_policy import PolicyKey
from percale.policy.kinds.cluster_network_policy import ClusterNetworkPolicyKind
from percale.policy.kinds.network_policy import NetworkPolicyKind
from percale.policy.kinds.policy_kind import PolicyKind


class PolicyKinds:
    """Kinds by object type and by prefix."""

    def __init__(self, *kinds: PolicyKind[Any]) -> None:
        self._by_type: dict[type[Object], PolicyKind[Any]] = {each.object_type: each for each in kinds}
        self._by_prefix = {each.prefix: each for each in kinds}

    @property
    def object_types(self) -> tuple[type[Object], ...]:
        """The API objects that are policies."""
        return tuple(self._by_type)

    def of(self, object_type: type[Object]) -> PolicyKind[Any] | None:
        """The kind of this API object; None if it is no policy."""
        return self._by_type.get(object_type)

    def of_policy(self, key: PolicyKey) -> PolicyKind[Any]:
        return self._by_prefix[key.prefix]

    def key(self, policy: Object) -> PolicyKey:
        """The key of an API object that is a policy."""
        return self._by_type[type(policy)].key(policy.key)

    def object_key(self, key: PolicyKey) -> tuple[type[Object], ObjectKey]:
        """The API object that is this policy."""
        return self.of_policy(key).object_type, ObjectKey(key.namespace, key.name)


POLICY_KINDS = PolicyKinds(NetworkPolicyKind(), ClusterNetworkPolicyKind())
