"""Whole files and values made wrong."""

import json
import math
import struct

from hypothesis import strategies as st

STRANGE = [
    None, True, False, 0, -1, 1, 2, 3, 7, 10**6, 10**9, 2**31, 2**63, 10**30, 10**400, -(10**9), 0.5, -0.0, 1e-300, 1e300,
    math.inf, math.nan, "", "clip", "../..", "/etc", "a" * 300, "1", "\x00", "\x1b[2J\n", "\ud800", "..", "local-dir:/tmp",
    "cuda", [], {}, [1], [0], [-1], ["x"], [[]], {"x": 1}, [1, 2, 3], [10**9], {"": None}, [None] * 50,
]  # fmt: skip

values = st.one_of(
    st.sampled_from(STRANGE), st.integers(), st.floats(), st.text(max_size=20),
    st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
                 | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5),
)  # fmt: skip


@st.composite
def damaged(draw, content, most=6):
    """Bytes with some flipped, cut out, put in or repeated."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(["flip", "set", "cut", "insert", "end", "repeat"]))
        length = draw(st.sampled_from([1, 2, 4, 8, 100, 512]))
        if kind == "flip" and at < len(content):
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set":
            byte = draw(st.sampled_from([b"\0", b"\1", b"0", b"\x7f", b"\x80", b"\xff"]))
            content[at : at + length] = byte * len(content[at : at + length])
        elif kind == "cut":
            del content[at : at + length]
        elif kind == "insert":
            content[at:at] = draw(st.binary(max_size=16))
        elif kind == "end":
            del content[at:]
        elif kind == "repeat":
            content[at:at] = content[at : at + length]
    return bytes(content)


@st.composite
def changed(draw, value, most=3):
    """A JSON value with some of what is in it replaced, left out or added."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, most))):
        value = draw(_changed_once(value))
    return value


@st.composite
def _changed_once(draw, value):
    inside = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not inside or draw(st.integers(0, 9)) == 0:
        return draw(values)
    key = draw(st.sampled_from(inside))
    kind = draw(st.sampled_from(["deeper", "deeper", "replace", "leave out", "add"]))
    value = value.copy()
    if kind == "deeper":
        value[key] = draw(_changed_once(value[key]))
    elif kind == "replace":
        value[key] = draw(values)
    elif kind == "leave out":
        del value[key]
    elif isinstance(value, dict):
        value[draw(st.text(max_size=8) | st.sampled_from(["unet", "clip", "layers", "auto_map"]))] = draw(values)
    else:
        value.append(draw(values))
    return value


@st.composite
def texts_of(draw, value):
    """A JSON file's bytes: of a changed value, or damaged."""
    if draw(st.booleans()):
        return json.dumps(draw(changed(value))).encode()
    return draw(damaged(json.dumps(value).encode()) | st.binary(max_size=50) | st.integers(1, 5000).map(lambda n: b"[" * n))


@st.composite
def weights_of(draw, content):
    """A safetensors file's bytes: damaged, or with a header that says something else."""
    kind = draw(st.sampled_from(["bytes", "header", "header", "length"]))
    if kind == "bytes":
        return draw(damaged(content))
    (length,) = struct.unpack("<Q", content[:8])
    if kind == "length":
        return struct.pack("<Q", draw(st.integers(0, 2**64 - 1) | st.integers(0, 2 * length))) + content[8:]
    header = json.loads(content[8 : 8 + length])
    name = draw(st.sampled_from(sorted(header)))
    if draw(st.booleans()):  # as far as it goes a header that could be true
        entry = header.pop(name)
        key = draw(st.sampled_from(["shape", "dtype", "name"]))
        if key == "shape" and entry.get("shape"):
            entry["shape"] = entry["shape"][::-1] + draw(st.sampled_from([[], [1], [0]]))
        elif key == "dtype":
            entry["dtype"] = draw(st.sampled_from(["F16", "BF16", "I16", "U8", "F64", "BOOL", "F8_E4M3", "X"]))
        header[name if key != "name" else draw(st.text(max_size=30))] = entry
    else:
        header[name] = draw(changed(header[name]))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]
