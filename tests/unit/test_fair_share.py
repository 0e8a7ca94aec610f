"""Fair share, simulated on one replica: each owner's work over time."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pytest

from serve_app.tasks.fair_share import FairClock, Share, share_of


@dataclass(frozen=True)
class Waiting:
    owner: str
    seq: int
    work: float = 1.0
    priority: int = 0


def tasks(owner: str, number: int, *, work: float = 1.0, priority: int = 0, first: int = 0) -> list[Waiting]:
    return [Waiting(owner, first + 10 * at, work, priority) for at in range(number)]


class Queue:
    """The ledger's queue, on lists instead of a database."""

    def __init__(self, **shares: Share) -> None:
        self.shares: Mapping[str, Share] = shares or {"a": Share(), "b": Share(), "c": Share()}
        self.clock = FairClock()
        self.waiting: list[Waiting] = []

    def add(self, *groups: Iterable[Waiting]) -> None:
        self.waiting += [task for group in groups for task in group]

    def take(self, number: int) -> Sequence[Waiting]:
        return [self._take() for _ in range(number)]

    def _take(self) -> Waiting:
        heads = [
            min(
                (task for task in self.waiting if task.owner == owner),
                key=lambda task: (-task.priority, task.seq),
            )
            for owner in {task.owner for task in self.waiting}
        ]
        first = min(heads, key=self.clock.key)
        self.clock = self.clock.after(heads, first, share_of(self.shares, first.owner))
        self.waiting.remove(first)
        return first


def work_of(taken: Iterable[Waiting]) -> Counter[str]:
    work: Counter[str] = Counter()
    for task in taken:
        work[task.owner] += int(task.work)
    return work


def test_a_hundred_tasks_of_one_owner_do_not_hold_up_another() -> None:
    queue = Queue()
    queue.add(tasks("a", 100), tasks("b", 1, first=5000))
    assert [task.owner for task in queue.take(3)].index("b") <= 1


@pytest.mark.parametrize("work_of_b", [1.0, 7.0, 50.0])
def test_owners_get_equal_work_and_not_equal_numbers_of_tasks(work_of_b: float) -> None:
    queue = Queue()
    queue.add(tasks("a", 1000), tasks("b", 1000, work=work_of_b))
    work: Counter[str] = Counter()
    for _ in range(30):
        work += work_of(queue.take(10))
        # Nobody can be given half a task: the largest is by how much they may differ.
        assert abs(work["a"] - work["b"]) <= max(1.0, work_of_b) + 10


def test_a_weight_is_a_share_of_the_work() -> None:
    queue = Queue(a=Share(weight=3), b=Share(weight=1))
    queue.add(tasks("a", 500), tasks("b", 500, work=4))
    work = work_of(queue.take(200))
    assert work["a"] / work["b"] == pytest.approx(3, rel=0.1)


def test_a_newcomer_has_no_claim_on_work_given_before() -> None:
    queue = Queue()
    queue.add(tasks("a", 500), tasks("b", 500))
    queue.take(300)
    queue.add(tasks("c", 500))
    work = work_of(queue.take(90))
    assert all(29 <= work[owner] <= 31 for owner in "abc")


def test_an_owner_who_comes_back_is_neither_favoured_nor_punished() -> None:
    queue = Queue()
    queue.add(tasks("a", 500), tasks("b", 20))
    queue.take(200)  # b's are long done
    queue.add(tasks("b", 500, first=9000))
    work = work_of(queue.take(60))
    assert abs(work["a"] - work["b"]) <= 2


def test_one_task_at_a_time_gets_no_more_than_a_share() -> None:
    """Submit each task of an owner when the last is done: the owner keeps its account meanwhile."""
    queue = Queue()
    queue.add(tasks("a", 2000))
    given: Counter[str] = Counter()
    for number in range(300):
        if not any(task.owner == "b" for task in queue.waiting):
            queue.add(tasks("b", 1, work=10, first=10_000 + number))
        given += work_of(queue.take(1))
    assert given["b"] <= given["a"] + 20


def test_priority_goes_first_and_is_paid_for() -> None:
    queue = Queue()
    queue.add(tasks("a", 30, priority=1), tasks("a", 60, first=5000), tasks("b", 60))
    assert {task.owner for task in queue.take(30)} == {"a"}
    assert {task.owner for task in queue.take(30)} == {"b"}, "until b has had as much"
    work = work_of(queue.take(20))
    assert work["a"] == work["b"]


def test_one_owners_tasks_go_by_age() -> None:
    queue = Queue()
    queue.add(reversed(tasks("a", 20)))
    assert [task.seq for task in queue.take(20)] == sorted(range(0, 200, 10))


def test_the_clock_never_falls() -> None:
    queue = Queue()
    queue.add(tasks("a", 50, priority=1), tasks("b", 50, work=3), tasks("c", 5))
    seen = []
    for _ in range(60):
        queue.take(1)
        seen.append(queue.clock.now)
    assert seen == sorted(seen)
