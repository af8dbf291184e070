"""What callers of `attach` and `finish` give, checked and put in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from topowatch_client import names

if TYPE_CHECKING:
    from collections.abc import Callable


def put_number(numbers: dict[str, float], name: str, value: Any) -> None:
    """Add a result under an acceptable name; raises whatever makes it no number."""
    numbers[names.of_value(name)] = float(value.detach() if hasattr(value, "detach") else value)


def probe_arguments(
    probe: tuple[Any, Any] | None,
    loss: Callable[[Any, Any], Any] | None,
    forward: Callable[[Any, Any], Any] | None,
    output: str,
    layer: str | None,
) -> dict[str, Any] | None:
    """Return the fields of `ProbeSettings`, None without a probe set; raises TypeError if that is no pair."""
    if probe is None:
        return None
    if not isinstance(probe, (tuple, list)) or len(probe) != 2:
        length = f" of {len(probe)}" if isinstance(probe, (tuple, list)) else ""
        raise TypeError(f"probe must be a pair (inputs, targets or None), not a {type(probe).__name__}{length}")
    inputs, targets = probe
    return {
        "inputs": inputs,
        "targets": targets,
        "loss": loss,
        "forward": forward,
        "output": output,
        "layer": layer,
    }
