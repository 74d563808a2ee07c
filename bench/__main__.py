"""`python -m bench [NAME…]`: says what it will do, runs each benchmark in a network namespace of its own, prints one table."""

from __future__ import annotations

import compileall
import importlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from bench.programs import built
from bench.rows import HEADING
from percale.kernel import syscalls


class Benchmark(NamedTuple):
    """Seconds are about those on a machine with two cores; `programs` are those that Percale itself does not need.

    `built` are those of scripts/kubernetes-binaries: where they are not, a benchmark runs only if it is asked for.
    """

    what: str
    seconds: int
    programs: tuple[str, ...] = ()
    built: tuple[str, ...] = ()


BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        "decode": Benchmark("10,000 pods from JSON to objects", 1),
        "kubernetes": Benchmark("30,000 objects from the API server's bytes", 40),
        "cluster_start": Benchmark(
            "an agent's start at a kube-apiserver with 30,000 objects, against kube-proxy",
            180,
            ("iptables",),
            ("etcd", "kube-apiserver", "kube-proxy"),
        ),
        "write_to_kernel": Benchmark(
            "from a write at a kube-apiserver to the kernel of another node", 30, (), ("etcd", "kube-apiserver")
        ),
        "peers": Benchmark("5,000 peers from cold, against pyroute2", 35),
        "memory": Benchmark("an agent's memory with 5,000 nodes and 10,000 pods", 6),
        "cni": Benchmark("ADD and DEL, against bridge, host-local and portmap", 30, ("/usr/lib/cni/bridge",)),
        "flannel": Benchmark(
            "1,000 leases and a first ping, against flanneld", 90, ("etcd", "/usr/lib/cni/bridge"), ("flanneld",)
        ),
        "lab_up": Benchmark("percale lab up of 6 and of 300 pods", 40),
        "lab_trace": Benchmark("percale trace of one packet in a lab", 15),
        "datapath": Benchmark(
            "TCP and ping from pod to pod, against the same network without a firewall", 105, ("iperf3",)
        ),
        "elements": Benchmark("100,000 map elements, against nft -f", 15, ("nft",)),
        "matrix": Benchmark("the reachability of 10,000 pods", 20),
        "policies": Benchmark("policies from objects to the kernel, and per packet", 80, ("iperf3",)),
        "services": Benchmark("Services, against a chain for each and for each endpoint", 200, ("iperf3", "wrk")),
    }
)


def _plan(names: Sequence[str]) -> Iterator[str]:
    minutes = sum(BENCHMARKS[name].seconds for name in names) / 60
    yield f"In network namespaces of their own, which are removed again, {max(1, round(minutes))} min in all:"
    for name in names:
        yield f"  {name:10} about {BENCHMARKS[name].seconds:3} s   {BENCHMARKS[name].what}"
    yield ""


def main() -> int:
    """Exit code 1 when a goal was missed."""
    names = sys.argv[1:] or [name for name, each in BENCHMARKS.items() if all(map(built, each.built))]
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(f"bench: no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    programs = dict.fromkeys(program for name in names for program in BENCHMARKS[name].programs)
    if missing := [program for program in programs if shutil.which(program) is None]:
        print(f"bench: {', '.join(missing)} missing; type: sudo scripts/system-packages tests", file=sys.stderr)
        return 2
    if unbuilt := [program for name in names for program in BENCHMARKS[name].built if built(program) is None]:
        print(f"bench: {', '.join(unbuilt)} missing; type: make kubernetes", file=sys.stderr)
        return 2
    print(*_plan(names), sep="\n", flush=True)
    # As pip leaves an installation: with PYTHONDONTWRITEBYTECODE each agent would compile itself at its start.
    compileall.compile_dir(Path(syscalls.__file__).parents[1], quiet=1)
    if os.geteuid() != 0:
        syscalls.become_root_of_new_user_namespace()
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", "/run", "tmpfs")
    Path("/run/netns").mkdir()
    print(HEADING, flush=True)
    missed = 0
    for name in names:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        for row in importlib.import_module(f"bench.{name}").measure():
            print(row.text(), flush=True)
            missed += not row.met
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
