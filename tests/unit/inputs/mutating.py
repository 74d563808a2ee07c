"""Valid documents made odd: in their values, their structure, their depth and their bytes. For `test_fuzzed_documents.py`.

Numbers and nestings that Python's own writers refuse are put into the text in place of a mark.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from hypothesis import strategies as st

_RAW = {
    "\ue000huge": "9" * 5000,
    "\ue000negative": "-" + "9" * 4400,
    "\ue000nan": "NaN",
    "\ue000inf": "Infinity",
    "\ue000float": "1e400",
    "\ue000octal": "0o" + "7" * 6000,
    "\ue000hex": "0x" + "f" * 6000,
    "\ue000list": "[" * 3000 + "]" * 3000,
    "\ue000mapping": '{"a":' * 3000 + "1" + "}" * 3000,
    "\ue000deep": "[" * 99 + "]" * 99,
    "\ue000open": "[" * 20_000,
    "\ue000half": '"\\ud800"',
    "\ue000other": '"\\udc80abc"',
    "\ue000nul": '"\\u0000"',
}
"""Marks, and what stands for them in the text."""

_NUMBERS = (
    0,
    -1,
    1,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    2**32,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    2**64,
    10**40,
    0.5,
    -0.0,
    1e308,
)
_TEXTS = (
    "",
    " ",
    "0",
    "-1",
    "80",
    "65536",
    "٣",
    "²",
    "1_000",
    "None",
    "none",
    "null",
    "*",
    "%",
    "/",
    "..",
    "../../x",
    "a" * 300,
    "a." * 130,
    "label/" * 3,
    "x" * 10_000,
    "\x7f\x1b[2J",
    "line\nbreak",
    "\u2028",
    "ＡＢＣ",
    "0.0.0.0",
    "127.0.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "10.0.0.999",
    "010.0.0.1",
    "::",
    "::1",
    "fe80::1%eth0",
    "::ffff:10.0.0.1",
    "0.0.0.0/0",
    "10.0.0.1/33",
    "10.0.0.0/255.0.0.0",
    "10.0.0.0/٨",
    "10.0.0.0/-1",
    "::/0",
    "fe80::%1/64",
    "00:00:00:00:00:00",
    "ff:ff:ff:ff:ff:ff",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "2024-13-45T99:99:99Z",
    "x 1e999 nan",
    "x nan -1",
    "ClusterIP",
    "ExternalName",
    "NodePort",
    "In",
    "Exists",
    "SCTP",
    "vxlan",
    "host-gw",
    "List",
    "PodList",
    "Lab",
    "NetworkPolicy",
    "Service",
    "{",
    "[" * 2000,
    '{"plugins": [1]}',
    '{"Network": ' + "9" * 5000 + "}",
    "[" * 20_000,
)
_STRUCTURES: tuple[Any, ...] = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"a": {"b": {}}},
    [{}],
    ["a", 1],
    {"<<": []},
)

odd_values: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(_NUMBERS),
    st.sampled_from(_TEXTS),
    st.sampled_from(_STRUCTURES).map(copy.deepcopy),
    st.sampled_from(tuple(_RAW)),
    st.integers(-(2**70), 2**70),
    st.text(max_size=12),
    st.sampled_from(([{"ip": "10.0.0.1"}] * 300, {f"k{n}": "v" for n in range(300)}, ["10.0.0.0/8"] * 300)).map(
        copy.deepcopy
    ),
)
"""What may stand anywhere in a document."""


def _paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if here:
        yield here
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*here, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _paths(inner, (*here, index))


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> Any:
    """The value with some of its parts replaced, removed, repeated, wrapped or renamed."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(0, 3))):
        paths = list(_paths(value))
        if not paths:
            return draw(odd_values)
        *way, last = draw(st.sampled_from(paths))
        parent = value
        for step in way:
            parent = parent[step]
        match draw(st.sampled_from(("put", "put", "put", "remove", "repeat", "wrap", "rename", "move"))):
            case "put":
                parent[last] = draw(odd_values)
            case "remove":
                del parent[last]
            case "repeat" if isinstance(parent, list):
                parent += [parent[last]] * draw(st.sampled_from((1, 2, 300)))
            case "wrap":
                parent[last] = draw(st.sampled_from(([parent[last]], {"x": parent[last]}, [[[parent[last]]]])))
            case "rename" if isinstance(parent, dict):
                parent[draw(st.sampled_from(_TEXTS[:25]))] = parent.pop(last)
            case "move":
                parent[last] = copy.deepcopy(_at(value, draw(st.sampled_from(paths))))
    return value


def _at(value: Any, path: Sequence[Any]) -> Any:
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _written(document: Any, style: str) -> str:
    if style == "json":
        text = json.dumps(document, ensure_ascii=False)
    elif style == "lines":
        text = json.dumps(document, indent=1, ensure_ascii=False)
    else:
        text = yaml.safe_dump(document, allow_unicode=True, sort_keys=False, width=10**9)
    for mark, raw in _RAW.items():
        for spelled in (
            json.dumps(mark, ensure_ascii=False),
            json.dumps(mark),
            yaml.safe_dump(mark, width=10**9).strip(),
        ):
            text = text.replace(spelled, raw)
    return text


_ODD_BYTES = (
    b"\0",
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\xf4\x90\x80\x80",
    b"\t",
    b"\r",
    b"\x85",
    b"\xe2\x80\xa8",
    b"---\n",
    b"...\n",
    b"%YAML 9.9\n",
    b"&a [*a]",
    b"*b",
    b"!!python/object:os.system x",
    b"? [a]\n: b\n",
    b"<<: *x\n",
    b"{",
    b"}",
    b"[" * 5000,
    b"- " * 3000,
    b": ",
    b'"',
    b"'",
    b"|\n",
    b"\xef\xbf\xbf",
    b"9" * 5000,
    b"# comment\n",
    b"\\u0000",
    b"\\ud800",
    b"@",
    b"`",
    b"2001-01-01",
    b"=",
    b"1:2:3",
    b"0b",
    b"0x",
    b"0o",
    b"+",
    b".",
    b"._",
    b"0_",
    b"-.inf",
    b"0o9",
)

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""Aliases of aliases: nine to the ninth values."""


@st.composite
def spoiled(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with some more among them, some less, or in another encoding."""
    for _ in range(draw(st.sampled_from((0, 0, 1, 2)))):
        place = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(("insert", "insert", "cut", "end", "encode", "double"))):
            case "insert":
                data = data[:place] + draw(st.sampled_from(_ODD_BYTES)) + data[place:]
            case "cut":
                data = data[:place] + data[place + draw(st.integers(1, 30)) :]
            case "end":
                data = data[:place]
            case "encode":
                text = data.decode(errors="replace")
                data = text.encode(draw(st.sampled_from(("utf-16", "utf-32-le", "utf-8-sig", "utf-7"))), "replace")
            case "double":
                data += draw(st.sampled_from((b"\n---\n", b"", b"\n", b","))) + data
    return data


@st.composite
def odd_documents(draw: st.DrawFn, seeds: Sequence[Any], styles: Sequence[str] = ("json", "lines", "yaml")) -> bytes:
    """One of the seeds (plain values), made odd."""
    document = draw(mutated(draw(st.sampled_from(seeds))))
    text = _written(document, draw(st.sampled_from(styles)))
    return draw(spoiled(text.encode(errors="surrogatepass")))
