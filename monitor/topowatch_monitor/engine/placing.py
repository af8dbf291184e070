"""Where the runs of a shard stand by the latest refits of their groups."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from topowatch_monitor.engine.group_fit import OTHER_PROBES
from topowatch_monitor.engine.view import no_class
from topowatch_monitor.topology import PathTracker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from topowatch_monitor.engine.group_fit import GroupFit
    from topowatch_monitor.engine.run_state import RunState
    from topowatch_monitor.engine.trace import Trace
    from topowatch_monitor.engine.view import ClassView, RunView
    from topowatch_monitor.topology import Atlas

log = logging.getLogger("topowatch.engine")

GroupKey = tuple[str, str]
# Evaluations in a row, each with new samples, at which a live run has to be outside before it is called an outlier.
OUTSIDE_FOR = 3
NO_PREDICTIONS = "it has sent no predictions on its probes"


class Follower:
    """Keeps a live run's place on the atlas of its siblings: one edge a sample, all of its trace after a rewind.

    Args:
        atlas: of the group.
        trace: of the run.

    Attributes:
        failed: why the run cannot be followed; empty while it is.
    """

    def __init__(self, atlas: Atlas, trace: Trace) -> None:
        self._atlas = atlas
        self.failed = ""
        self._begin(trace)

    def follow(self, trace: Trace) -> None:
        """Go where the run has gone since; called after each of its samples."""
        if trace is not self._trace or trace.rewritten != self._rewritten or not trace.taken - self._taken in (0, 1):
            self._begin(trace)
        elif trace.taken != self._taken:
            self._taken = trace.taken
            self._go(trace)

    def on(self, atlas: Atlas) -> bool:
        """Whether it is this atlas that the run is followed on."""
        return atlas is self._atlas

    def view(self, names: list[int], outside: int) -> ClassView:
        """What the run's place says of its class.

        Args:
            names: of the atlas's classes.
            outside: evaluations in a row at which the run was outside.
        """
        if self.failed:
            return no_class(self.failed)
        compatible = sorted(names[label] for label in self._tracker.compatible())
        distance = self._tracker.distance
        reason = ""
        if distance > 0:
            reason = f"it is off the map of its siblings' paths, by {distance:.3g}"
        elif not compatible:
            reason = "its path agrees with that of no sibling"
        return {
            "label": compatible[0] if len(compatible) == 1 else None,
            "p_value": self._tracker.p_value,
            "outlier": outside >= OUTSIDE_FOR,
            "abstained": False,
            "reason": reason,
            "provisional": True,
            "compatible": compatible,
            "distance": distance,
            "outside": outside,
        }

    def _begin(self, trace: Trace) -> None:
        self._trace, self._taken, self._rewritten = trace, trace.taken, trace.rewritten
        self._tracker = PathTracker(self._atlas)
        self.failed = ""
        self._go(trace, whole=True)

    def _go(self, trace: Trace, *, whole: bool = False) -> None:
        """Take the newest point, or all. What may go wrong with it must not reach the shard, nor cost it the sample."""
        if self.failed:
            return
        try:
            for point in trace.points if whole else [trace.newest]:
                self._tracker.add(point)
        except Exception as error:  # noqa: BLE001 - as in `RunState.apply_message`
            self.failed = f"its path cannot be followed ({type(error).__name__}: {error})"
            log.error("%s", self.failed, exc_info=error)


class Placing:
    """Refits by group, and followers of the live runs in groups whose paths can be told apart."""

    def __init__(self) -> None:
        self._fits: dict[GroupKey, GroupFit] = {}
        self._outside: dict[GroupKey, dict[str, int]] = {}
        self._followers: dict[tuple[str, str, str], Follower] = {}

    def publish(self, group: GroupKey, fit: GroupFit, outside: Mapping[str, int]) -> None:
        """Take over a refit, and for how many evaluations in a row each live run was outside."""
        self._fits[group] = fit
        self._outside[group] = dict(outside)
        self._followers = {key: follower for key, follower in self._followers.items() if key[:2] != group}

    def stand(self, group: GroupKey, outside: Mapping[str, int]) -> None:
        """Take over for how many evaluations in a row these live runs were outside."""
        self._outside.setdefault(group, {}).update(outside)

    def follow(self, run: RunState) -> None:
        """Go where a run has gone since; called after each of its messages."""
        fit = self._fits.get(run.key[:2])
        if fit is not None:
            self._follower(fit, run)

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
        if view["state"] == "ended":
            place = fit.places.get(name)
            if place is not None and place.samples == view["samples"]:
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
            if place is None and name in fit.left_out:
                return no_class(fit.left_out[name])
        if fit.abstained:
            return no_class(fit.reason)
        if not len(run.probed.trace):
            return no_class(NO_PREDICTIONS)
        follower = self._follower(fit, run)
        if follower is None:
            return no_class(OTHER_PROBES)
        return follower.view(fit.names, self._outside[run.key[:2]].get(name, 0))

    def _follower(self, fit: GroupFit, run: RunState) -> Follower | None:
        """The run's follower, where it is now; None if it cannot be compared with its siblings."""
        trace = run.probed.trace
        if fit.atlas is None or not len(trace) or run.probed.digest.hex() != fit.digest:
            return None
        follower = self._followers.get(run.key)
        if follower is None or not follower.on(fit.atlas):
            follower = self._followers[run.key] = Follower(fit.atlas, trace)
        else:
            follower.follow(trace)
        return follower
