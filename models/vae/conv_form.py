"""Choice of the form of the VAE's convolutions by its device."""

import logging
from functools import partial
from typing import Any

from models.kernels.pixel_choice import choose_pixels
from models.vae.causal_conv import ConvForm
from models.vae.look_back import LookBackConv
from models.vae.volumes import VolumeConv

_LOGGER = logging.getLogger(__name__)


def conv_form(vae: Any) -> ConvForm:
    """Choose the form for diffusers' ``vae``, where it lies: on CUDA, with the kernels that work there."""
    if vae.device.type != "cuda":
        return LookBackConv
    choice = choose_pixels(vae.device, vae.dtype, vae.config.base_dim)
    _LOGGER.info("VAE: %s", choice)
    return partial(VolumeConv, operations=choice.operations)
