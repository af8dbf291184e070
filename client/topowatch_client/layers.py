"""Norms of parts, put together layer by layer: a layer is a module that has parameters of its own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from topowatch_client.messages import LayerStatistics
from topowatch_client.weights import ABSENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from topowatch_client.messages import Array

_LAYERS = 256  # that travel with one sample, evenly thinned
_FIELDS = {"norms": "weight_norm", "changes": "update_norm", "gradients": "gradient_norm"}


def by_layer(numbers: Mapping[str, Array], names: Sequence[str]) -> dict[str, LayerStatistics]:
    """Add up squares of the norms of a layer's parts.

    Args:
        numbers: `norms`, `changes`, `gradients`: one a part, ABSENT where there is none. All optional.
        names: Parameter name of each part.

    Returns:
        Statistics by module name; "" for parameters of the model itself.
    """
    modules = [name.rpartition(".")[0] for name in names]
    distinct = list(dict.fromkeys(modules))
    kept = set(distinct[:: -(-len(distinct) // _LAYERS)] if distinct else [])
    squares: dict[str, dict[str, float]] = {module: {} for module in distinct if module in kept}
    for key, field in _FIELDS.items():
        for module, norm in zip(modules, numbers[key].tolist() if key in numbers else (), strict=False):
            if module in kept and norm != ABSENT:
                squares[module][field] = squares[module].get(field, 0.0) + norm * norm
    return {
        module: LayerStatistics(**{field: math.sqrt(square) for field, square in found.items()})
        for module, found in squares.items()
    }
