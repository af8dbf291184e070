"""State to bytes and back, without pickle."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from topowatch_monitor.engine.codec import FORMAT, CodecError, decode, encode

keys = st.text() | st.sampled_from(["array", "dict", "__array__"])  # names that the codec itself might use
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text()
    | st.sampled_from([np.float32, np.float64, np.int64, np.int32, np.bool_, np.uint8]).flatmap(
        lambda dtype: arrays(dtype, array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    )
)
states = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=20)


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and (a == b or (isinstance(a, float) and np.isnan(a) and np.isnan(b)))


@settings(max_examples=200, deadline=None)
@given(states)
def test_every_state_comes_back_as_it_was(state):
    assert same(decode(encode(state)), state)


def test_nan_and_infinities_survive_and_tuples_become_lists():
    found = decode(encode({"a": (np.nan, np.inf, -np.inf), "b": np.array([np.nan, np.inf])}))
    assert np.isnan(found["a"][0])
    assert found["a"][1:] == [np.inf, -np.inf]
    np.testing.assert_array_equal(found["b"], [np.nan, np.inf])


def test_restored_arrays_can_be_written_to_and_share_nothing():
    original = np.zeros(3)
    [first, second] = decode(encode([original, original]))
    first[0] = 1
    assert second[0] == original[0] == 0


@pytest.mark.parametrize("state", [object(), {1: 2}, b"bytes", np.float64(1), np.array(["text"]), np.array([None])])
def test_what_is_no_plain_state_is_refused(state):
    with pytest.raises(TypeError, match="state"):
        encode(state)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:0], lambda b: b[:40], lambda b: b[: len(b) // 2], lambda b: b"x" * len(b)]
)
def test_damaged_bytes_raise_one_kind_of_error(damage):
    with pytest.raises(CodecError):
        decode(damage(encode({"a": np.arange(100)})))


def packed(header: bytes, data: bytes = b"") -> bytes:
    return b"TOPOSTAT" + len(header).to_bytes(8, "little") + header + data


def archive(header: bytes, data: bytes = b"") -> bytes:
    """The same as format 3 had it."""
    buffer = io.BytesIO()
    np.savez(buffer, header=np.frombuffer(header, dtype=np.uint8), data=np.frombuffer(data, dtype=np.uint8))
    return buffer.getvalue()


def told(number: int, state: object) -> bytes:
    return json.dumps({"format": number, "state": state}).encode()


LIES = [
    {"array": ["<f8", [9], 0]},
    {"array": ["<f8", [-1], 0]},
    {"array": ["<f8", [-1, 8], 0]},
    {"array": ["<f8", [0, 1 << 40], 0]},
    {"array": ["<f8", [0] * 33, 0]},
    {"array": ["<f16", [1], 0]},
    {"array": ["V8", [1], 0]},
    {"array": ["O", [1], 0]},
    {"array": ["01f8", [1], 0]},
    {"array": ["i8, 1 2", [1], 0]},
    {"array": 3},
    {"dict": 3},
]


@pytest.mark.parametrize(("pack", "number"), [(packed, FORMAT), (archive, 3)])
@pytest.mark.parametrize("state", LIES)
def test_headers_that_lie_raise_the_same_error(pack, number, state):
    with pytest.raises(CodecError, match="damaged"):
        decode(pack(told(number, state), bytes(64)))


@pytest.mark.parametrize("pack", [packed, archive])
@pytest.mark.parametrize("header", [b"no json", b"{}", b"3", bytes([255]), b"", b"[" * 100_000])
def test_what_is_no_header_raises_it_too(pack, header):
    with pytest.raises(CodecError, match="damaged"):
        decode(pack(header))


@pytest.mark.parametrize("length", [9, 2**63, 2**64 - 1])
def test_a_header_that_is_longer_than_all_raises_it_too(length):
    with pytest.raises(CodecError, match="damaged"):
        decode(b"TOPOSTAT" + length.to_bytes(8, "little") + b"{}")


def test_an_archive_of_the_version_before_can_be_read():
    """What was told of groups is saved nowhere else."""
    header = told(3, {"dict": {"x": {"array": ["<f8", [2], 0]}, "y": [1]}})
    found = decode(archive(header, np.array([1.5, np.inf]).tobytes()))
    assert same(found, {"x": np.array([1.5, np.inf]), "y": [1]})


@pytest.mark.parametrize("pack", [packed, archive])
def test_a_newer_format_says_so(pack):
    with pytest.raises(CodecError, match=f"format {FORMAT + 1}"):
        decode(pack(told(FORMAT + 1, 0)))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 499), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_changed_archive_is_damaged_or_another_state(changes):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, header=np.frombuffer(told(3, [1, "x"]), dtype=np.uint8), data=np.zeros(9, np.uint8))
    data = bytearray(buffer.getvalue())
    for place, value in changes:
        data[place % len(data)] = value
    with contextlib.suppress(CodecError):
        decode(bytes(data))


def test_objects_inside_an_archive_are_never_unpickled():
    buffer = io.BytesIO()
    np.savez(buffer, header=np.array([{"a": 1}], dtype=object), data=np.zeros(1))
    with pytest.raises(CodecError):
        decode(buffer.getvalue())
