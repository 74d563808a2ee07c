"""`percale support`: one archive of a node, or of a lab, for a bug report; without secrets."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from percale.cli.checked_host import checked
from percale.cli.lab_nodes import on_each_node
from percale.cli.lab_option import given_lab
from percale.errors import LabError, PercaleError

STDOUT = "-"


@click.command(short_help="An archive of what this node, or a lab, has: for a bug report.")
@click.argument("file", required=False, metavar="[FILE]")
@click.option("--config", metavar="FILE", type=Path, envvar="PERCALE_CONFIG", help="The agent's configuration file.")
@click.option("--lab", metavar="NAME", callback=given_lab, help="A lab: all of its nodes.")
def support(*, file: str | None, config: Path | None, lab: str | None) -> None:
    """Write status, doctor's findings, tables, routes, the nft ruleset, logs, versions and configuration into FILE.

    FILE is a new tar.gz, by default percale-support-NAME-TIME.tar.gz; - is stdout. Passwords, tokens, keys and mounted
    Secrets are left out; names and addresses of pods and nodes are in it: look at it before you send it.
    """
    name, entries = _lab(lab) if lab is not None else _node(config)
    content = _archive(entries)
    if file == STDOUT:
        with open(sys.stdout.fileno(), "wb", closefd=False) as stdout:
            stdout.write(content)
        return
    path = Path(file or f"percale-support-{name}-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(content)
    except OSError as error:
        hint = "choose another name" if isinstance(error, FileExistsError) else None
        raise PercaleError(f"cannot be written: {error.strerror}", where=str(path), hint=hint) from error
    click.echo(f"{path}: {len(content) // 1024 + 1} KiB; look at it before you send it: tar -tzf {path}")


def _node(config: Path | None) -> tuple[str, Iterator[tuple[str, bytes]]]:
    from percale.agent.config import loader
    from percale.checks.check import findings
    from percale.checks.host import running_host
    from percale.checks.registry import HOST, RUNNING
    from percale.checks.support_bundle import texts
    from percale.cli.json_output import format_json

    host = running_host(loader.load(config, os.environ, {}))

    def entries() -> Iterator[tuple[str, bytes]]:
        yield "doctor.json", format_json(checked(list(findings((*RUNNING, *HOST), host)))).encode()
        yield from ((name, text.encode()) for name, text in texts(host))

    return host.config.node, entries()


def _lab(lab: str) -> tuple[str, Iterator[tuple[str, bytes]]]:
    from percale.checks.redaction import redacted
    from percale.cli.json_output import format_json
    from percale.lab.api.client import ask
    from percale.lab.run_dir import locate

    lab_dir = locate(lab)
    status = ask(lab_dir, "status")

    def entries() -> Iterator[tuple[str, bytes]]:
        yield "lab/status.json", format_json(status).encode()
        yield "lab/log", redacted(lab_dir.log.read_text(errors="replace")).encode()
        for node, done in on_each_node(lab, "support", STDOUT):
            if done.returncode:
                raise LabError(f"{node}: {done.stderr.decode().strip()}", hint=f"percale lab --lab {lab} status")
            with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
                for member in archive:
                    content = archive.extractfile(member)
                    if content is not None:
                        yield f"{node}/{member.name}", content.read()

    return lab, entries()


def _archive(entries: Iterable[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    now = time.time()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in entries:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(content), int(now), 0o600
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
