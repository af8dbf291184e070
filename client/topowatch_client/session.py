"""Builds what a watched run consists of; imported only once there is a run to watch, because it brings torch along."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from topowatch_client import identity
from topowatch_client.governor import Budget, Governor
from topowatch_client.messages import RunFacts
from topowatch_client.observer import Observer
from topowatch_client.probes import Probe, ProbeSettings
from topowatch_client.sketch import FoldSketch
from topowatch_client.spool import SpoolWriter

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from topowatch_client.config import Config

_log = logging.getLogger("topowatch")


class Session(NamedTuple):
    """A watched run's parts."""

    observer: Observer
    spool: SpoolWriter


def open_session(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer | None,
    config: Config,
    *,
    run: str,
    rank: int,
    world_size: int,
    labels: Mapping[str, str],
    probe: Mapping[str, Any] | None,
) -> Session:
    """Open a spool and build the observer of one run.

    Raises:
        OSError: The spool directory cannot be written.
        ProbeError: The probe set cannot be used.
        TypeError: The model is no module, or the optimizer none that calls hooks.
    """
    _check_kinds(model, optimizer)
    plain = _unwrapped(model)
    sketch = FoldSketch(config.sketch_seed, config.sketch_dim)
    prober = None
    if probe is not None:
        prober = Probe(plain, ProbeSettings(**probe, positions=config.probe_positions), sketch)
    facts = RunFacts(
        group=config.group,
        run=run,
        rank=rank,
        world_size=world_size,
        writer_uuid=identity.new_writer_uuid(),
        labels=labels,
        sketch_dim=config.sketch_dim,
        sketch_seed=config.sketch_seed,
        parameter_count=sum(parameter.numel() for parameter in plain.parameters()),
    )
    spool = SpoolWriter(config.spool_dir, facts.writer_uuid, _meta(config, run), config.spool_max_bytes)
    budget = Budget(
        cap=config.max_overhead,
        interval=config.interval,
        probe_interval=config.probe_interval,
        probes=prober is not None,
    )
    governor = Governor(budget)
    if config.interval is not None and governor.interval != config.interval:
        _log.warning(
            "topowatch: intervals are powers of two: sampling every %d steps instead of %d",
            governor.interval,
            config.interval,
        )
    return Session(Observer(plain, optimizer, config, facts=facts, spool=spool, governor=governor, probe=prober), spool)


def _check_kinds(model: object, optimizer: object) -> None:
    import torch

    if isinstance(model, torch.optim.Optimizer):
        raise TypeError("model and optimizer are swapped: it is attach(model, optimizer)")
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"the model must be a torch.nn.Module, not {type(model).__name__}")
    if optimizer is not None and not hasattr(optimizer, "register_step_post_hook"):
        raise TypeError(
            f"the optimizer must be a torch.optim.Optimizer, not {type(optimizer).__name__}; "
            "a loop with another kind leaves it out and calls Watch.step()"
        )


def _meta(config: Config, run: str) -> dict[str, Any]:
    """What a forwarder must know to ship the spool. No secrets: a token file is named, not read."""
    paths = {name: getattr(config, name) for name in ("tls_ca", "tls_cert", "tls_key", "token_file")}
    return {
        "endpoint": config.endpoint,
        "mode": config.mode,
        "group": config.group,
        "run": run,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "created": time.time(),
        **{name: str(path) for name, path in paths.items() if path is not None},
    }


def _unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Return the module that torch.compile or DistributedDataParallel wraps."""
    from torch.nn.parallel import DataParallel, DistributedDataParallel

    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (DataParallel, DistributedDataParallel)):
            inner = model.module
        if inner is None:
            return model
        model = inner
