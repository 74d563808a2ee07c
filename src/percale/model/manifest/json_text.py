"""Reads JSON input other than manifests to plain values, with one kind of error.

Python's and msgspec's readers raise other exceptions for, or accept: nesting beyond the stack, numbers of thousands of digits,
NaN, half of a surrogate pair.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json_text(text: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """`pairs` builds an object from its keys and values. Raises json.JSONDecodeError, and what `pairs` raises."""
    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=_no_number, parse_float=_finite)
        if _SURROGATE.search(text) is not None:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError:
        raise
    except RecursionError as error:
        raise json.JSONDecodeError("Nested too deep", text, 0) from error
    except UnicodeEncodeError as error:
        raise json.JSONDecodeError("Half of a surrogate pair", text, 0) from error
    except ValueError as error:
        raise json.JSONDecodeError("A number that is none, or too large", text, 0) from error
    return value


def _no_number(word: str) -> Any:
    raise ValueError(word)


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise ValueError(digits)
    return number


def decode_json(decoder: msgspec.json.Decoder[T], data: bytes | msgspec.Raw) -> T:
    """The value in the decoder's type. Raises msgspec.DecodeError."""
    try:
        return decoder.decode(data)
    except RecursionError as error:
        raise msgspec.DecodeError("nested too deep") from error
    except msgspec.DecodeError:
        raise
    except ValueError as error:  # not UTF-8, or a number of thousands of digits
        raise msgspec.DecodeError(str(error).partition("(")[0].strip()) from error
