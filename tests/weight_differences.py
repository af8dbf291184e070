"""Differences of weights that sketches have to keep the length of: structured ones, and those along a real path."""

from __future__ import annotations

import torch

ROWS, COLUMNS = 384, 512  # a width that has a factor in common with powers of two
# What the 99th percentile of the relative error of a length may be.
BARS = {
    "gaussian": 0.08,
    "rank-one": 0.08,
    "relu rank-one": 0.08,
    "sign of rank-one": 0.08,
    "heavy row": 0.08,
    "heavy column": 0.08,
    "20-sparse": 0.08,
    "uneven 20-sparse": 0.12,  # two large elements that share a bucket: the limit of one bucket an element
    "relu gradient": 0.08,
    "first adam step": 0.08,
    "constant": 0.12,
}


def differences(kind: str, random: torch.Generator) -> torch.Tensor:
    """One structured difference, ROWS × COLUMNS."""
    rows, columns = ROWS, COLUMNS
    u, v = torch.randn(rows, 1, generator=random), torch.randn(1, columns, generator=random)
    if kind == "gaussian":
        return torch.randn(rows, columns, generator=random)
    if kind == "rank-one":
        return u @ v
    if kind == "relu rank-one":
        return u.relu() @ v.relu()
    if kind == "sign of rank-one":
        return (u @ v).sign()
    if kind == "constant":
        return torch.ones(rows, columns)
    delta = torch.zeros(rows, columns)
    if kind == "heavy row":
        delta[int(torch.randint(rows, (1,), generator=random))] = 1 + v[0].abs()
    elif kind == "heavy column":
        delta[:, int(torch.randint(columns, (1,), generator=random))] = 1 + u[:, 0].abs()
    elif "sparse" in kind:
        chosen = torch.randperm(rows * columns, generator=random)[:20]
        sizes = torch.randn(20, generator=random)
        delta.view(-1)[chosen] = sizes if kind == "uneven 20-sparse" else sizes.sign()
    else:
        inputs = torch.randn(64, columns, generator=random)
        weights = torch.randn(rows, columns, generator=random) / columns**0.5
        activity = inputs @ weights.T
        gradient = ((activity.relu() - 1) * (activity > 0)).T @ inputs / 64
        delta = gradient if kind == "relu gradient" else gradient / (gradient.abs() + 1e-8)
    return delta


def training_path(steps: int) -> list[dict[str, torch.Tensor]]:
    """Weights of a small network before and after each of some steps of Adam."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    inputs, targets = torch.randn(512, 64), torch.randint(0, 10, (512,))
    path = []
    for _ in range(steps + 1):
        path.append({name: values.detach().clone() for name, values in model.named_parameters()})
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return path
