"""What holds for every reader of documents: a value, or a PercaleError in words that can be printed."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from percale.cli.main import main
from percale.errors import PercaleError
from percale.model.manifest.decode import decode_manifest
from percale.model.meta import Object

PROFILE = settings.get_current_profile_name()
fuzzed = settings(
    max_examples={"quick": 5, "usual": 30, "fuzz": 1000}[PROFILE],
    derandomize=PROFILE != "fuzz",
    suppress_health_check=list(HealthCheck),
)
"""The same few documents each time, or (`make fuzz`) others. They are large, and readers of files need a directory for each."""


@contextmanager
def refused_in_words() -> Iterator[None]:
    """A PercaleError is all that may come out; its words can be printed, and are not without end."""
    try:
        yield
    except PercaleError as error:
        assert str(error).encode()
        assert max(map(len, str(error).splitlines())) < 1500


def command(*arguments: str, stdin: bytes = b"") -> None:
    """The command ends in its own words."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        patch.setattr("percale.cli.main._complain", _refused)
        with pytest.raises(SystemExit):
            main(arguments)


def _refused(error: Exception, _told: PercaleError) -> None:
    with refused_in_words():
        raise error


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def manifest_of(data: bytes) -> tuple[Object, ...]:
    """Its objects; none when it is refused."""
    with refused_in_words():
        return decode_manifest(data, "m.yaml").objects
    return ()
