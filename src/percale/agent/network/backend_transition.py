"""Has this node be sent to by the new backend once all nodes have both, and reach each other by it.

    Snapshot, Upserted, Deleted ─▶ BackendTransition ─ nobody is behind ─▶ Transition.moved ─▶ lease

`node_network.py` makes one where the net-conf.json has a PreviousBackend.
"""

from __future__ import annotations

from collections.abc import Callable

from percale.agent.informer import Change
from percale.agent.logging import Log
from percale.agent.state import NodeState
from percale.agent.status import OtherBackend
from percale.backend.protocol import Backend, LocalNode
from percale.backend.transition import Transition
from percale.model.subnet_lease import RESERVED, SubnetLease
from percale.store.protocol import Deleted, Snapshot, Upserted


def resume(backend: Backend, state: NodeState) -> None:
    """By which one peers reach this node: as they did when its last agent ended. Raises StateError."""
    if isinstance(backend, Transition):
        backend.moved = state.backend == backend.parts[1].type
    else:
        state.save_backend(backend.type)


class BackendTransition:
    """All methods are called on the event loop."""

    def __init__(
        self,
        transition: Transition,
        node: Callable[[], LocalNode],
        state: NodeState,
        log: Log,
        on_moved: Callable[[], None],
    ) -> None:
        self._transition = transition
        self._node = node
        self._state = state
        self._log = log
        self._on_moved = on_moved
        self._behind: dict[str, str] = {}
        """The nodes that this one cannot send to by the new backend, and why, by the names of their leases."""

    def on_lease(self, event: Change) -> None:
        """A lease was created, changed or deleted. Raises StateError."""
        match event:
            case Snapshot():
                self._behind.clear()
                for lease in event.of(SubnetLease):
                    self._note(lease)
            case Upserted(object=SubnetLease() as lease):
                self._note(lease)
            case Deleted(object=SubnetLease() as lease):
                self._behind.pop(lease.metadata.name, None)
        if not self._transition.moved and not self._behind:
            self._move()

    def status(self) -> OtherBackend:
        """The one beside the lease's."""
        return OtherBackend(self._transition.unpublished.type, tuple(sorted(self._behind.values())))

    def _note(self, lease: SubnetLease) -> None:
        node = self._node()
        reserved = not lease.spec.backendType and RESERVED in lease.metadata.annotations
        obstacle = None if reserved or lease.spec.node == node.name else self._transition.obstacle(node, lease)
        if obstacle is None:
            self._behind.pop(lease.metadata.name, None)
        else:
            self._behind[lease.metadata.name] = f"{lease.spec.node}{f' ({obstacle})' if obstacle else ''}"

    def _move(self) -> None:
        before, after = self._transition.parts
        self._transition.moved = True
        self._state.save_backend(after.type)
        self._log.info("backend changed", to=after.type, beside=before.type)
        self._on_moved()
