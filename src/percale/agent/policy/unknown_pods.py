"""Pods of this node whose labels nobody has told: attached while the store is away. Used by `controller.py`.

They are denied whatever a policy of their namespace might deny, until the watch tells them, or the store says what they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from percale.agent.problems import Problems
from percale.backoff import Backoff
from percale.errors import AgentError, BadManifest, StoreError
from percale.model.meta import ObjectKey
from percale.model.pod import Pod

_SOURCE = "unknown pods"
_FIRST_RETRY, _LONGEST_RETRY = 0.5, 10.0
"""Seconds between two questions to the store."""


class UnknownPods:
    """All methods are called on the event loop."""

    def __init__(
        self,
        get: Callable[[ObjectKey], Awaitable[Pod | None]],
        learned: Callable[[ObjectKey, Pod | None], None],
        problems: Problems,
    ) -> None:
        """`learned` is called with the store's answer about a pod that is still unknown; None: it has no such object."""
        self._get = get
        self._learned = learned
        self._problems = problems
        self._pods: dict[ObjectKey, None] = {}
        self._added = asyncio.Event()

    def __contains__(self, pod: ObjectKey) -> bool:
        return pod in self._pods

    def add(self, pod: ObjectKey) -> None:
        self._pods[pod] = None
        self._added.set()
        self._report()

    def discard(self, pod: ObjectKey) -> None:
        """It is known, or gone."""
        if pod in self._pods:
            del self._pods[pod]
            self._report()

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            await self._added.wait()
            self._added.clear()
            backoff = Backoff(_FIRST_RETRY, _LONGEST_RETRY)
            while self._pods:
                await asyncio.sleep(backoff.next())
                await self._ask()

    async def _ask(self) -> None:
        for pod in list(self._pods):
            try:
                found = await self._get(pod)
            except BadManifest:
                continue
            except StoreError:
                return
            if pod in self._pods:
                self.discard(pod)
                self._learned(pod, found)

    def _report(self) -> None:
        first = next(iter(self._pods), None)
        if first is None:
            self._problems.clear(_SOURCE)
            return
        more = f" (and {len(self._pods) - 1} more)" if self._pods.keys() - {first} else ""
        what = f"the labels of {first}{more} are not known: while policies may deny it something, it has no connections"
        self._problems.raise_(_SOURCE, AgentError(what, hint="it has them as soon as the store answers"))
