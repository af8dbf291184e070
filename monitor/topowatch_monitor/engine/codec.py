"""State as bytes and back: nested dicts and lists of plain values and arrays, without pickle."""

from __future__ import annotations

import io
import json
import math
import struct
from typing import Any

import numpy as np

# Every JSON object of the header has one of these as its only key, so that no key of a state can be taken for another.
_ARRAY, _DICT = "array", "dict"
_KINDS = "biuf"  # of numbers, as NumPy calls them
_MOST_DIMENSIONS, _LONGEST = 32, 1 << 40
_HEAD = struct.Struct("<8sQ")  # _MAGIC, length of the header
_MAGIC = b"TOPOSTAT"
FORMAT = 4
_ARCHIVE = 3  # the one before, an npz file: what is known of groups may have been saved in it


class CodecError(ValueError):
    """The bytes are no state that this version can read."""


def encode(state: object) -> bytes:
    """Encode a state: magic and length (u64) of a JSON header, the header, and the bytes of all arrays in a row.

    Args:
        state: None, bool, int, float (NaN and infinities survive), str, ndarray of numbers, or lists and dicts (keyed
            by str) of these. Tuples come back as lists.

    Raises:
        TypeError: something else is in it.
    """
    chunks: list[memoryview] = []
    tree = _flatten(state, chunks, [0])
    header = json.dumps({"format": FORMAT, "state": tree}, separators=(",", ":")).encode()
    return b"".join([_HEAD.pack(_MAGIC, len(header)), header, *chunks])


def decode(data: bytes) -> Any:
    """Decode what `encode` made, here or in a version that made archives of it.

    Raises:
        CodecError: the bytes are damaged, or of another version.
    """
    try:
        return _decoded(data)
    except (CodecError, MemoryError):
        raise  # the latter says nothing of the bytes
    except Exception as error:  # of bytes that are not what they seem, NumPy, zipfile and JSON raise anything
        raise CodecError(f"damaged state: {error}") from error


def _decoded(data: bytes) -> Any:
    told, numbers, wanted = _of_parts(data) if data.startswith(_MAGIC) else _of_archive(data)
    header = json.loads(told)
    if header["format"] != wanted:
        raise CodecError(f"state has format {header['format']}, this version reads {FORMAT}")
    return _restore(header["state"], numbers)


def _of_parts(data: bytes) -> tuple[bytes, memoryview, int]:
    """Header, bytes of all arrays and format of what `encode` made."""
    if len(data) < _HEAD.size:
        raise CodecError(f"damaged state: it ends after {len(data)} bytes")
    _, length = _HEAD.unpack_from(data)
    end = _HEAD.size + length
    return data[_HEAD.size : end], memoryview(data)[end:], FORMAT


def _of_archive(data: bytes) -> tuple[bytes, memoryview, int]:
    """The same of an archive."""
    with np.load(io.BytesIO(data), allow_pickle=False) as members:
        return members["header"].tobytes(), memoryview(members["data"].tobytes()), _ARCHIVE


def _flatten(value: object, chunks: list[memoryview], size: list[int]) -> object:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, dict):
        if not all(type(key) is str for key in value):
            raise TypeError("keys of a state are strings")
        return {_DICT: {key: _flatten(item, chunks, size) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return [_flatten(item, chunks, size) for item in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in _KINDS:
        little = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
        chunks.append(little.data)
        start = size[0]
        size[0] += little.nbytes
        return {_ARRAY: [little.dtype.str, list(value.shape), start]}
    raise TypeError(f"a state holds plain values and arrays of numbers, not {type(value).__name__}")


def _restore(value: Any, numbers: memoryview) -> Any:
    if isinstance(value, dict):
        if _DICT in value:
            return {key: _restore(item, numbers) for key, item in value[_DICT].items()}
        name, shape, start = value[_ARRAY]
        dtype = np.dtype(name)
        sane = len(shape) <= _MOST_DIMENSIONS and all(0 <= size < _LONGEST for size in shape)
        if not sane or dtype.kind not in _KINDS or dtype.itemsize > 8:
            raise CodecError("damaged state: an array of an impossible kind or shape")
        count = math.prod(shape)
        array = np.frombuffer(numbers, dtype=dtype, count=count, offset=start) if count else np.empty(0, dtype)
        return array.reshape(shape).astype(dtype.newbyteorder("="))
    if isinstance(value, list):
        return [_restore(item, numbers) for item in value]
    return value
