"""What `kubectl exec` starts: a program of this machine in a pod. Run by `kubernetes/container_streams.py`, inside the lab.

python -m percale.lab.process.pod_program TARGET COMMAND…      TARGET is an ExecTarget as JSON
"""

from __future__ import annotations

import fcntl
import os
import sys
import termios

import msgspec

from percale.errors import LabError
from percale.lab.process.nsenter import ExecTarget, run_inside


def main(arguments: list[str]) -> int:
    """The program's exit code."""
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    try:
        return run_inside(None, msgspec.json.decode(arguments[0], type=ExecTarget), arguments[1:])
    except LabError as error:
        print(f"percale: {error}", file=sys.stderr)
        return 126


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
