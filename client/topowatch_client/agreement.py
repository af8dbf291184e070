"""What the ranks of a sharded model agree on when they attach, through the key-value store of torch's process group.

No collective: a rank that never comes costs the others a wait, not the job.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECONDS = 60.0  # for the slowest rank to attach
_agreements: Counter[tuple[int, ...]] = Counter()  # by members: all of them attach their runs in the same order


class AgreementError(RuntimeError):
    """The other ranks are not to be reached; the message says what to do instead."""


class Agreement:
    """One attach() of all ranks that send parts of a model.

    Args:
        rank: This rank.
        members: All that take part, this one among them.
        seconds: How long to wait for the others.
    """

    def __init__(self, rank: int, members: Sequence[int], seconds: float = _SECONDS) -> None:
        self._rank = rank
        self._members = members
        self._seconds = dt.timedelta(seconds=seconds)
        number = _agreements[tuple(members)]
        _agreements[tuple(members)] += 1
        prefix = f"topowatch/{hash(tuple(members))}/{number}"  # of integers, which hash alike everywhere
        store = torch.distributed.distributed_c10d._get_default_store()
        self._store = torch.distributed.distributed_c10d.PrefixStore(prefix, store)

    def name(self, own: str) -> str:
        """Return the name that the lowest rank has for the run.

        Args:
            own: This rank's.

        Raises:
            AgreementError: The lowest rank does not say it in time.
        """
        if self._rank == min(self._members):
            self._store.set("run", own)
            return own
        if not self._wait(["run"]):
            raise AgreementError(
                f"rank {min(self._members)} did not attach within {self._seconds.total_seconds():.0f} s, so the run "
                "has no name that all ranks know: call attach on every rank, or give it run=…"
            )
        return self._store.get("run").decode()

    def all_ready(self, terms: str | None) -> bool:
        """Say whether every member is ready, on the same terms; all get the same answer, whoever comes late or never.

        Whoever sees first that all are ready, or that this cannot be waited for, decides for everyone.

        Args:
            terms: What the members must have alike; None: this one is not ready.
        """
        self._store.set(f"ready/{self._rank}", terms or "")
        keys = [f"ready/{member}" for member in self._members]
        vote = bool(terms) and self._wait(keys) and all(self._store.get(key).decode() == terms for key in keys)
        decision: bytes = self._store.compare_set("decision", "", "yes" if vote else "no")
        return decision == b"yes"

    def _wait(self, keys: list[str]) -> bool:
        try:
            self._store.wait(keys, self._seconds)
        except RuntimeError:  # DistStoreError in newer versions of torch, which is one
            return False
        return True
