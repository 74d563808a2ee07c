"""The private key on disk, and the public key of it."""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from pathlib import Path

import pytest

from percale.backend.wireguard.curve25519 import clamp, public_key
from percale.backend.wireguard.key_file import FILE, create_key, is_kept, load_key
from percale.errors import StateError


@pytest.mark.parametrize(
    ("private", "public"),
    [
        (  # RFC 7748, section 6.1: Bob's
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
        ),
        (  # by wg pubkey
            "77076d0a7318a57d3c16c17251b26645df4c2f92ebc099ab4a2f0d2f4b2b1e2a",
            "1ceb6e80246a49d174aa9bc42e718bf6190ddcc93d992a2f48040845fcc3927a",
        ),
        (
            "77076d0a7318a57d3c16c17251b266450df4c2f92ebc09900000000000000000",
            "34567ab543aa664d91d309981113e1d6788ea3b918f33377367826d3f7134319",
        ),
    ],
)
def test_public_keys(private: str, public: str) -> None:
    assert public_key(bytes.fromhex(private)).hex() == public
    assert public_key(clamp(bytes.fromhex(private))).hex() == public


def test_a_key_is_made_once_for_root_alone_and_shown_by_nobody(tmp_path: Path) -> None:
    assert not is_kept(tmp_path)
    first = load_key(tmp_path)
    assert is_kept(tmp_path)
    assert load_key(tmp_path) == first
    path = tmp_path / FILE
    assert path.stat().st_mode & 0o777 == 0o600
    private = b64decode(path.read_bytes())
    assert Path(tmp_path / FILE).read_bytes() == b64encode(private) + b"\n"
    assert (first.private.reveal(), first.public) == (private, b64encode(public_key(private)).decode())
    assert clamp(private) == private
    assert b64encode(private).decode() not in repr(first)
    other = create_key(tmp_path)
    assert other != first
    assert load_key(tmp_path) == other


@pytest.mark.parametrize("content", [b"", b"c2VjcmV0", b"c2VjcmV0" + b"A" * 34 + b"==", b"\xff" * 44, b"secret" * 20])
def test_a_file_that_is_no_key_is_named_and_not_shown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(StateError) as caught:
        load_key(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / FILE}: not a WireGuard key (base64 of 32 bytes); delete it: the agent then makes a new one"
    )
    assert (tmp_path / FILE).read_bytes() == content


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"private\.key: cannot be written: No such file or directory"):
        create_key(tmp_path / "missing")
    (tmp_path / FILE).mkdir()
    with pytest.raises(StateError, match=r"private\.key: cannot be read: Is a directory"):
        load_key(tmp_path)


def test_others_keys_are_taken_in_their_form(tmp_path: Path) -> None:
    """As `wg genkey` and flannel write it: with a newline or without."""
    for end in (b"", b"\n"):
        key = b64encode(clamp(os.urandom(32)))
        (tmp_path / FILE).write_bytes(key + end)
        assert b64encode(load_key(tmp_path).private.reveal()) == key
