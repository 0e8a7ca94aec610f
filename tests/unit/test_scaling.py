"""The figures of a model for Serve's policy, and the first ticket of a model without replicas."""

from pathlib import Path

import pytest

from serve_app import scaling_policy
from serve_app.config.model_settings import AutoscalingSettings, ModelSettings
from serve_app.coordinator.scaling import Scaling
from serve_app.store.database import Database
from serve_app.store.fleet import Fleet
from serve_app.store.leadership import Seat
from serve_app.store.run_ledger import RunLedger
from serve_app.store.task_store import TaskStore
from serve_app.tasks.admission import Admission
from serve_app.tasks.replica import Replica, Scale
from serve_app.tasks.task import NewTask, TaskSpec
from tests.contract.tasks import at

SPEC = TaskSpec("a", "", 64, 64, 5, 16, 4, 5.0, 5.0, 1)


def figures(deployment: str, need: int, keep: int) -> dict[str, float]:
    """Return the figures of one deployment, without the coordinator's own sign of life."""
    alive = scaling_policy.figures(scaling_policy.COORDINATOR, 1, 1)
    return {**alive, **scaling_policy.figures(deployment, need, keep)}


class Scene:
    """A store with tasks, and the scaling of three models over it: by work, by requests, and fixed."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.store = TaskStore(database)
        self.fleet = Fleet(database)
        self.backlogs: dict[str, float] = {}
        self.now = 1000.0
        self.stopping: frozenset[str] = frozenset()
        self.seat = Seat(epoch=1, generation=1, leads=True)
        self.scaling = self.another()

    def another(self) -> Scaling:
        rules = AutoscalingSettings(min_replicas=0, max_replicas=4)
        counted = AutoscalingSettings(min_replicas=0, max_replicas=4, by="requests")
        models = [
            ModelSettings(name="demo", variant="demo", weights=Path("w"), autoscaling=rules),
            ModelSettings(name="counted", variant="demo", weights=Path("w"), autoscaling=counted),
            ModelSettings(name="fixed", variant="demo", weights=Path("w"), replicas=2),
        ]
        windows = {"demo": 4, "counted": 4, "fixed": 2}
        return Scaling(
            self.database,
            self.fleet,
            models,
            windows,
            lambda model: self.stopping,
            lambda: self.seat,
            seen_within_s=6.0,
            on_backlog=self.backlogs.__setitem__,
        )

    async def submit(self, *works: float, model: str = "demo") -> None:
        for index, work in enumerate(works):
            name = f"{model}-{index}"
            await self.store.submit(NewTask(name, name, model, SPEC, work, "x.mp4"), Admission(100, 3, 1))

    def saw(self, model: str = "demo", name: str = "r") -> bool:
        return self.scaling.saw(Replica(name, model, "cpu", 1, self.now))


@pytest.fixture
def scene(database: Database, monkeypatch: pytest.MonkeyPatch) -> Scene:
    scene = Scene(database)
    monkeypatch.setattr("serve_app.coordinator.scaling.time.time", lambda: scene.now)
    monkeypatch.setattr("serve_app.coordinator.scaling.time.monotonic", lambda: scene.now)
    return scene


async def test_only_models_that_scale_by_work_have_figures(scene: Scene) -> None:
    await scene.submit(1.0, model="counted")
    await scene.submit(1.0, model="fixed")
    assert await scene.scaling.figures() == figures("model-demo", 0, 0)


async def test_before_a_rate_is_measured_each_task_is_worth_a_replica(scene: Scene) -> None:
    await scene.submit(1.0, 1000.0, 5.0)
    assert await scene.scaling.figures() == figures("model-demo", 3, 0)


async def test_a_measured_rate_turns_work_into_seconds_of_which_a_task_counts_for_the_wait_at_most(
    scene: Scene,
) -> None:
    await scene.fleet.learn("demo", 0.5)
    await scene.submit(10.0, 10.0, 10_000.0)
    assert await scene.scaling.figures() == figures("model-demo", 2, 0)  # 5 + 5 + 30 of 5000 seconds
    assert scene.backlogs == {"demo": 5010.0}


async def test_the_finished_part_of_a_run_counts_no_more_and_its_replica_is_kept(scene: Scene) -> None:
    ledger = await RunLedger.take_lead(scene.database, lease_s=30, grace_s=10)
    await scene.fleet.learn("demo", 1.0)
    await scene.submit(40.0, 25.0)
    claimed = await ledger.claim("demo", "replica")
    assert claimed is not None
    assert await scene.scaling.figures() == figures("model-demo", 2, 2)
    await ledger.report(claimed.uid, 1, at(1, 0.9))
    assert await scene.scaling.figures() == figures("model-demo", 1, 2)


async def test_a_run_on_a_replica_that_serve_stops_is_no_work_and_takes_no_place(scene: Scene) -> None:
    ledger = await RunLedger.take_lead(scene.database, lease_s=30, grace_s=10)
    await scene.submit(40.0, 25.0)
    await ledger.claim("demo", "old")
    await ledger.claim("demo", "new")
    scene.saw(name="new")
    assert (await scene.scaling.figures(), scene.scaling.window("demo")) == (figures("model-demo", 2, 3), 4)
    scene.stopping = frozenset({"old"})
    scene.now += 1000  # until what was busy before is looked back at no more
    scene.saw(name="new")
    assert (await scene.scaling.figures(), scene.scaling.window("demo")) == (figures("model-demo", 1, 2), 5)


async def test_a_model_at_zero_gets_no_ticket_until_the_policy_had_its_time(scene: Scene) -> None:
    assert scene.scaling.window("demo") == 0
    scene.now += 4.9
    assert scene.scaling.window("demo") == 0
    scene.now += 0.2
    assert scene.scaling.window("demo") == 4


async def test_a_replica_that_comes_up_opens_the_window_and_says_so_once(scene: Scene) -> None:
    assert scene.scaling.window("demo") == 0
    assert scene.saw() and not scene.saw() and not scene.saw(name="another")
    assert scene.scaling.window("demo") == 4
    scene.now += 7
    assert scene.scaling.window("demo") == 0, "not heard of any more"
    assert scene.saw()


async def test_models_that_do_not_scale_by_work_get_their_tickets_at_once(scene: Scene) -> None:
    assert (scene.scaling.window("counted"), scene.scaling.window("fixed")) == (4, 2)


async def test_a_model_that_cannot_start_is_let_go_until_serve_tries_again(scene: Scene) -> None:
    await scene.submit(1.0)
    scene.scaling.note(Scale("demo", 1, failing=True))
    assert await scene.scaling.figures() == figures("model-demo", 0, 0)
    scene.scaling.note(Scale("counted", 1, failing=True))
    assert (await scene.scaling.figures()).items() >= figures("model-counted", 0, 0).items()
    scene.scaling.note(Scale("counted", 0, failing=False))
    scene.now += 60
    assert scene.scaling.window("demo") == 0
    scene.scaling.note(Scale("demo", 0, failing=False))
    assert await scene.scaling.figures() == figures("model-demo", 1, 0)


async def test_the_next_coordinator_knows_the_replicas_of_the_one_before(scene: Scene) -> None:
    await scene.fleet.saw(Replica("r", "demo", "cpu", 1, 4e9))
    scene.now = 4e9
    successor = scene.another()
    await successor.recall()
    assert successor.window("demo") == 4


async def test_beside_a_newer_service_nothing_that_waits_is_work_and_its_runs_are_not_either(
    scene: Scene,
) -> None:
    own = await RunLedger.take_lead(scene.database, service="older", lease_s=30, grace_s=10)
    await scene.submit(1.0, 1.0, 1.0)
    await own.claim("demo", "replica")
    newer = await RunLedger.take_lead(scene.database, service="newer", lease_s=30, grace_s=10)
    await newer.claim("demo", "another")
    scene.seat = await own.keep_seat(is_ready=True)
    assert await scene.scaling.figures() == figures("model-demo", 1, 2)
    scene.seat = newer.seat
    assert await scene.another().figures() == figures("model-demo", 2, 2)
