"""Tables of the kernel that do not take everything: connections and neighbours. What does not fit is dropped."""

from __future__ import annotations

from percale.checks.check import Outcome, bad, doubtful, good
from percale.checks.host import Host
from percale.counted import counted
from percale.kernel import sysctl
from percale.model.ip_family import Family

_NEARLY_FULL, _FULL = 0.8, 0.95
_CONNTRACK = "net/netfilter/nf_conntrack"
_CHANCE, _HOUR = 10, 3600
"""Fewer clashes, or fewer than one an hour, are nothing that users see."""
_THRESHOLD = {Family.IPV4: "net/ipv4/neigh/default/gc_thresh", Family.IPV6: "net/ipv6/neigh/default/gc_thresh"}


def conntrack(_host: Host) -> Outcome | None:
    """Connections that are tracked; the limit is the machine's, the count this network namespace's."""
    try:
        count, most = (int(sysctl.read(f"{_CONNTRACK}_{name}")) for name in ("count", "max"))
    except OSError:
        return None  # told by the check of the kernel's features
    return _fullness(f"{count} of {most} connections are tracked", count, most, [f"{_CONNTRACK}_max={2 * most}"])


def clashes(host: Host) -> Outcome | None:
    """First packets that were dropped as another one of their connection was tracked in the meantime.

    A resolver's queries for A and AAAA, which leave one port at once; it waits 5 s until it asks again.
    """
    try:
        names, *rows = (host.proc / "thread-self/net/stat/nf_conntrack").read_text().splitlines()
        seconds = float((host.proc / "uptime").read_text().split()[0])
    except OSError:
        return None
    column = names.split().index("insert_failed")
    count = sum(int(row.split()[column], 16) for row in rows)
    words = f"{counted(count, 'first packet')} dropped since the start, as another one came at once (insert_failed)"
    if count >= _CHANCE and count * _HOUR >= seconds:
        watch = "conntrack -S   # does insert_failed still grow?"
        return doubtful(words, watch, "run a DNS cache on each node: pods' resolvers send two queries at once")
    return good(words)


def neighbours(host: Host) -> Outcome | None:
    """Those that the kernel has learned: the agent's entries do not count. Only the host's own namespace shows the limit."""
    worst: Outcome | None = None
    for family in host.families:
        try:
            most = int(sysctl.read(f"{_THRESHOLD[family]}3"))
        except OSError:
            continue
        learned = [each.dst for each in host.neighbours if not each.permanent and each.dst is not None]
        count = sum(address.version == family for address in learned)
        more = [f"{_THRESHOLD[family]}{number}={most * factor}" for number, factor in ((3, 4), (2, 2))]
        found = _fullness(f"{count} of {most} IPv{family} neighbours are known", count, most, more)
        worst = found if worst is None or worst.result == "ok" else worst
    return worst


def _fullness(words: str, count: int, most: int, settings: list[str]) -> Outcome:
    commands = [f"sysctl -w {each.replace('/', '.')}" for each in settings]
    if count >= most * _FULL:
        return bad(words, *commands)
    return doubtful(words, *commands) if count >= most * _NEARLY_FULL else good(words)
