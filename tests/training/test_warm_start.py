"""A model that is to become a larger one keeps what fits."""

import torch
from torch import nn

from training.warm_start import take_over


def test_layers_of_the_same_name_and_shape_are_taken_over_and_no_others() -> None:
    known = nn.ModuleDict({"same": nn.Linear(3, 3), "wider": nn.Linear(3, 4), "gone": nn.Linear(2, 2)})
    begun = nn.ModuleDict({"same": nn.Linear(3, 3), "wider": nn.Linear(3, 8), "new": nn.Linear(2, 2)})
    before = {name: value.clone() for name, value in begun.state_dict().items()}
    take_over(begun, known)
    after = begun.state_dict()
    assert torch.equal(after["same.weight"], known.state_dict()["same.weight"])
    for name in ("wider.weight", "wider.bias", "new.weight"):
        assert torch.equal(after[name], before[name])
