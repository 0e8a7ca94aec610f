"""A training that was stopped goes on to the same bits."""

from pathlib import Path

import pytest
import torch
from torch import nn

from training.trained import Trained


class Task:
    """A task that fits a line, with samples that the step's number decides."""

    def __init__(self, folder: Path, steps: int = 40) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 2)
        self.trained = Trained({"line": self.model}, steps=steps, learning_rate=0.1)
        self.is_loaded = self.trained.load(folder)

    def run(self, until: int) -> "Task":
        while self.trained.step < until:
            x = torch.randn(8, 3, generator=torch.Generator().manual_seed(self.trained.step))
            self.trained.update((self.model(x) - x[:, :2]).square().mean())
        return self


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = Task(tmp_path).run(40)
    assert not whole.is_loaded
    Task(tmp_path).run(17).trained.save(tmp_path)
    resumed = Task(tmp_path)
    assert resumed.is_loaded and resumed.trained.step == 17
    resumed.run(40)
    assert torch.equal(resumed.model.weight, whole.model.weight)
    for task in (resumed, whole):
        task.trained.swap()
    assert torch.equal(resumed.model.weight, whole.model.weight)


def test_the_mean_of_the_weights_is_exchanged_for_them_and_back(tmp_path: Path) -> None:
    task = Task(tmp_path).run(10)
    newest = task.model.weight.clone()
    task.trained.swap()
    assert not torch.equal(task.model.weight, newest)
    task.trained.swap()
    assert torch.equal(task.model.weight, newest)


def test_half_a_checkpoint_leaves_the_last_one_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task(tmp_path).run(5)
    task.trained.save(tmp_path)
    task.run(9)

    def broken_off(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("training.trained.os.replace", broken_off)
    with pytest.raises(OSError, match="no space"):
        task.trained.save(tmp_path)
    assert Task(tmp_path).trained.step == 5


def test_a_training_run_to_its_end_fits_the_line(tmp_path: Path) -> None:
    task = Task(tmp_path, steps=300).run(300)
    assert task.trained.is_done
    torch.testing.assert_close(task.model.weight, torch.eye(2, 3), atol=0.05, rtol=0)
