"""What nft keeps with a set is for every nft that may list it."""

from __future__ import annotations

import struct

from percale.kernel.nftables.set_codec import for_every_nft

USERDATA = 13
NETWORK_ORDER = bytes((0, 4)) + struct.pack("=I", 2)
COMMENT = bytes((7, 5)) + b"pods\0"


def example(kind: int, expression: int) -> bytes:
    """Of a key (3) or of data (4)."""
    return bytes((kind, 8, 0, 4)) + struct.pack("=I", expression) + bytes((1, 0))


def test_examples_that_are_constants_are_left_out() -> None:
    constant, payload = 4, 7
    of_nft_1_1 = NETWORK_ORDER + example(3, constant) + example(4, constant) + COMMENT
    assert for_every_nft({2: b"x", USERDATA: of_nft_1_1}) == {2: b"x", USERDATA: NETWORK_ORDER + COMMENT}
    of_nft_1_0 = NETWORK_ORDER + example(3, payload) + COMMENT
    assert for_every_nft({USERDATA: of_nft_1_0}) == {USERDATA: of_nft_1_0}


def test_a_set_without_user_data_has_none() -> None:
    assert for_every_nft({2: b"x"}) == {2: b"x"}
