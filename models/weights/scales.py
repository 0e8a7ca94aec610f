"""Scales of 8-bit weights in safetensors files: whose they are and of which shapes. Imports no torch.

A scale belongs to one row (``….weight_scale`` of LightX2V) or to the whole tensor (``….scale_weight`` of
ComfyUI).
"""

from collections.abc import Collection

from models.weights.safetensors_header import FLOATS, StoredTensor

_ENDINGS = (".weight_scale", ".scale_weight")


def scales_of(names: Collection[str]) -> dict[str, str]:
    """Return, by the names of the tensors that have one, the names of their scales."""
    found: dict[str, str] = {}
    for name in names:
        for ending in _ENDINGS:
            stem = name.removesuffix(ending)
            if stem != name and (owner := next((o for o in (f"{stem}.weight", stem) if o in names), None)):
                found[owner] = name
    return found


def fits(scale: StoredTensor, tensor: StoredTensor) -> bool:
    """Whether ``scale`` is one number for the tensor or for each of its rows."""
    rows = tensor.shape[0] if tensor.shape else 1
    return scale.dtype in FLOATS and scale.shape in ((), (1,), (1, 1), (rows,), (rows, 1))
