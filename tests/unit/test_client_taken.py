"""A sample on its way: all of it in one tensor, wherever its parts came from."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from topowatch_client.excursions import Findings
from topowatch_client.news import Taken as News
from topowatch_client.scalars import Waiting
from topowatch_client.sketch import FoldSketch
from topowatch_client.taken import take
from topowatch_client.weights import Look


def test_what_was_found_on_another_device_than_the_weights_comes_along() -> None:
    """A gradient lies where the trained parameters do, the sketch of all on an accelerator if any part does."""
    with FakeTensorMode():  # stands in for a second device, which this machine may not have
        here, there = (torch.zeros(FoldSketch().dim, device=device) for device in ("cpu", "meta"))
        findings = Findings(gradient=there, losses=there[:9])
        scalars = Waiting({"loss": {3: there[0], 4: there[1]}})
        taken = take(3, News(scalars, ([3], there[:4])), Look([], here[None]), gradients=False, findings=findings)
    assert taken.host.device.type == "cpu"
    assert len(taken.host) == sum(length for _, length in taken.layout)
    assert {"weights", "gradient", "slice", "pulse", "scalars"} <= {name for name, _ in taken.layout}
