"""Where the runs of a shard stand by the latest refits of their groups."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from topowatch_monitor.engine.group_fit import OTHER_PROBES, OTHER_SKETCH
from topowatch_monitor.engine.view import no_class
from topowatch_monitor.topology import PathTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from topowatch_monitor.engine.group_fit import GroupFit
    from topowatch_monitor.engine.run_state import RunState
    from topowatch_monitor.engine.trace import Trace
    from topowatch_monitor.engine.view import ClassView, RunView
    from topowatch_monitor.topology import Atlas

log = logging.getLogger("topowatch.engine")

GroupKey = tuple[str, str]
Key = tuple[str, str, str]
# Evaluations in a row, each with new samples, at which a live run has to be outside before it is called an outlier.
OUTSIDE_FOR = 3
# Points of traces that one call of a shard may place: 60 ms (measured), so that samples do not wait for a new atlas.
POINTS_AT_ONCE = 256
NO_PREDICTIONS = "it has sent no predictions on its probes"
TO_COME = "its place among its siblings' paths is being found"


class Follower:
    """Keeps a live run's place on the atlas of its siblings, one edge a sample.

    Args:
        fit: the refit whose atlas it is.
        atlas: that atlas.
        trace: of the run.

    Attributes:
        fit: as given.
        failed: why the run cannot be followed; empty while it is.
    """

    def __init__(self, fit: GroupFit, atlas: Atlas, trace: Trace) -> None:
        self.fit = fit
        self.failed = ""
        self._trace, self._taken, self._rewritten = trace, trace.taken, trace.rewritten
        self._tracker = PathTracker(atlas)
        self._compatible: list[int] = []
        self._p_value = 1.0
        self._go(trace.points)

    def follow(self, trace: Trace) -> bool:
        """Go where the run has gone since, called after each of its messages; return whether that was possible.

        It is not where the run went back: then it has to be followed anew, from its beginning.
        """
        if trace is not self._trace or trace.rewritten != self._rewritten or trace.taken - self._taken not in (0, 1):
            return False
        if trace.taken != self._taken:
            self._taken = trace.taken
            self._go([trace.newest])
        return True

    def view(self, outside: int) -> ClassView:
        """What the run's place says of its class.

        Args:
            outside: evaluations in a row at which the run was outside.
        """
        if self.failed:
            return no_class(self.failed)
        distance = self._tracker.distance
        reason = ""
        if distance > 0:
            reason = f"it is off the map of its siblings' paths, by {distance:.3g}"
        elif not self._compatible:
            reason = "its path agrees with that of no sibling"
        return {
            "label": self._compatible[0] if len(self._compatible) == 1 else None,
            "p_value": self._p_value,
            "outlier": outside >= OUTSIDE_FOR,
            "abstained": False,
            "reason": reason,
            "provisional": True,
            "compatible": list(self._compatible),
            "distance": distance,
            "outside": outside,
        }

    def _go(self, points: Iterable[NDArray[np.float32]]) -> None:
        """Take points. What may go wrong with them must not reach the shard, nor cost it the sample."""
        if self.failed:
            return
        try:
            for point in points:
                self._tracker.add(point)
            self._compatible = sorted(self.fit.names[label] for label in self._tracker.compatible())
            self._p_value = self._tracker.p_value
        except Exception as error:
            self.failed = f"its path cannot be followed ({type(error).__name__}: {error})"
            log.error("%s", self.failed, exc_info=error)


class Placing:
    """Refits by group, and followers of the live runs in groups whose paths can be told apart.

    To find the place of a whole path takes as long as dozens of samples, so runs take turns: one that waits for its
    turn is followed on the refit before, if it was there.
    """

    def __init__(self) -> None:
        self._fits: dict[GroupKey, GroupFit] = {}
        self._outside: dict[GroupKey, dict[str, int]] = {}
        self._followers: dict[Key, Follower] = {}
        self._waiting: dict[Key, None] = {}  # a set that keeps the order

    @property
    def waiting(self) -> int:
        """Runs whose place is still to be found."""
        return len(self._waiting)

    def publish(self, group: GroupKey, fit: GroupFit, outside: Mapping[str, int], runs: Iterable[RunState]) -> None:
        """Take over a refit.

        Args:
            group: tenant and name.
            fit: what was found.
            outside: for how many evaluations in a row live runs were outside; none for those not named.
            runs: of the group, as many as there are here.
        """
        self._fits[group] = fit
        self._outside[group] = dict(outside)
        for run in runs:
            if not _followable(fit, run):
                self._followers.pop(run.key, None)
            else:
                self._waiting[run.key] = None

    def stand(self, group: GroupKey, outside: Mapping[str, int]) -> set[str]:
        """Take over for how many evaluations in a row live runs were outside; return the runs for which that is new."""
        before = self._outside.get(group, {})
        self._outside[group] = dict(outside)
        return {name for name in {*before, *outside} if before.get(name) != outside.get(name)}

    def follow(self, run: RunState) -> None:
        """Go where a run has gone since; called after each of its messages."""
        fit = self._fits.get(run.key[:2])
        if fit is None:
            return
        follower = self._followers.get(run.key)
        if not _followable(fit, run):
            self._followers.pop(run.key, None)
        elif follower is None or not follower.follow(run.told.probed.trace):
            self._followers.pop(run.key, None)
            self._waiting[run.key] = None

    def forget(self, key: Key) -> None:
        """Let a run go."""
        self._followers.pop(key, None)
        self._waiting.pop(key, None)

    def forget_group(self, group: GroupKey) -> None:
        """Let a refit go, and the places on it."""
        self._fits.pop(group, None)
        self._outside.pop(group, None)
        for key in [key for key in (*self._followers, *self._waiting) if key[:2] == group]:
            self.forget(key)

    def go_on(self, find: Callable[[Key], RunState | None]) -> list[RunState]:
        """Find the places of those that have waited longest, of a few; return them.

        Args:
            find: a run by its key; None if it is gone.
        """
        placed = []
        points = 0
        while self._waiting and points < POINTS_AT_ONCE:
            key = next(iter(self._waiting))
            run = find(key)
            if run is None:
                del self._waiting[key]
            elif self.place(run):
                points += len(run.told.probed.trace)
                placed.append(run)
        return placed

    def place(self, run: RunState) -> bool:
        """Find the place of a run now if it waits for that; return whether it has one since."""
        if run.key not in self._waiting:
            return False
        del self._waiting[run.key]
        fit = self._fits[run.key[:2]]
        if fit.atlas is None or not _followable(fit, run):
            return False
        self._followers[run.key] = Follower(fit, fit.atlas, run.told.probed.trace)
        return True

    def view(self, run: RunState, view: RunView) -> ClassView:
        """What is known of a run's class.

        Args:
            run: the run.
            view: what it says of itself.
        """
        fit = self._fits.get(run.key[:2])
        if fit is None:
            return view["path_class"]
        name = view["run"]
        place = fit.places.get(name)
        if place is not None and _settled(fit, run):
            return {
                "label": place.label,
                "p_value": place.p_value,
                "outlier": place.outlier,
                "abstained": fit.abstained,
                "reason": fit.reason,
                "provisional": False,
                "compatible": [place.label],
                "distance": None,
                "outside": 0,
            }
        if run.ended and place is None and name in fit.left_out:
            return no_class(fit.left_out[name])
        if obstacle := _obstacle(fit, run):
            return no_class(obstacle)
        follower = self._followers.get(run.key)
        return no_class(TO_COME) if follower is None else follower.view(self._outside[run.key[:2]].get(name, 0))


def _obstacle(fit: GroupFit, run: RunState) -> str:
    """Why the path of a run cannot be followed on the atlas of a refit; empty if it can."""
    if fit.atlas is None:
        return fit.reason
    if not len(run.told.probed.trace):
        return NO_PREDICTIONS
    if run.told.probed.digest.hex() != fit.digest:
        return OTHER_PROBES
    return "" if len(run.told.probed.trace.newest) == len(fit.atlas.projection.mean) else OTHER_SKETCH


def _followable(fit: GroupFit, run: RunState) -> bool:
    """Whether a run is to be followed: it is not in the refit itself, and nothing stands in the way."""
    return not _settled(fit, run) and not _obstacle(fit, run)


def _settled(fit: GroupFit, run: RunState) -> bool:
    """Whether the refit has seen all of a run that has ended."""
    place = fit.places.get(run.key[2])
    return place is not None and run.ended and place.samples == run.samples
