"""The services of one node as edits of `table inet percale`. The agent feeds it what the service table says was touched.

    ResolvedService ─▶ pieces() ─┬─ elements of the maps: VIP . protocol . port ─▶ goto chain; VIP … turn ─▶ endpoint
                                 └─ chains, shared by all services of a kind, a strategy and a number of endpoints

    cluster4-pick4-random-10   pods keep their source, all others get the node's ─┐
    outside4-pick4-random-10   everybody gets the node's                          ├─▶ pick4-random-10 ─▶ dnat
    split4-…                   pods: all endpoints; others: those of this node   ─┘

An edit is the difference of a service's old and new pieces; nothing else is looked at. `image()` is all pieces together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

from percale.model.addresses import Network
from percale.model.meta import ObjectKey
from percale.policy.terms import digest
from percale.render.balancing import MASQUERADE_MARK, REFUSE, SHAPES
from percale.render.classes import PROTOCOLS
from percale.render.contents import (
    Chain,
    Edit,
    Elements,
    Equals,
    InSet,
    Operand,
    Remember,
    Rule,
    SetMark,
    SetShape,
    Translate,
    Turn,
    Verdict,
)
from percale.render.holding import Value
from percale.service.resolved import ResolvedPort, ResolvedService, Slots, Without
from percale.service.services import Vip
from percale.service.table import ServiceTable

_BY: dict[str, Literal["random", "inc", "source"]] = {
    "random": "random",
    "lc": "random",
    "rr": "inc",
    "wrr": "inc",
    "sh": "source",
    "mh": "source",
}
_DROP = Verdict("drop")
_T = TypeVar("_T")


class _Address(NamedTuple):
    """A service's address, or all node ports when it is empty."""

    version: int
    address: bytes


class _Place(NamedTuple):
    """An element's set and key."""

    set: str
    key: bytes


_SHAPES = {shape.name: shape for shape in SHAPES}
_TURNS = [number.to_bytes(4, "little") for number in range(1100)]
"""The last part of an endpoint's key, in the byte order of the machines that we run on."""


@dataclass(slots=True)
class Pieces:
    """What some services need; chains and sets by name."""

    elements: list[Elements] = field(default_factory=list)
    chains: dict[str, Chain] = field(default_factory=dict)
    sets: dict[str, SetShape] = field(default_factory=dict)
    remembered: list[tuple[_Address, Rule]] = field(default_factory=list)
    """Rules of the chain that remembers the clients of an address, which several services may share."""
    cluster_ips: set[_Address] = field(default_factory=set)

    def chain(self, name: str, *rules: Rule) -> Verdict:
        """A chain, and the way to it."""
        self.chains.setdefault(name, Chain(name, rules))
        return Verdict("goto", name)


def pieces_of(service: ResolvedService, *, masquerade_all: bool) -> Pieces:
    """Everything that this service alone asks for."""
    pieces = Pieces()
    for port in service.ports:
        for vip in port.vips:
            _Serving(port, vip, pieces, masquerade_all).write()
    return pieces


class _Serving:
    """One address of one service port."""

    def __init__(self, port: ResolvedPort, vip: Vip, pieces: Pieces, masquerade_all: bool) -> None:
        self._port, self._vip, self._pieces, self._masquerade_all = port, vip, pieces, masquerade_all
        self._version = port.family
        self._ip = "ip" if port.family == 4 else "ip6"
        self._at = "ports" if vip.kind == "node-port" else ""
        address = b"" if vip.kind == "node-port" else vip.address
        self._key = address + bytes((PROTOCOLS[port.name.protocol], 0, 0, 0)) + vip.port.to_bytes(2, "big") + b"\0\0"
        self._said = str(port.name)

    def write(self) -> None:
        """Who asks here is served, refused or dropped."""
        port = self._port
        if self._vip.kind == "cluster":
            self._pieces.cluster_ips.add(_Address(self._version, self._vip.address))
            self._served(port.inside, self._cluster)
        elif not port.spec.external_local:
            self._served(port.outside, self._outside)
        elif isinstance(port.near, str):
            self._unserved(port.near)
        else:
            self._split(port.near, port.outside)
        if self._vip.kind == "load-balancer" and port.spec.source_ranges:
            self._guard(port.spec.source_ranges)

    def _served(self, slots: Slots | Without, chain: Callable[[Verdict], Verdict]) -> None:
        if isinstance(slots, str):
            self._unserved(slots)
        else:
            self._lead("services", chain(self._pick("endpoints", slots)))

    def _unserved(self, without: Without) -> None:
        verdict = Verdict("goto", REFUSE) if without == "reject" else _DROP
        self._put("unserved", self._key, verdict=verdict)

    def _lead(self, name: str, verdict: Verdict) -> None:
        self._put(name, self._key, verdict=verdict)

    def _put(self, name: str, keys: bytes, *, data: bytes = b"", verdict: Verdict | None = None) -> None:
        self._pieces.elements.append(Elements(f"{name}{self._at}{self._version}", keys, data, verdict))

    # Kinds

    def _cluster(self, pick: Verdict) -> Verdict:
        marking = Rule((), pick, "the node and hosts outside", statements=(SetMark(MASQUERADE_MARK),))
        if self._masquerade_all:
            return self._pieces.chain(f"all{self._version}-{pick.chain}", marking)
        from_pods = Rule((self._from_pods,), pick, "pods keep their address")
        return self._pieces.chain(f"cluster{self._version}-{pick.chain}", from_pods, marking)

    def _outside(self, pick: Verdict) -> Verdict:
        marking = Rule((), pick, "answers come back by this node", statements=(SetMark(MASQUERADE_MARK),))
        return self._pieces.chain(f"outside{self._version}-{pick.chain}", marking)

    def _split(self, near: Slots, outside: Slots | Without) -> None:
        """externalTrafficPolicy Local: this node's own connections and pods may go anywhere."""
        anywhere = self._pick("endpoints", near)
        here = _DROP if isinstance(outside, str) else self._pick("locals", outside)
        name = f"split{self._version}-{anywhere.chain}-{here.chain or here.code}"
        from_pods = Rule((self._from_pods,), anywhere, "pods of the cluster")
        self._lead("services", self._pieces.chain(name, from_pods, Rule((), here, "externalTrafficPolicy: Local")))
        self._lead("own", self._outside(anywhere))

    @property
    def _from_pods(self) -> InSet:
        return InSet((self._source,), f"clients{self._version}")

    @property
    def _source(self) -> Operand:
        return "ip saddr" if self._version == 4 else "ip6 saddr"

    @property
    def _target(self) -> Operand:
        return "ip daddr" if self._version == 4 else "ip6 daddr"

    # Endpoints

    def _pick(self, name: Literal["endpoints", "locals"], slots: Slots) -> Verdict:
        """The chain that chooses among these endpoints, which are now elements."""
        size = self._port.record_size
        count = len(slots) // size
        key = self._key
        self._put(
            name,
            b"".join([key + turn for turn in _TURNS[:count]]),
            data=b"".join([slots[start : start + size] + b"\0\0" for start in range(0, len(slots), size)]),
        )
        by = _BY[self._port.strategy.name]
        table = f"{name}{self._at}{self._version}"
        operands: tuple[Operand, ...] = (*(() if self._at else (self._target,)), "l4proto", "th dport")
        translate = Translate(self._version, operands, table, Turn(by, count))
        whose = f"-{digest(self._said, self._port.name.protocol)}" if by == "inc" else ""  # turns are a service's own
        picked = f"{table}-{by}-{count}{whose}"
        pick = self._pieces.chain(picked, Rule((), None, f"one of {count}", statements=(translate,)))
        return pick if self._port.spec.affinity is None else self._stay(pick)

    def _stay(self, pick: Verdict) -> Verdict:
        """The client's endpoint of last time, for as long as it is remembered."""
        version, name = self._version, digest(self._said, self._port.name.protocol)
        known = f"stay{version}-{name}"
        shape = SetShape(
            known,
            ("ipv4_addr" if version == 4 else "ipv6_addr",),
            data=("ipv4_addr" if version == 4 else "ipv6_addr", "inet_service"),
            comment=self._said,
            timeout=self._port.spec.affinity,
        )
        self._pieces.sets[known] = shape
        again = Translate(version, (self._source,), known)
        asked = (
            Equals("l4proto", PROTOCOLS[self._port.name.protocol]),
            Equals("original dport", self._vip.port),
        )
        remember = Remember(known, (self._source,), (self._target, "th dport"))
        place = _Address(version, b"" if self._at else self._vip.address)
        self._pieces.remembered.append((place, Rule(asked, None, self._said, statements=(remember,))))
        return self._pieces.chain(
            f"{known}-{pick.chain}",
            Rule((), None, f"as before: {self._said}", statements=(again,)),
            Rule((), pick, "a new client"),
        )

    # Guests

    def _guard(self, ranges: Iterable[Network]) -> None:
        self._put("guarded", self._key)
        own = [each for each in ranges if each.version == self._version]
        if own:
            address = [
                (self._key + each.network_address.packed, self._key + each.broadcast_address.packed) for each in own
            ]
            self._put("admitted", b"".join(first + last for first, last in address))


class ServiceElements:
    """Not for two threads at a time."""

    def __init__(self, table: ServiceTable) -> None:
        self._table = table
        self._shown: dict[ObjectKey, ResolvedService] = {}
        """What the table's services were when they were last rendered."""
        self._chains: Counter[str] = Counter()
        self._sets: Counter[str] = Counter()
        """By how many services each is used."""
        self._cluster_ips: Counter[_Address] = Counter()
        self._remembered: dict[_Address, dict[ObjectKey, tuple[Rule, ...]]] = {}
        self._around: dict[_Place, Value] = {}
        """Elements that belong to the node and to no service."""
        self.local_pods: frozenset[bytes] = frozenset()
        """The packed addresses of this node's pods; they may meet themselves behind a service."""

    def update(self, changed: Iterable[ObjectKey]) -> Edit:
        """What the table needs after these services have changed; without any, after the node has."""
        edit = _Edit()
        chains_before = {name: self._chain_of(name) for name in self._remembered}
        for key in changed:
            self._change(key, edit)
        self._settle_around(edit)
        edit.replace_chains(chains_before, {name: self._chain_of(name) for name in self._remembered})
        return edit.finished()

    def image(self) -> Edit:
        """All of it, from the static text alone."""
        chains: dict[str, Chain] = {}
        sets: dict[str, SetShape] = {}
        elements: list[Elements] = []
        for service in self._shown.values():
            pieces = self._pieces(service)
            chains |= pieces.chains
            sets |= pieces.sets
            elements += pieces.elements
        remembering = (self._chain_of(name) for name in self._remembered)
        return Edit(
            put_sets=tuple(sets.values()),
            put_chains=(*chains.values(), *remembering),
            put=(*joined(elements), *joined(_elements(self._around))),
        )

    def _pieces(self, service: ResolvedService) -> Pieces:
        return pieces_of(service, masquerade_all=self._table.config.masquerade_all)

    def _change(self, key: ObjectKey, edit: _Edit) -> None:
        old, new = self._shown.pop(key, None), self._table.services.get(key)
        before = self._pieces(old) if old is not None else Pieces()
        after = self._pieces(new) if new is not None else Pieces()
        if new is not None:
            self._shown[key] = new
        edit.replace(_places(before.elements), _places(after.elements))
        for name in _gone(self._chains, before.chains, after.chains):
            edit.remove_chain(name)
        for name in _come(self._chains, before.chains, after.chains):
            edit.put_chain(after.chains[name])
        for name in _gone(self._sets, before.sets, after.sets):
            edit.remove_set(name)
        for name in _come(self._sets, before.sets, after.sets):
            edit.put_set(after.sets[name])
        _gone(self._cluster_ips, before.cluster_ips, after.cluster_ips)
        _come(self._cluster_ips, before.cluster_ips, after.cluster_ips)
        self._remember(key, before, after)

    def _remember(self, key: ObjectKey, before: Pieces, after: Pieces) -> None:
        for place, _ in before.remembered:
            if self._remembered.get(place, {}).pop(key, None) and not self._remembered[place]:
                del self._remembered[place]
        for place, _ in after.remembered:
            rules = tuple(rule for where, rule in after.remembered if where == place)
            self._remembered.setdefault(place, {})[key] = rules

    def _chain_of(self, place: _Address) -> Chain:
        rules = self._remembered[place]
        return Chain(_remembering(place), tuple(rule for key in sorted(rules) for rule in rules[key]))

    # The node

    def _settle_around(self, edit: _Edit) -> None:
        new = dict(self._node_elements())
        edit.replace(self._around, new)
        self._around = new

    def _node_elements(self) -> Iterator[tuple[_Place, Value]]:
        config = self._table.config
        own = self._table.node_port_addresses
        for address in own:
            yield _Place(f"nodeaddresses{_version(address)}", address), None
        for name, networks in (("clients", config.pod_cidrs), ("servicenets", config.service_cidrs)):
            for network in networks:
                key = network.network_address.packed + network.broadcast_address.packed
                yield _Place(f"{name}{network.version}", key), None
        for address in self.local_pods:
            yield _Place(f"hairpins{_version(address)}", address * 2), None
        for version, address in self._cluster_ips:
            yield _Place(f"clusterips{version}", address), None
        for place in self._remembered:
            addresses = (place.address,) if place.address else [each for each in own if _version(each) == place.version]
            for address in addresses:
                yield _Place(f"sticky{place.version}", address), Verdict("goto", _remembering(place))


def _remembering(place: _Address) -> str:
    return f"remember{place.version}-{place.address.hex() or 'ports'}"


def _version(address: bytes) -> int:
    return 4 if len(address) == 4 else 6


def _gone(uses: Counter[_T], before: Iterable[_T], after: Iterable[_T]) -> list[_T]:
    """Counts down what a service uses no more; which of it nobody uses."""
    kept = set(after)
    gone = []
    for each in before:
        if each not in kept:
            uses[each] -= 1
            if not uses[each]:
                del uses[each]
                gone.append(each)
    return gone


def _come(uses: Counter[_T], before: Iterable[_T], after: Iterable[_T]) -> list[_T]:
    """Counts up what a service uses from now on; which of it nobody used."""
    known = set(before)
    come = []
    for each in after:
        if each not in known:
            uses[each] += 1
            if uses[each] == 1:
                come.append(each)
    return come


def _places(elements: Iterable[Elements]) -> dict[_Place, Value]:
    """One by one."""
    found: dict[_Place, Value] = {}
    for each in elements:
        shape = _SHAPES[each.set]
        step, width = shape.key_size, shape.data_size
        for number, start in enumerate(range(0, len(each.keys), step)):
            value: Value = each.verdict if width == 0 else each.data[number * width : (number + 1) * width]
            found[_Place(each.set, each.keys[start : start + step])] = value
    return found


def _elements(places: Mapping[_Place, Value]) -> Iterator[Elements]:
    for (name, key), value in places.items():
        if isinstance(value, bytes):
            yield Elements(name, key, value)
        else:
            yield Elements(name, key, verdict=value)


def joined(elements: Iterable[Elements]) -> Iterator[Elements]:
    """Those of one set, and of one verdict, as one."""
    keys: defaultdict[tuple[str, Verdict | None], list[bytes]] = defaultdict(list)
    data: defaultdict[tuple[str, Verdict | None], list[bytes]] = defaultdict(list)
    for each in elements:
        keys[each.set, each.verdict].append(each.keys)
        data[each.set, each.verdict].append(each.data)
    for (name, verdict), parts in keys.items():
        yield Elements(name, b"".join(parts), b"".join(data[name, verdict]), verdict)


class _Edit:
    """An edit in the making: what goes and comes again within it stays."""

    def __init__(self) -> None:
        self._leaving: dict[_Place, Value] = {}
        self._coming: dict[_Place, Value] = {}
        self._chains: dict[str, Chain | None] = {}
        self._sets: dict[str, SetShape | None] = {}

    def replace(self, old: Mapping[_Place, Value], new: Mapping[_Place, Value]) -> None:
        """These elements go, those come. An address may go from one service to another in any order."""
        self._leaving |= old
        self._coming |= new
        for place in old.keys() - new.keys():
            if place in self._coming and self._coming[place] == old[place]:
                del self._coming[place]

    def put_chain(self, chain: Chain) -> None:
        """It was not there."""
        self._chains[chain.name] = chain

    def remove_chain(self, name: str) -> None:
        """It is used no more."""
        self._chains[name] = None

    def replace_chains(self, before: Mapping[_Address, Chain], after: Mapping[_Address, Chain]) -> None:
        """Chains whose rules change."""
        for place in before.keys() - after.keys():
            self.remove_chain(before[place].name)
        for place, chain in after.items():
            if before.get(place) != chain:
                self.put_chain(chain)

    def put_set(self, shape: SetShape) -> None:
        """It was not there."""
        self._sets[shape.name] = shape

    def remove_set(self, name: str) -> None:
        """It is used no more."""
        self._sets[name] = None

    def finished(self) -> Edit:
        """The edit."""
        same = {
            place for place, value in self._leaving.items() if place in self._coming and self._coming[place] == value
        }
        leaving = {place: None for place in self._leaving if place not in same}
        coming = {place: value for place, value in self._coming.items() if place not in same}
        return Edit(
            put_sets=tuple(shape for shape in self._sets.values() if shape is not None),
            remove=tuple(joined(_elements(leaving))),
            put_chains=tuple(chain for chain in self._chains.values() if chain is not None),
            put=tuple(joined(_elements(coming))),
            remove_chains=tuple(name for name, chain in self._chains.items() if chain is None),
            remove_sets=tuple(name for name, shape in self._sets.items() if shape is None),
        )
