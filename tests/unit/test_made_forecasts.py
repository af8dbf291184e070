"""Forecasts that were made of a run are in its log: kept, restored, and gone with the steps that they rest on."""

from __future__ import annotations

from topowatch_monitor.engine.codec import decode, encode
from topowatch_monitor.engine.made_forecasts import MOST, MadeForecasts
from topowatch_monitor.engine.routing import shard_of_key, shards_of
from topowatch_monitor.engine.run_state import RunState
from topowatch_monitor.engine.shard import Part, Shard
from topowatch_protos.framing import LogKind
from topowatch_protos.v1 import log_pb2, run_pb2

KEY = run_pb2.RunKey(tenant="t", group="g", run="r")


def record(step: int, value: float = 0.5, *, metric: str = "acc", abstained: bool = False) -> log_pb2.Forecast:
    return log_pb2.Forecast(
        key=KEY, step=step, metric=metric, value=value, lower=value - 0.1, upper=value + 0.1, abstained=abstained
    )


def test_of_each_step_the_first_counts_and_abstentions_do_not() -> None:
    forecasts = MadeForecasts()
    for each in (record(10), record(10, 0.9), record(5), record(20, 0.7), record(30, abstained=True)):
        forecasts.add(each)
    assert [(made.step, made.value) for made in forecasts.made] == [(10, 0.5), (20, 0.7)]
    forecasts.add(record(20, 0.1, metric="gap"))
    assert [(made.step, made.metric) for made in forecasts.made] == [(10, "acc"), (20, "acc"), (20, "gap")]
    forecasts.discard(15, 25)
    assert [made.step for made in forecasts.made] == [10]
    for step in range(100, 100 + 2 * MOST):
        forecasts.add(record(step))
    assert len(forecasts.made) == MOST


def test_a_run_takes_them_from_the_log_and_loses_them_when_it_goes_back() -> None:
    run = RunState("t", "g", "r")
    for incarnation, start in ((1, 0), (2, 15)):
        opened = log_pb2.RunOpened()
        opened.descriptor.key.CopyFrom(KEY)
        opened.descriptor.incarnation, opened.descriptor.start_step = incarnation, start
        assert run.apply(LogKind.RUN_OPENED, opened.SerializeToString())
        if incarnation == 1:
            run.told.step = 25
            for step in (10, 20):
                assert run.apply(LogKind.FORECAST, record(step).SerializeToString())
            again = RunState.from_state(decode(encode(run.state_dict())))
            assert again.told.forecasts.made == run.told.forecasts.made
            assert [made.step for made in run.told.forecasts.made] == [10, 20]
    assert [made.step for made in run.told.forecasts.made] == [10]


def test_they_go_to_the_shard_of_their_run() -> None:
    payload = record(10).SerializeToString()
    number = shard_of_key(KEY)
    assert shards_of(LogKind.FORECAST, payload) == (number,)
    shard = Shard()
    shard.load(number, 1, 0, None)
    result = shard.apply([Part(number, 1, 0, 1, [(0, LogKind.FORECAST, payload)])])
    assert (result.damaged, [view["run"] for view in result.views]) == (0, ["r"])
