"""The frame that spool, log and recordings share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from topowatch_protos import framing

frames = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=60)), max_size=8)


def encoded(entries: list[tuple[int, bytes]]) -> bytes:
    return framing.MAGIC + b"".join(framing.encode(kind, payload) for kind, payload in entries)


@given(frames)
def test_scan_returns_what_was_encoded(entries: list[tuple[int, bytes]]) -> None:
    data = encoded(entries)
    found = list(framing.scan(data))
    assert [(frame.kind, frame.payload) for frame in found] == entries
    assert [data[: frame.end] for frame in found] == [encoded(entries[: n + 1]) for n in range(len(entries))]


@given(frames, st.data())
def test_a_flipped_bit_ends_the_scan_before_its_frame(entries: list[tuple[int, bytes]], data: st.DataObject) -> None:
    """Nothing damaged is handed on, and nothing behind it is mistaken for a frame."""
    whole = encoded([*entries, (1, b"last")])
    position = data.draw(st.integers(len(framing.MAGIC), len(whole) - 1))
    flipped = bytearray(whole)
    flipped[position] ^= 1 << data.draw(st.integers(0, 7))
    intact = [frame for frame in framing.scan(whole) if frame.end <= position]
    assert list(framing.scan(bytes(flipped))) == intact


@given(frames, st.data())
def test_a_torn_file_gives_its_whole_frames(entries: list[tuple[int, bytes]], data: st.DataObject) -> None:
    whole = encoded(entries)
    end = data.draw(st.integers(len(framing.MAGIC), len(whole)))
    assert list(framing.scan(whole[:end])) == [frame for frame in framing.scan(whole) if frame.end <= end]


def test_zeros_are_no_frames() -> None:
    """A file that a crash has lengthened with zeros has no frames there."""
    assert list(framing.scan(framing.MAGIC + bytes(4096))) == []
