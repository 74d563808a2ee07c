"""The public key of a private one (X25519, RFC 7748): the lease is published before there is a device to ask the kernel by.

Called once at each start; not in constant time, which only a program on this machine could measure.
"""

from __future__ import annotations

from percale.model.wireguard_key import KEY_LENGTH

_PRIME = 2**255 - 19
_A24 = 121665
_BASE = 9


def clamp(key: bytes) -> bytes:
    """As the kernel stores it: a multiple of eight with bit 254 set."""
    return bytes((key[0] & 0xF8, *key[1:31], key[31] & 0x7F | 0x40))


def public_key(private: bytes) -> bytes:
    """The base point times the private key: RFC 7748's ladder."""
    scalar = int.from_bytes(clamp(private), "little")
    x2, z2, x3, z3, swapped = 1, 0, _BASE, 1, 0
    for position in reversed(range(255)):
        bit = scalar >> position & 1
        if swapped != bit:
            x2, z2, x3, z3 = x3, z3, x2, z2
        swapped = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a, c * b, a * a % _PRIME, b * b % _PRIME
        x3, z3 = (da + cb) ** 2 % _PRIME, _BASE * (da - cb) ** 2 % _PRIME
        x2, z2 = aa * bb % _PRIME, (aa - bb) * (aa + _A24 * (aa - bb)) % _PRIME
    if swapped:
        x2, z2 = x3, z3
    return (x2 * pow(z2, -1, _PRIME) % _PRIME).to_bytes(KEY_LENGTH, "little")
