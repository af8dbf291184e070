"""One of the demo's training jobs: a small network on scikit-learn's digits, as a user would write it.

Run as `python -m topowatch_monitor.demo.trainer --run NAME --seed N [--spoil destabilise|random-labels]`.
All that topowatch needs are the lines with `watch`.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

import topowatch_client

STEPS = 4000
BATCH = 64
PROBES = 256
RAMP = (0.3, 0.6)  # where a destabilised run's learning rate climbs, as shares of the steps
RAMP_FACTOR = 100.0
NOISE = 0.4  # share of random labels


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's 1,797 digits: images (n, 1, 8, 8) in [0, 1] and labels (n,), in a fixed random order."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    scaled = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16.0
    return scaled[order], torch.tensor(labels)[order]


def network() -> nn.Module:
    """A convolutional network of 38,282 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 16, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def learning_rate(step: int, steps: int, *, destabilise: bool) -> float:
    """0.02, and in a destabilised run climbing exponentially to `RAMP_FACTOR` times that."""
    first, last = (share * steps for share in RAMP)
    climbed = min(max((step - first) / (last - first), 0.0), 1.0) if destabilise else 0.0
    return 0.02 * float(RAMP_FACTOR**climbed)


def train(run: str, seed: int, steps: int, spoil: str | None) -> None:
    """Train, watched; the endpoint and the spool come from the environment."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    images, labels = digits()
    probes, test, training = (slice(0, PROBES), slice(PROBES, 2 * PROBES), slice(2 * PROBES, None))
    x, y = images[training], labels[training].clone()
    if spoil == "random-labels":
        chosen = torch.rand(len(y)) < NOISE
        y[chosen] = torch.randint(10, (int(chosen.sum()),))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=3e-3)
    loss_of = nn.CrossEntropyLoss()

    watch = topowatch_client.attach(
        model,
        optimizer,
        run=run,
        group="digits",
        labels={"seed": str(seed), "data": spoil or "clean"},
        probe=(images[probes], labels[probes]),
        loss=nn.CrossEntropyLoss(reduction="none"),
    )
    for step in range(steps):
        rate = learning_rate(step, steps, destabilise=spoil == "destabilise")
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = torch.randint(len(y), (BATCH,))
        loss = loss_of(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        watch.log(loss=loss)
    with torch.no_grad():
        accuracy = (model.eval()(images[test]).argmax(1) == labels[test]).double().mean().item()
    watch.finish(test_accuracy=accuracy)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--spoil", choices=["destabilise", "random-labels"])
    arguments = parser.parse_args()
    train(arguments.run, arguments.seed, arguments.steps, arguments.spoil)
