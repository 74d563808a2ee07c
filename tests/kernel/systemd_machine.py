"""A systemd of its own: pid 1 of new namespaces, with the units of deploy/systemd and of a test. The machine keeps its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.waiting import until

SYSTEMD = Path("/lib/systemd/systemd")
_GROUPS = Path("/sys/fs/cgroup")

_BOOT = """\
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/system
cp -a /etc {directory}/etc
mount --bind {directory}/etc /etc
mount -t tmpfs -o mode=755 tmpfs /etc/systemd/system
mount -t tmpfs -o mode=755 tmpfs /var/lib
mount -t tmpfs -o mode=755 tmpfs /opt
mkdir /opt/percale
mount --bind {venv} /opt/percale
cp -r {units}/. /run/systemd/system/
if [ -f {units}/percale.env ]; then install -D {units}/percale.env /etc/percale/percale.env; fi
umount -R /sys/fs/cgroup
if grep -q name=systemd /proc/self/cgroup; then
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  mkdir /sys/fs/cgroup/systemd
  mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
else
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
ip link set lo up
ip link add eth0 type veth peer name eth0-peer
ip link set eth0-peer up
ip addr add 192.168.7.1/24 dev eth0
ip link set eth0 up
ip route add default via 192.168.7.2
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=percale {systemd} --system --unit=test.target --log-target=console
"""


class Machine:
    """Boots `test.target` of `units`."""

    def __init__(self, directory: Path, units: Path, venv: Path) -> None:
        self.directory = directory
        self._group = _cgroup(directory.name)
        boot = directory / "boot.sh"
        boot.write_text(_BOOT.format(directory=directory, units=units, venv=venv, systemd=SYSTEMD))
        unshare = "exec unshare --fork --pid --kill-child --mount --uts --ipc --net --cgroup --mount-proc"
        enter = f"echo $$ > {self._group}/cgroup.procs; {unshare} sh {boot}"
        self._log = directory / "log"
        with self._log.open("wb") as log:
            self._outer = subprocess.Popen(["sh", "-c", enter], stdout=log, stderr=log)
        self._pid = 0
        try:
            until(self._booted, "systemd answers")
        except BaseException:
            self.close()
            raise

    def _booted(self) -> bool:
        assert self._outer.poll() is None, self.log
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
        if not children or (Path("/proc") / children[0] / "comm").read_text().strip() != "systemd":
            return False
        self._pid = int(children[0])
        return self.run("systemctl", "show", "-p", "Version", check=False).startswith("Version=")

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def run(self, *command: str, check: bool = True) -> str:
        """In there, as root; what it printed."""
        enter = ["nsenter", "-t", str(self._pid), "-m", "-p", "-n", "-u", "-i", "-C"]
        done = subprocess.run([*enter, *command], capture_output=True, text=True, check=False, timeout=300)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self.log[-3000:]}"
        return done.stdout

    def state(self, unit: str) -> str:
        """`active`, `activating`, `failed`, …"""
        return self.run("systemctl", "show", "-p", "ActiveState", "--value", unit).strip()

    def close(self) -> None:
        self._outer.kill()  # its child, systemd, goes with it, and all others with systemd
        self._outer.wait()
        until(self._empty, "the processes have ended")

    def _empty(self) -> bool:
        for group in sorted((each for each in self._group.rglob("*") if each.is_dir()), reverse=True):
            if (group / "cgroup.procs").read_text().strip():
                return False
            group.rmdir()
        if (self._group / "cgroup.procs").read_text().strip():
            return False
        self._group.rmdir()
        return True


def _cgroup(name: str) -> Path:
    """A new one, in the hierarchy that systemd uses."""
    root = _GROUPS / "systemd" if (_GROUPS / "systemd").is_dir() else _GROUPS
    group = root / f"percale-{os.getpid()}-{name}"
    group.mkdir()
    return group
