"""Choice of the form of the VAE's convolutions, and of what is done between them, by its device."""

import logging
from functools import partial
from typing import Any

import torch

from models.kernels.fused_pixels import FUSED_PIXELS
from models.kernels.pixel_choice import choose_pixels
from models.kernels.pixel_operations import EAGER_PIXELS, PixelOperations
from models.vae.causal_conv import ConvForm
from models.vae.eight_bit_conv import eight_bit_where_normed
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


def eight_bit_form(device: torch.device) -> ConvForm:
    """Return the form of the large convolutions in 8 bits: by kernels on CUDA, elsewhere by the plain torch
    that defines their numbers.
    """
    if device.type != "cuda":
        return partial(eight_bit_where_normed, others=LookBackConv, operations=EAGER_PIXELS)
    others = partial(VolumeConv, operations=FUSED_PIXELS)
    return partial(eight_bit_where_normed, others=others, operations=FUSED_PIXELS)
