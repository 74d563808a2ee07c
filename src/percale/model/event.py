"""An Event: a component's report about an object. Source: API core/v1 Event."""

from __future__ import annotations

from typing import ClassVar, Literal

from percale.model.meta import Object, ObjectKey, Part


class ObjectReference(Part, frozen=True):
    """The object that an Event is about."""

    kind: str = ""
    namespace: str | None = None
    name: str = ""

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(self.namespace, self.name)


class EventSource(Part, frozen=True):
    """The reporting component and its node."""

    component: str = ""
    host: str = ""


class Event(Object, frozen=True, kw_only=True):
    """Timestamps are RFC 3339."""

    API_VERSION: ClassVar[str] = "v1"
    KIND: ClassVar[str] = "Event"
    PLURAL: ClassVar[str] = "events"

    involvedObject: ObjectReference
    reason: str = ""
    message: str = ""
    type: Literal["Normal", "Warning"] = "Normal"
    source: EventSource = EventSource()
    firstTimestamp: str | None = None
    lastTimestamp: str | None = None
    count: int = 1
