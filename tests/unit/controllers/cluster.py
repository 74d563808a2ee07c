"""A cluster whose controllers run until nothing is left to be written."""

from __future__ import annotations

from msgspec.structs import replace

from percale.controllers import control_loop
from percale.controllers.service_networks import ServiceNetworks
from percale.controllers.workloads import Create, Delete, Write
from percale.model.condition import Condition
from percale.model.meta import Object, ObjectKey
from percale.model.pod import Pod, PodStatus
from percale.store.object_cache import ObjectCache

READY = PodStatus(phase="Running", hostIP="192.168.1.2", conditions=(Condition(type="Ready", status="True"),))


class Cluster:
    """Pods get no names that were in use before."""

    def __init__(self, networks: ServiceNetworks, *objects: Object) -> None:
        self.cache = ObjectCache()
        self.names: set[ObjectKey] = set()
        self.problems: list[str] = []
        self._networks = networks
        for obj in objects:
            self.cache.put(obj)

    def settle(self, *, ready: bool = True) -> list[Write]:
        """The writes. New pods with a node are `ready` at once."""
        done: list[Write] = []
        for _ in range(10):
            plan = control_loop.plan(self.cache, self.names, self._networks)
            self.problems = plan.problems
            if not plan.writes:
                return done
            done += plan.writes
            for write in plan.writes:
                self._write(write, ready)
        raise AssertionError(f"it does not settle: {plan}")

    def _write(self, write: Write, ready: bool) -> None:
        obj = write.object
        if isinstance(write, Delete):
            self.cache.remove(obj)
        elif isinstance(write, Create) and isinstance(obj, Pod):
            assert self.cache.get(Pod, obj.key) is None
            self.names.add(obj.key)
            self.cache.put(replace(obj, status=READY) if ready and obj.spec.nodeName else obj)
        else:
            self.cache.put(obj)
