"""What is known of one group: its runs, its latest refit, the names of its classes, who has been outside how long."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from topowatch_monitor.engine.group_spread import no_spread
from topowatch_monitor.engine.placing import OUTSIDE_FOR
from topowatch_monitor.engine.view import FORGOTTEN
from topowatch_monitor.topology.path_classes import MIN_PATHS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from topowatch_monitor.engine.group_fit import GroupFit
    from topowatch_monitor.engine.group_view import GroupView
    from topowatch_monitor.engine.placing import GroupKey
    from topowatch_monitor.engine.view import RunView

NOT_YET = "its paths are about to be compared"


class Member(NamedTuple):
    """What a group needs of a run.

    Attributes:
        samples: stored ones.
        ended: whether it has ended.
        has_path: whether there is a path of its predictions.
        followed: whether its place on the atlas is known.
        outside: whether that place is off the map or agrees with no class.
    """

    samples: int
    ended: bool
    has_path: bool
    followed: bool
    outside: bool


class GroupState:
    """A group, from what the views of its runs and the refits say. Knows no clock and carries nothing out.

    Args:
        key: tenant and name.

    Attributes:
        key: as given.
        fit: the latest refit; None before the first since the engine's start.
        names: name of the class of each run that has or had one.
        free: the lowest name that no class has had.
        trouble: why the latest refit came to nothing; empty after one that did not.
        failures: refits in a row that came to nothing.
        timeouts, refused: of the group so far; see `GroupView`.
    """

    def __init__(self, key: GroupKey) -> None:
        self.key = key
        self.fit: GroupFit | None = None
        self.names: dict[str, int] = {}
        self.free = 0
        self.trouble = ""
        self.failures = 0
        self.timeouts = self.refused = 0
        self._version = self._fits = 0
        self._fitted_at: float | None = None
        self._members: dict[str, Member] = {}
        self._tried: dict[str, int] = {}
        self._evaluated: dict[str, int] = {}
        # Evaluations in a row at which a run was outside, and its samples at the last of them.
        self._streaks: dict[str, tuple[int, int]] = {}

    @property
    def empty(self) -> bool:
        """Whether no run of it is known."""
        return not self._members

    @property
    def ended(self) -> dict[str, int]:
        """Samples of each ended run that has a path."""
        return {name: member.samples for name, member in self._members.items() if member.ended and member.has_path}

    @property
    def outside(self) -> dict[str, int]:
        """Evaluations in a row at which runs were outside, of those that were."""
        return {name: count for name, (count, _) in self._streaks.items()}

    @property
    def wants_refit(self) -> bool:
        """Whether runs have ended, or gone on, since the latest refit looked at them, and enough have ended."""
        if self.fit is None and len(self.ended) < MIN_PATHS:
            return False
        return any(
            self._tried.get(name) != member.samples if member.ended else self._tried.get(name, inf) < member.samples
            for name, member in self._members.items()
            if member.has_path
        )

    def see(self, view: RunView) -> None:
        """Take in what is told of one of its runs."""
        if view["state"] == FORGOTTEN:
            for known in (self._members, self._tried, self._evaluated, self._streaks):
                known.pop(view["run"], None)
            return
        place = view["path_class"]
        self._members[view["run"]] = Member(
            samples=view["samples"],
            ended=view["state"] == "ended",
            has_path=view["representation"] is not None,
            followed=place["provisional"],
            outside=place["provisional"] and not place["compatible"],
        )

    def evaluate(self) -> bool:
        """Count for each run that came on since the last time whether it is outside; return whether a count changed.

        A run that is outside no more, has its place in the refit or lives in a group without an atlas begins at none.
        """
        before = self.outside
        for name, member in self._members.items():
            if self._settled(name, member) or (member.followed and not member.outside):
                self._streaks.pop(name, None)
            elif member.followed and not member.ended:
                count, samples = self._streaks.get(name, (0, self._evaluated.get(name, 0)))
                if member.samples > samples:
                    self._streaks[name] = count + 1, member.samples
        if self.fit is not None and self.fit.atlas is None:
            self._streaks.clear()
        self._evaluated = {name: member.samples for name, member in self._members.items() if member.followed}
        return self.outside != before

    def take(self, fit: GroupFit, tried: Mapping[str, int], now: float) -> None:
        """Take over a refit.

        Args:
            fit: what was found.
            tried: samples of the ended runs when it was begun; the shards may have been ahead of that.
            now: Unix seconds.
        """
        self.fit, self._tried, self._fitted_at = fit, {**tried, **fit.seen}, now
        self.trouble, self.failures = "", 0
        self._version += 1
        self._fits += 1
        if not fit.abstained:
            self.names |= {name: place.label for name, place in fit.places.items()}
            self.free = max(self.free, *(name + 1 for name in fit.names))
        self._streaks = {
            name: streak
            for name, streak in self._streaks.items()
            if fit.atlas is not None and not self._settled(name, self._members.get(name))
        }

    def give_up(self, tried: Mapping[str, int]) -> None:
        """Look at these ended runs no more: the answer would be the same."""
        self._tried = dict(tried)

    def view(self) -> GroupView:
        """What is told of the group."""
        tenant, group = self.key
        fit, ended = self.fit, self.ended
        reason = NOT_YET if fit is None else fit.reason
        if fit is None and len(ended) < MIN_PATHS:
            reason = f"{len(ended)} ended runs have a path of predictions: classes need at least {MIN_PATHS}"
        reason = self.trouble or reason
        return {
            "tenant": tenant,
            "group": group,
            "version": self._version,
            "fitted_at": self._fitted_at,
            "ended": len(ended),
            "live": sum(not member.ended for member in self._members.values()),
            "abstained": True if fit is None else fit.abstained,
            "reason": reason,
            "best_p": None if fit is None else fit.best_p,
            "explained": None if fit is None else fit.explained,
            "resolution": None if fit is None else fit.resolution,
            "scale": None if fit is None else fit.scale,
            "bars": [] if fit is None else fit.bars,
            "p_values": [] if fit is None else fit.p_values,
            "classes": [] if fit is None else fit.classes,
            "runs": [] if fit is None else fit.runs,
            "merges": [] if fit is None else fit.merges,
            "outliers": sorted(name for name, member in self._members.items() if self._is_outlier(name, member)),
            "spread": no_spread(reason) if fit is None else fit.spread,
            "fits": self._fits,
            "timeouts": self.timeouts,
            "refused": self.refused,
        }

    def state_dict(self) -> dict[str, Any]:
        """What has to outlive the engine; the rest is found again."""
        return {
            "key": list(self.key),
            "names": self.names,
            "free": self.free,
            "version": self._version,
            "counts": [self._fits, self.timeouts, self.refused],
            "streaks": {name: list(streak) for name, streak in self._streaks.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> GroupState:
        """The group that `state_dict` described."""
        tenant, name = state["key"]
        group = cls((tenant, name))
        group.names, group.free, group._version = state["names"], state["free"], state["version"]
        group._fits, group.timeouts, group.refused = state["counts"]
        group._streaks = {run: (count, samples) for run, (count, samples) in state["streaks"].items()}
        return group

    def _settled(self, name: str, member: Member | None) -> bool:
        """Whether the refit has seen all of a run that has ended, though it may have left it out."""
        seen = None if self.fit is None else self.fit.seen.get(name)
        return member is not None and member.ended and member.samples == seen

    def _is_outlier(self, name: str, member: Member) -> bool:
        if self.fit is not None and self._settled(name, member):
            return name in self.fit.places and self.fit.places[name].outlier
        return self._streaks.get(name, (0, 0))[0] >= OUTSIDE_FOR
