"""Kinds that several threads decode for the first time: in a process of its own, which would crash."""

from __future__ import annotations

import subprocess
import sys

FIRST_ON_FOUR_THREADS = """
import json, sys, threading
from typing import Optional
from msgspec import defstruct
from percale.model.manifest.decoders import converted, decoder_of

sys.setswitchinterval(1e-6)
DEPTH, KINDS = 6, 100

def nested():
    kind, value = str, "a"
    for _ in range(DEPTH):
        kind = defstruct("Nested", [("one", kind), ("two", Optional[kind], None), ("three", tuple[kind, ...], ())])
        value = {"one": value, "two": value, "three": [value]}
    return kind, value

shared = [nested() for _ in range(KINDS)]
together = threading.Barrier(4)

def decode():
    for kind, value in shared:
        together.wait()
        assert decoder_of(kind).decode(json.dumps(value)) == converted(value, kind)

threads = [threading.Thread(target=decode) for _ in range(4)]
for each in threads: each.start()
for each in threads: each.join()
print("done")
"""


def test_threads_may_decode_a_kind_for_the_first_time_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_ON_FOUR_THREADS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
