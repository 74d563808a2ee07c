"""`percale migrate --to flannel`: the way back, with the same two halves.

    no agent, no flanneld   lease without our marks, conflist away ─▶ pods: host-local's record, device, record of ours ─▶ devices
    flanneld is ready       Percale's tables, its route of the node's own subnet, its state

Until flanneld's rules are there, Percale's stay in force.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from percale.agent.config.settings import AgentConfig
from percale.agent.migration import firewall
from percale.agent.migration.cni_cache import CniState, delegate_of
from percale.agent.migration.from_flannel import ASIDE, flannels_conflists, network_of, rename_file, subnet_env
from percale.agent.migration.plan import Places, Plan, Step, flanneld_pid
from percale.agent.pid_file import single_agent
from percale.agent.state import ADDRESSES, PODS, NodeState
from percale.cni import conflist
from percale.cni.records import Attachment, Records
from percale.errors import BadConfig, StateError
from percale.ipam.address_pool import AddressPool
from percale.ipam.subnet_lease import TTL
from percale.kernel.cleanup import own_tables, owned_removals, remove_tables
from percale.kernel.errors import apply_or_raise
from percale.kernel.netns import CurrentNetns
from percale.kernel.protocol import Change
from percale.kernel.rtnl.driver import opened
from percale.kernel.takeover import Devices
from percale.model.subnet_lease import MACHINE, RESERVED, NodeSubnets, SubnetLease
from percale.render.objects import Route
from percale.store.registry import open_store


def plan(config: AgentConfig, places: Places) -> Plan:
    """What is to be done on this node now. Raises PercaleError for what does not fit; nothing was changed."""
    with single_agent(Path(config.runDir)):
        if flanneld_pid() is None:
            steps = tuple(_Node(config, places).steps())
            return Plan(steps, "start flanneld, and once it is ready, run this again: it removes Percale's rules")
        if subnet_env(config).ip_masq and not firewall.flannel_rules():
            raise StateError(
                "flanneld's rules are not in force yet", where="this node", hint="run this again when it is ready"
            )
        return Plan(tuple(_removals(config)), "nothing")


class _Node:
    """What Percale has on this node, checked."""

    def __init__(self, config: AgentConfig, places: Places) -> None:
        self._config = config
        self._network = network_of(config)
        self._cni = CniState(places.state, self._network)
        self._state = Path(config.stateDir)
        self._subnets = NodeState(self._state).subnets or NodeSubnets()
        self._records = Records(self._state / PODS)
        self._devices = {device.name: device for device in Devices().all()}
        for each in self._records.attachments.values():
            if each.wires.bridge is None:
                raise _unfit(each, "is routed, and flannel's are on a bridge")
            if each.ports:
                raise _unfit(each, f"has host port {each.ports[0].port}, which portmap would not know")

    def steps(self) -> Iterator[Step]:
        """In an order in which each may be the last one."""
        if lease := asyncio.run(_marked_lease(self._config)):
            yield Step(f"leave the lease {lease.metadata.name} to flanneld", partial(_unmark, self._config, lease))
        own = Path(self._config.cni.confDir) / conflist.FILE
        if own.exists():
            yield Step(f"remove {own}", partial(conflist.uninstall, self._config.cni))
        for attachment in self._records.attachments.values():
            veth = "veth" + attachment.wires.device[3:11]
            addresses = " ".join(map(str, attachment.wires.ips))
            text = f"give back {attachment} ({addresses}): {attachment.wires.device} becomes {veth}"
            yield Step(text, partial(self._give_back, attachment, veth, self._delegate()))
        for name, device in sorted(self._devices.items()):
            if device.ours and (name == self._config.cni.bridge or name.startswith("flannel")):
                yield Step(f"give back {name}", partial(Devices().set_owner, device, ours=False))
        for path, _ in flannels_conflists(self._config):
            if path.name.endswith(ASIDE):
                seen = path.with_name(path.name.removesuffix(ASIDE))
                yield Step(f"move {path} to {seen.name}", partial(rename_file, path, seen))

    def _delegate(self) -> Mapping[str, Any]:
        env = subnet_env(self._config)
        given = {"hairpinMode": True, "isDefaultGateway": True}
        return delegate_of(given, self._network, env.subnets, mtu=env.mtu, ip_masq=env.ip_masq)

    def _give_back(self, attachment: Attachment, name: str, delegate: Mapping[str, Any]) -> None:
        self._cni.write(attachment, delegate)
        if (device := self._devices.get(attachment.wires.device)) is not None:
            Devices().set_owner(device, ours=False)
            Devices().rename(device, name)
        self._records.remove(attachment.owner)
        pool = AddressPool(self._state / ADDRESSES, self._config.node, self._subnets)
        try:
            pool.release(attachment.owner)
        finally:
            pool.close()


def _unfit(attachment: Attachment, why: str) -> BadConfig:
    return BadConfig(
        f"{attachment} {why}", where="migrate --to flannel", hint="delete it, or move it to another node first"
    )


async def _marked_lease(config: AgentConfig) -> SubnetLease | None:
    """This node's with the mark by which another machine of this name would be refused. Raises StoreUnavailable."""
    store = open_store(config.store)
    try:
        leases = await store.list(SubnetLease)
    finally:
        await store.close()
    return next(
        (each for each in leases if each.spec.node == config.node and MACHINE in each.metadata.annotations), None
    )


def _unmark(config: AgentConfig, lease: SubnetLease) -> None:
    async def put() -> None:
        annotations = {key: text for key, text in lease.metadata.annotations.items() if key != MACHINE}
        unmarked = replace(lease, metadata=replace(lease.metadata, annotations=annotations))
        store = open_store(config.store)
        try:
            ttl = None if RESERVED in annotations else TTL
            await store.put(unmarked, expect=lease.metadata.resourceVersion, ttl=ttl)
        finally:
            await store.close()

    asyncio.run(put())


def _removals(config: AgentConfig) -> Iterator[Step]:
    """What goes once flanneld's rules are in force."""
    state = Path(config.stateDir)
    if (state / NodeState.FILE).exists():
        own = NodeState(state).subnets or NodeSubnets()
        with opened() as driver:
            changes = [each for each in owned_removals(driver) if _is_of(each, own)]
        for change in changes:
            yield Step(f"remove the route of {change.object.key[1]} that drops", partial(_apply, change))
    if tables := own_tables(CurrentNetns()):
        yield Step(f"remove the tables {', '.join(tables)}", partial(remove_tables, CurrentNetns()))
    if state.exists():
        yield Step(f"remove {state}", partial(shutil.rmtree, state))


def _is_of(change: Change, subnets: NodeSubnets) -> bool:
    """Routes to peers are flanneld's by now, whoever made them."""
    return isinstance(change.object, Route) and change.object.dst in subnets


def _apply(change: Change) -> None:
    with opened() as driver:
        apply_or_raise(driver, [change])
