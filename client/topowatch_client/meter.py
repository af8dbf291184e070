"""Reads the clocks that watching is held against: wall, processor, and the device's own, without waiting for it."""

from __future__ import annotations

import time

import torch

from topowatch_client.governor import Spent


def now() -> Spent:
    """Return the wall clock and the processor time of all threads of this process."""
    return Spent(time.perf_counter(), time.process_time())


class Span:
    """Measures a stretch of work that may be queued on an accelerator."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._stream = torch.cuda.current_stream(device) if device is not None and device.type == "cuda" else None
        self._events = [self._mark()] if self._stream is not None else []
        self._began = now()
        self._host = Spent()

    def stop(self) -> Span:
        """Say that the work is done or queued."""
        self._host = now().minus(self._began)
        if self._stream is not None:
            self._events.append(self._mark())
        return self

    def passed(self, *, wait: bool) -> bool:
        """Say whether the device has passed the end of the work; `wait` until it has."""
        if wait and self._events:
            self._events[-1].synchronize()
        return not self._events or bool(self._events[-1].query())  # type: ignore[no-untyped-call] # as above

    def spent(self) -> Spent:
        """Return what was spent; on an accelerator only once that has passed the end of the work."""
        return Spent(max(self._host.wall, self._on_device()), self._host.cpu)

    def beyond_host(self) -> Spent:
        """Return what the device was busy with after the host had gone on; same condition."""
        return Spent(max(self._on_device() - self._host.wall, 0.0))

    def _on_device(self) -> float:
        return self._events[0].elapsed_time(self._events[1]) / 1e3 if len(self._events) == 2 else 0.0

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call] # torch leaves it untyped
        event.record(self._stream)
        return event
