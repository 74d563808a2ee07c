"""Every error a user can meet, in one tree. Each says what happened, where, and what to do next.

PercaleError
├── BadInput                     something a person wrote; nothing of it was applied
│   ├── BadManifest              a YAML or JSON document (file, line, field path)
│   │   └── BadManifests         several of them, each on a line of its own
│   ├── BadNetworkConfig         net-conf.json
│   └── BadConfig                the agent's own configuration, flags, environment
├── StoreError
│   ├── Conflict                 another writer changed the object first (compare-and-put)
│   ├── NotFound
│   └── StoreUnavailable
├── AddressError
│   ├── NetworkFull              no subnet left for a node
│   ├── SubnetFull               no address left for a pod
│   └── AddressRefused           the address asked for is taken, reserved or outside
├── KernelError                  the kernel refused a change (errno, the equivalent command line)
├── AgentError
│   ├── AlreadyRunning           a second agent on this node
│   └── StateError               the state directory cannot be read or written
└── LabError
    ├── NoUserNamespaces         the machine forbids what a rootless lab needs
    ├── NotInTime                what was waited for has not come
    └── NoSuchLab
"""

from __future__ import annotations

from collections.abc import Iterable
from errno import EIO

from percale.printable import printable, printable_path

_LONGEST_LINE = 500
"""Characters of a message: it may quote input of any length."""


def _clipped(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 1]}…"


class PercaleError(Exception):
    """What went wrong, where, and what to do next; `str()` is the one line a user sees."""

    exit_code = 2
    """Of the command that ends with it; 1 is an answer: no."""

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        what = printable(what)
        self.what = what if len(what) <= _LONGEST_LINE else "\n".join(map(_clipped, what.splitlines()))
        self.where = where and printable_path(where)
        self.hint = hint and _clipped(printable(hint))
        super().__init__(str(self))

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        return f"{line}; {self.hint}" if self.hint else line

    @property
    def parts(self) -> tuple[PercaleError, ...]:
        """Each fault by itself."""
        return (self,)

    @property
    def plain(self) -> dict[str, str | None]:
        """As JSON has it."""
        return {"what": self.what, "where": self.where, "hint": self.hint}


class BadInput(PercaleError):
    """Something a person wrote cannot be used; nothing of it was applied."""

    @property
    def place(self) -> tuple[str, int]:
        """The file and the line of `where`; 0 without a line."""
        file, _, line = (self.where or "").rpartition(":")
        return (file, int(line)) if line.isdecimal() else (self.where or "", 0)


class BadManifest(BadInput):
    """A document is not valid YAML or JSON, or not of its kind's schema; `where` is `file:line`."""

    @property
    def parts(self) -> tuple[BadManifest, ...]:
        """Each fault by itself."""
        return (self,)


class BadManifests(BadManifest):
    """All that is wrong with a file; `str()` has a line for each of the faults."""

    def __init__(self, faults: Iterable[BadManifest]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(" ".join(str(each).split()) for each in self.faults))

    @property
    def parts(self) -> tuple[BadManifest, ...]:
        return self.faults

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(self.what.splitlines())


class BadNetworkConfig(BadInput):
    """A net-conf.json that cannot be used."""


class BadConfig(BadInput):
    """The agent's configuration file, environment or flags."""


class StoreError(PercaleError):
    """The store did not do what was asked."""


class Conflict(StoreError):
    """The object changed since it was read: read it again and decide again."""


class NotFound(StoreError):
    """No such object."""


class StoreUnavailable(StoreError):
    """The store cannot be reached, read or written now."""


class AddressError(PercaleError):
    """A subnet or an address cannot be had."""


class NetworkFull(AddressError):
    """Every node subnet of the network is leased."""


class SubnetFull(AddressError):
    """Every pod address of the node's subnet is in use."""


class AddressRefused(AddressError):
    """The address asked for is taken, reserved or outside the node's subnet."""


class KernelError(PercaleError):
    """The kernel rejected a change."""

    def __init__(self, what: str, *, errno: int, where: str | None = None, hint: str | None = None) -> None:
        self.errno = errno
        super().__init__(what, where=where, hint=hint)

    @classmethod
    def from_os(cls, error: OSError, *, where: str | None = None, hint: str | None = None) -> KernelError:
        """What a system call raised."""
        return cls(error.strerror or str(error), errno=error.errno or EIO, where=where, hint=hint)


class AgentError(PercaleError):
    """The agent cannot run."""


class AlreadyRunning(AgentError):
    """Another agent serves this node; `pid` is its process."""

    def __init__(self, pid: int, *, where: str) -> None:
        self.pid = pid
        super().__init__(
            f"another agent already serves this node (pid {pid})", where=where, hint=f"stop it first: kill {pid}"
        )


class StateError(AgentError):
    """The state directory cannot be read or written."""


class LabError(PercaleError):
    """The lab cannot do what was asked."""


class NoUserNamespaces(LabError):
    """The machine forbids user namespaces; the error names the setting and the command that allows them."""


class NotInTime(LabError):
    """What was waited for has not come."""

    exit_code = 1


class NoSuchLab(LabError):
    """No lab of that name runs."""
