"""`percale agent --cleanup`: removes everything of ours from this node, and nothing else. Called by cli/agent.py and the lab.

    conflist, plugin ─▶ lease ─▶ kernel objects, pods' devices with them ─▶ state ─▶ sockets, pid file

The CNI configuration goes first, so that no new requests arrive; the state goes last, so that an interrupted cleanup can be
repeated.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from percale.agent.config.settings import AgentConfig
from percale.agent.pid_file import single_agent
from percale.agent.state import ADDRESSES, LAST_STATE, PODS, NodeState
from percale.backend.state_dir import BACKEND_STATE, retire_backends
from percale.cni import conflist
from percale.errors import KernelError, NotFound, PercaleError, StateError
from percale.ipam.address_blocks import release_block
from percale.kernel.cleanup import owned_removals, remove_tables
from percale.kernel.commands import to_commands
from percale.kernel.errors import apply_or_raise
from percale.kernel.netns import CurrentNetns
from percale.kernel.rtnl.driver import opened
from percale.model.addresses import IPNetwork
from percale.model.ip_pool import AddressBlock
from percale.model.subnet_lease import MACHINE, RESERVED, SubnetLease
from percale.store.registry import open_store


def clean_up(config: AgentConfig) -> Iterator[str]:
    """Yields a line for each removal; nothing to remove is no error. Raises AlreadyRunning, StateError, KernelError."""
    run_dir, state_dir = Path(config.runDir), Path(config.stateDir)
    with single_agent(run_dir):
        yield from (f"removed {path}" for path in conflist.uninstall(config.cni))
        if (state_dir / NodeState.FILE).exists():
            state = NodeState(state_dir)
            yield asyncio.run(_release_lease(config, state.machine))
            if state.blocks:
                yield asyncio.run(_release_blocks(config, state.blocks))
        yield from _kernel()
        yield from (f"removed {path}" for path in asyncio.run(retire_backends(state_dir)))
        yield from _files(config, state_dir)
    with suppress(OSError):
        (run_dir / "agent.pid").unlink()
        run_dir.rmdir()


async def _release_lease(config: AgentConfig, machine: str) -> str:
    """Delete the lease, if this machine made it and the store is reachable."""
    store = open_store(config.store)
    try:
        mine = [
            lease
            for lease in await store.list(SubnetLease)
            if lease.spec.node == config.node
            and lease.metadata.annotations.get(MACHINE) == machine
            and RESERVED not in lease.metadata.annotations
        ]
        for lease in mine:
            with suppress(NotFound):
                await store.delete(SubnetLease, lease.key)
    except PercaleError as error:
        return f"the lease of node {config.node} stays: {error}"
    finally:
        await store.close()
    names = " ".join(lease.metadata.name for lease in mine)
    return f"gave back {names}" if names else f"node {config.node} has no lease to give back"


async def _release_blocks(config: AgentConfig, held: Collection[IPNetwork]) -> str:
    """Of IP pools, if the store is reachable."""
    store = open_store(config.store)
    try:
        mine = [
            each for each in await store.list(AddressBlock) if each.spec.node == config.node and each.network in held
        ]
        for block in mine:
            await release_block(store, block)
    except PercaleError as error:
        return f"the blocks of node {config.node} stay: {error}"
    finally:
        await store.close()
    return f"gave back {' '.join(each.spec.cidr for each in mine)}" if mine else "there are no blocks to give back"


def _kernel() -> Iterator[str]:
    """Devices (with the pods' veth pairs), routes, neighbours and tables that carry our mark."""
    try:
        with opened() as driver:
            removals = owned_removals(driver)
            apply_or_raise(driver, removals)
        tables = remove_tables(CurrentNetns())
    except OSError as error:
        raise KernelError.from_os(error, where="reading the kernel's state", hint="run as root") from error
    for removal in removals:
        yield from to_commands(removal)
    yield from tables


def _files(config: AgentConfig, state_dir: Path) -> Iterator[str]:
    """Our own files; a directory too, if nothing else is in it."""
    ours = [state_dir / NodeState.FILE, *sorted(state_dir.glob(f"{ADDRESSES}*")), Path(config.cni.socket)]
    if config.http is not None and config.http.startswith("unix:"):
        ours.append(Path(config.http.removeprefix("unix:")))
    if config.subnetFile is not None:
        ours.append(Path(config.subnetFile))
    try:
        for directory in (state_dir / PODS, state_dir / LAST_STATE):
            if directory.exists():
                shutil.rmtree(directory)
                yield f"removed {directory}"
        for path in ours:
            if path.exists():
                path.unlink()
                yield f"removed {path}"
    except OSError as error:
        raise StateError(f"cannot be removed: {error.strerror}", where=str(error.filename)) from error
    for directory in (state_dir / BACKEND_STATE, state_dir):
        with suppress(OSError):
            directory.rmdir()
