"""The models' error tree: codes, pickling, and the translation of torch's failures."""

import pickle

import pytest
import torch

from models.errors import (
    DeviceLost,
    EngineLost,
    GroupLost,
    InvalidRequest,
    ModelError,
    OutOfMemory,
    PlanError,
    WeightsError,
)
from models.pipeline.torch_errors import as_model_errors


def test_each_error_has_a_code_of_its_own() -> None:
    errors: list[type[ModelError]] = [ModelError, InvalidRequest, OutOfMemory, PlanError, WeightsError]
    lost: list[type[EngineLost]] = [EngineLost, DeviceLost, GroupLost]
    codes = {error.code for error in errors} | {error.code for error in lost}
    assert len(codes) == len(errors) + len(lost)
    assert all(issubclass(error, ModelError) for error in errors)
    # another engine can do what a lost one could not
    assert all(issubclass(error, EngineLost) and not issubclass(error, ModelError) for error in lost)


@pytest.mark.parametrize(
    "error",
    [
        ModelError("m"),
        OutOfMemory("o"),
        PlanError("p"),
        WeightsError("w"),
        GroupLost("g"),
        DeviceLost("d"),
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


@pytest.mark.parametrize("error", [GroupLost("rank 1 ended"), DeviceLost("already told")])
def test_a_lost_engine_is_told_apart_from_a_failed_run(error: EngineLost) -> None:
    with pytest.raises(EngineLost) as caught, as_model_errors("denoising"):
        raise error
    assert caught.value is error


LOSSES = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might"),
    RuntimeError("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx( handle`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasLtMatmul`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA driver error: unspecified launch failure"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error"),
]


@pytest.mark.parametrize("raised", LOSSES, ids=str)
def test_a_fault_of_the_device_is_its_loss(raised: Exception) -> None:
    with pytest.raises(DeviceLost, match="failed while denoising") as caught, as_model_errors("denoising"):
        raise raised
    assert caught.value.__cause__ is raised
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "raised",
    [
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
    ids=str,
)
def test_memory_that_runs_out_in_a_library_is_no_loss(raised: Exception) -> None:
    with pytest.raises(OutOfMemory), as_model_errors("denoising"):
        raise raised


@pytest.mark.parametrize(
    ("raised", "well"),
    [
        (RuntimeError("No valid execution plans built."), ModelError),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), ModelError),
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
    ],
)
def test_a_device_that_does_not_answer_after_an_error_is_lost(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, well: type[ModelError]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    with pytest.raises(well), as_model_errors("denoising"):
        raise raised

    def fail() -> None:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    with pytest.raises(DeviceLost, match="unspecified launch failure"), as_model_errors("denoising"):
        raise raised


def test_a_real_failure_to_allocate_is_out_of_memory() -> None:
    with pytest.raises(OutOfMemory), as_model_errors("decoding"):
        torch.empty(2**60, dtype=torch.uint8)
