"""Builds what a watched run consists of; imported only once there is a run to watch, because it brings torch along."""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from topowatch_client import identity
from topowatch_client.agreement import Agreement
from topowatch_client.governor import Budget, Governor
from topowatch_client.messages import RunFacts
from topowatch_client.observer import Observer
from topowatch_client.probes import Probe, ProbeSettings
from topowatch_client.shards import Patterns, Shards, foreign_sharding, rank_and_world
from topowatch_client.sketch import FoldSketch
from topowatch_client.spool import SpoolWriter
from topowatch_client.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from topowatch_client.config import Config

_log = logging.getLogger("topowatch")


class Session(NamedTuple):
    """A watched run's parts."""

    run: str
    observer: Observer
    spool: SpoolWriter


class Asked(NamedTuple):
    """What the caller of `attach` wants of a run, beside its configuration."""

    run: str
    shared: bool  # whether all ranks call the run so
    labels: Mapping[str, str]
    probe: Mapping[str, Any] | None


class NothingToSendError(Exception):
    """Other ranks send all there is; the message says which."""


def open_session(
    model: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    config: Config,
    asked: Asked,
    launched: tuple[int, int],
) -> Session:
    """Open a spool and build the observer of one run.

    Args:
        model: As given to `attach`.
        optimizers: Whose steps are counted.
        config: Settings.
        asked: Name, labels and probe set.
        launched: (rank, world size) as the launcher says.

    Raises:
        NothingToSendError: This rank holds nothing but replicas of what others send.
        AgreementError: A sharded run has no name that all ranks know.
        OSError: The spool directory cannot be written.
        ProbeError: The probe set cannot be used.
    """
    rank, world_size = rank_and_world(launched)
    plain = _unwrapped(model)
    shards = Shards(plain, rank, Patterns(config.include, config.exclude))
    senders = shards.senders
    if rank not in senders:
        kind = "the model is replicated" if not shards.sharded else "it holds a replica of what others send"
        who = f"rank {senders[0]} sends" if len(senders) == 1 else f"ranks {_ranges(senders)} send"
        raise NothingToSendError(f"rank {rank} of {world_size}: {kind} and {who}")
    agreement = Agreement(rank, senders) if len(senders) > 1 else None
    if agreement is not None and not asked.shared:
        asked = asked._replace(run=agreement.name(asked.run))
    together = asked.probe is not None and shards.sharded
    terms = None
    try:
        session = _build(shards, optimizers, config, asked, (rank, world_size))
        terms = session.observer.terms
    finally:
        agreed = agreement is None or not together or agreement.all_ready(terms)
    if together:
        session.observer.probe_together(agreed=agreed)
    elif asked.probe is not None and world_size > 1 and (foreign := foreign_sharding(plain)):
        session.observer.probe_never(f"the model is sharded by {foreign}, whose passes may take all ranks at once")
    return session


def _build(
    shards: Shards,
    optimizers: Sequence[torch.optim.Optimizer],
    config: Config,
    asked: Asked,
    place: tuple[int, int],
) -> Session:
    sketch = FoldSketch(config.sketch_seed, config.sketch_dim)
    prober = None
    if asked.probe is not None:
        prober = Probe(shards.model, ProbeSettings(**asked.probe, positions=config.probe_positions), sketch)
    facts = RunFacts(
        group=config.group,
        run=asked.run,
        rank=place[0],
        world_size=place[1],
        contributing_ranks=len(shards.senders),
        writer_uuid=identity.new_writer_uuid(),
        labels=asked.labels,
        sketch_dim=config.sketch_dim,
        sketch_seed=config.sketch_seed,
        parameter_count=shards.parameter_count,
    )
    spool = SpoolWriter(config.spool_dir, facts.writer_uuid, _meta(config, asked.run), config.spool_max_bytes)
    budget = Budget(
        cap=config.max_overhead,
        interval=config.interval,
        probe_interval=config.probe_interval,
        pulse_interval=config.pulse_interval,
        critical_interval=config.critical_interval,
        probes=prober is not None,
        excursions=not shards.sharded,
    )
    governor = Governor(budget)
    if config.interval is not None and governor.interval != config.interval:
        _log.warning(
            "topowatch: intervals are powers of two: sampling every %d steps instead of %d",
            governor.interval,
            config.interval,
        )
    weights = Weights(shards, sketch)
    observer = Observer(weights, optimizers, config, facts=facts, spool=spool, governor=governor, probe=prober)
    return Session(asked.run, observer, spool)


def _ranges(ranks: Sequence[int]) -> str:
    """Write sorted ranks as "0–7, 16"."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and runs[-1][1] == rank - 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ", ".join(f"{first}–{last}" if first < last else str(first) for first, last in runs)


def check_model(model: object) -> None:
    """Raise TypeError unless `model` is a module."""
    import torch

    if isinstance(model, torch.optim.Optimizer):
        raise TypeError("model and optimizer are swapped: it is attach(model, optimizer)")
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"the model must be a torch.nn.Module, not {type(model).__name__}")


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
