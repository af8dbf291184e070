"""The page docs/detectors.md, made of the catalogue and of what its thresholds say of themselves.

`python tests/detectors_page.py` writes it anew; a test holds it against the code.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from topowatch_monitor.detect import DETECTORS, Thresholds

PAGE = Path(__file__).parents[1] / "docs" / "detectors.md"
HEAD = """# Detectors

What the daemon looks for in every run. A detector that is on shows as a flag with its reason in `topowatch show`, on
the page and in the JSON of a run, and as `topowatch_detector_active{detector="…"}`. Critical ones say that a minimum is
being lost: they alone can set `topowatch_minimum_unstable`. Warnings are for people. A run has at most 35 series; those
of its critical detectors come first.

Detectors on layers name the worst layer and how many there are. They need what the client sends with probe passes or,
without a probe set, with a training step now and then: norms of weights, updates and gradients by layer (256 layers at
most, evenly thinned) and moments of the activations of 64 modules. They say nothing of sharded models, where a rank
knows its own part alone. Those that judge by the run's own past (`activation_kurtosis`, `attention_collapse`,
`exploding_tensor`, `gradient_norm`, `rank_collapse`, `variance_growth`) are silent until there is one. Activations that
are plain functions (`torch.tanh`, `torch.nn.functional.relu`) are no modules, and are not seen.

Attention is seen of modules that return its weights beside their output: `nn.MultiheadAttention` called with
`need_weights`, modules of Hugging Face Transformers with `attn_implementation="eager"`, and others of that kind, 64 at
most. Fused attention (`scaled_dot_product_attention`, `nn.TransformerEncoderLayer`) makes no weights. Weights after
dropout do not add up to 1 and do not count: those of a model with dropout on attention are seen in probe passes alone.
Of weights that are averaged over heads (as `nn.MultiheadAttention` does unless told otherwise) a collapse shows only if
all heads look at the same position.

This page is generated from the code by `python tests/detectors_page.py`.
"""


def page() -> str:
    """Return the text of the page."""
    rows = [f"| `{each.name}` | {each.severity} | {each.meaning} |" for each in DETECTORS]
    table = ["| detector | severity | what it says |", "|---|---|---|", *rows]
    names = [*(each.name for each in DETECTORS), "low_loss"]
    return "\n".join([HEAD, *table, "", *(line for name in names for line in _section(name))]).rstrip() + "\n"


def explanations(thresholds: Any) -> dict[str, str]:
    """What a class of thresholds says of each, by name, from the section Attributes of its docstring."""
    text = (type(thresholds).__doc__ or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", text, re.MULTILINE)
    return {name: " ".join(said.split()) for name, said in entries}


def _section(name: str) -> list[str]:
    thresholds = getattr(Thresholds(), name, None)
    if thresholds is None:
        return []
    said = (type(thresholds).__doc__ or "").partition("Attributes:")[0].split()
    rows = [
        f"| `{field}` | {getattr(thresholds, field):g} | {text[0].upper()}{text[1:]} |"
        for field, text in explanations(thresholds).items()
    ]
    return [
        f"## {name}",
        "",
        " ".join(said),
        "",
        "| threshold | default | unit and reason |",
        "|---|---|---|",
        *rows,
        "",
    ]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
