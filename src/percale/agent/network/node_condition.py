"""Tells the cluster that this node can serve pods: the condition NetworkUnavailable of its Node. Run by `own_networking.py`.

Where a cloud has set it to True, no pod is scheduled on the node until its network says otherwise. A Node without any condition
has no kubelet that reports (a lab's, a hand-written one) and is left as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime

from msgspec.structs import replace

from percale.agent.informer import Change, Subscription, retry_until_available
from percale.agent.problems import Problems
from percale.errors import Conflict
from percale.model.condition import Condition
from percale.model.meta import ObjectKey, timestamp
from percale.model.node import Node
from percale.store.protocol import Deleted, Snapshot, Store

_TYPE = "NetworkUnavailable"
_REASON = "FlannelIsUp"
"""flannel's: tools know it."""


class NodeCondition:
    """All methods are called on the event loop."""

    def __init__(self, node: str, store: Store, changes: Subscription, problems: Problems) -> None:
        """`changes` of Nodes."""
        self._key = ObjectKey(None, node)
        self._store = store
        self._changes = changes
        self._problems = problems
        self.ready = asyncio.Event()
        """The node can serve pods."""

    async def run(self) -> None:
        """Once ready, and again whenever the Node does not say it, until cancelled."""
        await self.ready.wait()
        await self._changes.run(self._on_change)

    async def _on_change(self, event: Change) -> None:
        if isinstance(event, Deleted):
            return
        if isinstance(event, Snapshot) or (event.object.key == self._key and _to_report(event.object)):
            await retry_until_available(self._report, self._problems)

    async def _report(self) -> None:
        """The Node as it is now: the one of the event may be old."""
        while (node := await self._store.get(Node, self._key)) is not None and _to_report(node):
            status = replace(node.status, conditions=_with_ours(node.status.conditions))
            with suppress(Conflict):  # the kubelet reports at any moment
                await self._store.put(replace(node, status=status), expect=node.metadata.resourceVersion)


def _with_ours(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    now = timestamp(datetime.now(UTC))
    ours = Condition(type=_TYPE, status="False", reason=_REASON, message="Percale serves pods", lastTransitionTime=now)
    return (*(each for each in conditions if each.type != _TYPE), ours)


def _to_report(node: object) -> bool:
    assert isinstance(node, Node)
    conditions = node.status.conditions
    return bool(conditions) and not any(each.type == _TYPE and each.status == "False" for each in conditions)
