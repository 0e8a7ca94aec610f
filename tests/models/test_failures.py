"""The models' error tree: codes, pickling, and the translation of torch's failures."""

import pickle

import pytest
import torch

from models.errors import GroupLost, InvalidRequest, ModelError, OutOfMemory, PlanError, WeightsError
from models.pipeline.torch_errors import as_model_errors


def test_each_error_has_a_code_of_its_own() -> None:
    errors: list[type[ModelError]] = [ModelError, InvalidRequest, OutOfMemory, PlanError, WeightsError]
    assert len({GroupLost.code, *(error.code for error in errors)}) == len(errors) + 1
    assert all(issubclass(error, ModelError) for error in errors)


@pytest.mark.parametrize(
    "error",
    [
        ModelError("m"),
        OutOfMemory("o"),
        PlanError("p"),
        WeightsError("w"),
        GroupLost("g"),
        InvalidRequest("i", field="width"),
    ],
)
def test_errors_cross_from_one_process_to_another(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert getattr(copy, "field", None) == getattr(error, "field", None)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), OutOfMemory),
        (RuntimeError("shapes do not match"), ModelError),
        (InvalidRequest("no", field="seed"), InvalidRequest),
    ],
)
def test_each_error_of_torch_becomes_one_of_ours(raised: Exception, expected: type[ModelError]) -> None:
    with pytest.raises(ModelError) as caught, as_model_errors("denoising"):
        raise raised
    assert type(caught.value) is expected


def test_a_lost_group_is_told_apart_from_a_failed_run() -> None:
    with pytest.raises(GroupLost), as_model_errors("denoising"):
        raise GroupLost("rank 1 ended")
    assert not issubclass(GroupLost, ModelError)  # another group can do what this one could not


def test_a_real_failure_to_allocate_is_out_of_memory() -> None:
    with pytest.raises(OutOfMemory), as_model_errors("decoding"):
        torch.empty(2**60, dtype=torch.uint8)
