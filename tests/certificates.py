"""Certificates for tests, made by openssl."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

# `openssl x509` issues no certificate that has expired already; `openssl ca` does.
_AUTHORITY_SETTINGS = """
[ca]
default_ca = authority
[authority]
database = {issued}/index
new_certs_dir = {issued}
rand_serial = yes
default_md = sha256
unique_subject = no
policy = any_subject
[any_subject]
commonName = optional
organizationName = optional
"""


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path


def authority(directory: Path, name: str = "authority") -> Pair:
    """Signs itself."""
    pair = _pair(directory, name)
    _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
        *("-subj", f"/CN={name}", "-keyout", str(pair.key), "-out", str(pair.certificate)),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    return pair


def issue(
    by: Pair, name: str, *, subject: str, serves: Sequence[str] = (), days: int = 2, is_client: bool = False
) -> Pair:
    """For a client, or for a server with these names (`IP:…`, `DNS:…`); with negative `days`, one that has expired.

    `is_client`: the server is a client too, as an etcd is its own.
    """
    pair = _pair(by.certificate.parent, name)
    request = pair.certificate.with_suffix(".csr")
    _openssl(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-subj", subject, "-keyout", str(pair.key), "-out", str(request)),
    )
    extensions = pair.certificate.with_suffix(".ext")
    usage = ",".join([*(["serverAuth"] if serves else ()), *(["clientAuth"] if is_client or not serves else ())])
    names = f"subjectAltName={','.join(serves)}\n" if serves else ""
    extensions.write_text(f"keyUsage=critical,digitalSignature\nextendedKeyUsage={usage}\n{names}")
    issued = pair.certificate.parent / f"{name}.issued"
    issued.mkdir(exist_ok=True)
    (issued / "index").touch()
    settings = issued / "settings"
    settings.write_text(_AUTHORITY_SETTINGS.format(issued=issued))
    end = datetime.now(UTC) + timedelta(days=days)
    start = min(datetime.now(UTC), end) - timedelta(days=1)
    _openssl(
        *("ca", "-batch", "-notext", "-preserveDN", "-config", str(settings), "-cert", str(by.certificate)),
        *("-keyfile", str(by.key), "-in", str(request), "-out", str(pair.certificate), "-extfile", str(extensions)),
        *("-startdate", f"{start:%Y%m%d%H%M%SZ}", "-enddate", f"{end:%Y%m%d%H%M%SZ}"),
    )
    return pair


def rsa_key(path: Path) -> Path:
    """For service accounts' tokens."""
    _openssl("genrsa", "-out", str(path), "2048")
    return path


def _pair(directory: Path, name: str) -> Pair:
    return Pair(directory / f"{name}.crt", directory / f"{name}.key")


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
