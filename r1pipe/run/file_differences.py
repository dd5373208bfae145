"""Where two files of artifacts differ first: a tensor, a row, a key of JSON, or a byte."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from r1pipe.data.files import read_raw

ROWS = (".jsonl", ".jsonl.gz", ".parquet")
BLOCK_BYTES = 2**22
# Of safetensors' types, those that numpy knows; bf16 is the upper half of a float32.
NUMBERS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "U8": "u1"}


def first_difference(then: Path, now: Path) -> str:
    """Say where two files differ first; empty where they hold the same.

    Rows and JSON are compared by value, so that spaces and compression do not count.
    """
    if then.name.endswith(".safetensors"):
        return _of_tensors(then, now)
    if then.name.endswith(ROWS):
        return _of_rows(then, now)
    if then.name.endswith(".json"):
        try:
            return _of_values(_read_json(then), _read_json(now), ())
        except ValueError:
            pass
    return _of_bytes(then, now)


def _of_rows(then: Path, now: Path) -> str:
    pairs = zip_longest(read_raw(then), read_raw(now))
    for number, (one, other) in enumerate(pairs, 1):
        if one is None or other is None:
            shorter = "then" if one is None else "now"
            return f"row {number}: there are fewer rows {shorter}"
        _, row_then = one
        _, row_now = other
        what = _of_values(row_then, row_now, ())
        if what:
            name = row_then.get("id")
            return f"row {number} ({name}), {what}" if name else f"row {number}, {what}"
    return ""


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf8"))


def _of_values(then: Any, now: Any, keys: tuple[str, ...]) -> str:
    """The first place in two values of JSON where they differ, in the order of the first."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in [*then, *(key for key in now if key not in then)]:
            if key not in then or key not in now:
                return f"{'.'.join((*keys, str(key)))}: only {'now' if key in now else 'then'}"
            what = _of_values(then[key], now[key], (*keys, str(key)))
            if what:
                return what
        return ""
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for i, (one, other) in enumerate(zip(then, now, strict=True)):
            what = _of_values(one, other, (*keys, str(i)))
            if what:
                return what
        return ""
    # 1 is not True, and NaN is NaN
    if json.dumps(then, default=str) == json.dumps(now, default=str):
        return ""
    return f"{'.'.join(keys) or 'all'}: {_short(then)} then, {_short(now)} now"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _of_bytes(then: Path, now: Path) -> str:
    place = 0
    with then.open("rb") as one, now.open("rb") as other:
        while True:
            block = one.read(BLOCK_BYTES)
            block_now = other.read(BLOCK_BYTES)
            if block != block_now:
                same = next(
                    (i for i, (a, b) in enumerate(zip(block, block_now, strict=False)) if a != b), None
                )
                return f"byte {place + (min(len(block), len(block_now)) if same is None else same)}"
            if not block:
                return ""
            place += len(block)


# --- tensors ----------------------------------------------------------------------------------------------------------


def _of_tensors(then: Path, now: Path) -> str:
    header_then, begin_then = _header(then)
    header_now, begin_now = _header(now)
    for name in [*header_then, *(name for name in header_now if name not in header_then)]:
        if name not in header_then or name not in header_now:
            return f"tensor {name}: only {'now' if name in header_now else 'then'}"
        one = header_then[name]
        other = header_now[name]
        kinds = [f"{tensor['dtype']} {tensor['shape']}" for tensor in (one, other)]
        if kinds[0] != kinds[1]:
            return f"tensor {name}: {kinds[0]} then, {kinds[1]} now"
        blocks_then = _blocks(then, begin_then, one)
        blocks_now = _blocks(now, begin_now, other)
        differing = [pair for pair in zip(blocks_then, blocks_now, strict=True) if pair[0] != pair[1]]
        if differing:
            return f"tensor {name}: {_how_far(differing, one['dtype'])}"
    return ""


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Name -> dtype, shape and place of each tensor, in the order of the file; and where the first begins."""
    with path.open("rb") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(size))
    header.pop("__metadata__", None)
    ordered = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
    return dict(ordered), 8 + size


def _blocks(path: Path, begin: int, tensor: dict[str, Any]) -> Iterator[bytes]:
    start, end = tensor["data_offsets"]
    with path.open("rb") as stream:
        stream.seek(begin + start)
        for place in range(start, end, BLOCK_BYTES):
            yield stream.read(min(BLOCK_BYTES, end - place))


def _how_far(differing: list[tuple[bytes, bytes]], dtype: str) -> str:
    import numpy as np

    def numbers(block: bytes) -> Any:
        if dtype == "BF16":
            return (np.frombuffer(block, "<u2").astype("<u4") << 16).view("<f4")
        return np.frombuffer(block, NUMBERS.get(dtype, "u1")).astype("<f8")

    count = 0
    largest = 0.0
    for then, now in differing:
        apart = np.abs(numbers(then) - numbers(now))
        count += int((apart != 0).sum())
        largest = max(largest, float(np.nan_to_num(apart, nan=np.inf).max()))
    return f"{count} numbers differ, by at most {largest:.3g}"
