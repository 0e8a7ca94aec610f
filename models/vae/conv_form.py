"""Choice of the form of the VAE's convolutions, and of what is done between them, by its device."""

import logging
from functools import partial
from typing import Any

from models.kernels.pixel_choice import choose_pixels
from models.kernels.pixel_operations import EAGER_PIXELS, PixelOperations
from models.vae.causal_conv import ConvForm
from models.vae.look_back import LookBackConv
from models.vae.volumes import VolumeConv

_LOGGER = logging.getLogger(__name__)


def pixel_operations(vae: Any) -> PixelOperations:
    """Choose the operations for diffusers' ``vae``, where it lies: on CUDA the kernels that work there."""
    if vae.device.type != "cuda":
        return EAGER_PIXELS
    choice = choose_pixels(vae.device, vae.dtype, vae.config.base_dim)
    _LOGGER.info("VAE: %s", choice)
    return choice.operations


def conv_form(vae: Any, operations: PixelOperations) -> ConvForm:
    """Choose the form of the convolutions for diffusers' ``vae``."""
    return partial(VolumeConv, operations=operations) if vae.device.type == "cuda" else LookBackConv
