"""The replicas that a backlog is worth, and those that are kept, in simulated time."""

import pytest

from serve_app.coordinator.estimate import Backlog, BusyReplicas

TARGET_S = 30.0


def backlog(queued_s: list[float], running_s: tuple[float, ...] = ()) -> Backlog:
    waits_s = sum(min(seconds, TARGET_S) for seconds in queued_s)
    return Backlog(len(queued_s), sum(queued_s), waits_s, running_s)


@pytest.mark.parametrize(
    ("queued_s", "running_s", "needed"),
    [
        ([], (), 0),
        ([600.0], (), 1),
        ([], (600.0,), 1),
        ([], (0.0,), 1),
        ([600.0] * 8, (), 8),
        ([600.0] * 3, (600.0, 10.0), 5),
        ([1.0] * 60, (), 2),
        ([1.0] * 61, (), 3),
        ([1.0] * 20, (600.0,), 2),
        ([0.1] * 10_000, (), 34),
    ],
)
def test_there_are_as_many_replicas_as_make_the_wait_short_and_never_more_than_tasks(
    queued_s: list[float], running_s: tuple[float, ...], needed: int
) -> None:
    assert backlog(queued_s, running_s).needed(TARGET_S) == needed


def test_a_backlog_is_the_work_of_one_replica_alone() -> None:
    held = backlog([600.0, 5.0], (7.0,))
    assert (held.seconds, held.tasks) == (612.0, 3)


def seen(*busy: int, runs_s: float = 1.0) -> BusyReplicas:
    """Return the record of one look a second, of which the last five count."""
    replicas = BusyReplicas(10.0)
    for second, number in enumerate(busy):
        replicas.sample(float(second), [runs_s] * number)
    return replicas


def test_replicas_that_were_busy_lately_are_kept_with_room_to_spare() -> None:
    assert seen(*[3] * 10).kept == 4
    assert seen(*[3, 4] * 5).kept == 5


def test_a_running_replica_is_kept_however_rare_runs_have_been() -> None:
    assert seen(*[0] * 9, 6).kept == 6


def test_long_runs_keep_their_own_replicas_and_no_other_also_over_a_short_gap() -> None:
    assert seen(*[2] * 10, runs_s=600.0).kept == 2
    assert seen(*[2] * 9, 1, runs_s=600.0).kept == 2


@pytest.mark.parametrize("runs_s", [1.0, 600.0])
def test_a_look_of_longer_ago_counts_no_more(runs_s: float) -> None:
    assert seen(*[8] * 10, *[0] * 4, runs_s=runs_s).kept > 0
    assert seen(*[8] * 10, *[0] * 5, runs_s=runs_s).kept == 0


def test_nothing_is_kept_before_anything_was_seen() -> None:
    assert seen().kept == 0
