"""A virtual machine with Debian's kernel, whose file system is this machine's: for tests of what the kernel here lacks.

    virtiofsd ── this machine's files, read-only ──▶ qemu (emulated: no KVM needed) ── second serial port ──▶ output

Changes of files stay in the machine's memory. `scripts/vm-kernel` fetches the kernel, `scripts/system-packages tests` the rest.
"""

from __future__ import annotations

import lzma
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.waiting import until

ROOT = Path(__file__).parents[2]
_CACHE = Path(os.environ.get("PERCALE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "percale"))
KERNEL = _CACHE.expanduser() / "vm-kernel"
_TO_MOUNT = ("virtio_pci", "virtiofs", "overlay")
"""Modules that are needed before the file system is there; all others are loaded from it when they are needed."""
_VIRTIOFSD = {"/usr/libexec/virtiofsd": ("--no-announce-submounts",), "/usr/lib/qemu/virtiofsd": ()}
"""Debian 13's and Debian 12's. The first would announce /proc and /sys as mounts, which overlayfs lets nobody enter."""
_HARDWARE = (
    "-nodefaults -no-user-config -display none -no-reboot -accel tcg -cpu max -m 1G "
    "-object memory-backend-memfd,id=memory,size=1G,share=on -numa node,memdev=memory "
    "-device vhost-user-fs-pci,chardev=files,tag=root"
)
IN_VM = "TESTS_IN_VM"
"""Set in the environment of what runs there. No variable of Percale's own: an agent refuses those that it does not know."""


class NoMachine(Exception):
    """The machine cannot be started, or has ended too early."""


class Machine:
    """Runs one command, in the tree's directory, and ends. Its files are in `directory`."""

    def __init__(self, directory: Path, command: Sequence[str | Path], *, output: Path) -> None:
        """What the command writes to /dev/ttyS1 comes to `output`. Raises NoMachine."""
        self._console = directory / "console"
        daemon, missing = next(filter(os.path.exists, _VIRTIOFSD), ""), []
        if not daemon or shutil.which("qemu-system-x86_64") is None:
            missing.append("qemu and virtiofsd (type: scripts/system-packages tests)")
        if not (KERNEL / "vmlinuz").exists():
            missing.append(f"a kernel at {KERNEL} (type: scripts/vm-kernel)")
        if missing:
            raise NoMachine(f"for tests in the VM this machine lacks {' and '.join(missing)}")
        (modules,) = (each for each in KERNEL.iterdir() if each.is_dir())
        script = directory / "script"
        script.write_text(_script(modules, command))
        initramfs = directory / "initramfs"
        initramfs.write_bytes(_initramfs(directory, modules))
        socket = directory / "files"
        self._files = subprocess.Popen(
            [daemon, f"--socket-path={socket}", "-o", "source=/,cache=always,sandbox=chroot", *_VIRTIOFSD[daemon]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: socket.exists() or self._files.poll() is not None)
        self._qemu = subprocess.Popen(
            [
                "qemu-system-x86_64",
                *_HARDWARE.split(),
                *("-chardev", f"socket,id=files,path={socket}"),
                *("-kernel", str(KERNEL / "vmlinuz"), "-initrd", str(initramfs)),
                *("-append", f"console=ttyS0 quiet mitigations=off panic=-1 -- {script}"),
                *("-serial", f"file:{self._console}", "-serial", f"file:{output}"),
            ],
            stdin=subprocess.DEVNULL,
        )

    def wait(self) -> None:
        """Until the command has ended."""
        self._qemu.wait()

    def console(self) -> str:
        """What the kernel and the command have printed last."""
        return "\n".join(self._console.read_text(errors="replace").splitlines()[-40:]) if self._console.exists() else ""

    def close(self) -> None:
        for process in (self._qemu, self._files):
            process.kill()
            process.wait()


def _script(modules: Path, command: Sequence[str | Path]) -> str:
    """What its first process runs: modules are where the kernel looks for them, then the command."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/root", "LANG": "C.UTF-8", IN_VM: "1"}
    words = [f"{name}={value}" for name, value in environment.items()]
    return "\n".join(
        (
            "exec >/dev/ttyS0 2>&1 </dev/null",
            "mkdir -p /usr/lib/modules",
            f"ln -s {shlex.quote(str(modules))} /usr/lib/modules/",
            "modprobe br_netfilter",  # the one that no device loads by itself
            "stty -F /dev/ttyS1 raw",
            f"cd {shlex.quote(str(ROOT))}",
            f"exec env -i {shlex.join([*words, *map(str, command)])}",
            "",
        )
    )


def _initramfs(directory: Path, modules: Path) -> bytes:
    init = directory / "init"
    subprocess.run(["cc", "-O2", "-Wall", "-static", "-o", init, Path(__file__).with_name("init.c")], check=True)
    files = {"init": init.read_bytes(), **{f"{n}.ko": data for n, data in enumerate(needed_modules(modules))}}
    members = [_member("dev", b"", 0o40755), *(_member(name, data, 0o100755) for name, data in files.items())]
    return b"".join((*members, _member("TRAILER!!!", b"", 0)))


def needed_modules(directory: Path) -> Iterator[bytes]:
    """Those needed to mount the file system, each after what it needs; of Debian 13 some are part of the kernel."""
    built_in = {Path(line).name.split(".")[0] for line in (directory / "modules.builtin").read_text().splitlines()}
    needs = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {Path(path).name.split(".")[0]: path for path in needs}
    separate = [by_name[name] for name in _TO_MOUNT if name not in built_in]
    wanted = dict.fromkeys(path for module in separate for path in (*reversed(needs[module]), module))
    for path in wanted:
        data = (directory / path).read_bytes()
        yield lzma.decompress(data) if path.endswith(".xz") else data


def _member(name: str, data: bytes, mode: int) -> bytes:
    """One file of a cpio archive, in the format that the kernel unpacks (buffer-format.rst)."""
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def in_vm() -> bool:
    """Whether this is the machine."""
    return IN_VM in os.environ
