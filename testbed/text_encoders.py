"""Our text encoder with the weights of transformers' own."""

from typing import Any

from models.networks.umt5 import UMT5Encoder


def own_text_encoder(encoder: Any) -> UMT5Encoder:
    """Make ours of a ``UMT5EncoderModel``, with which it shares the weights."""
    own = UMT5Encoder.from_config(encoder.config.to_dict())
    weights = {name: tensor for name, tensor in encoder.state_dict().items() if name not in own.other_names}
    own.load_state_dict(weights, assign=True)
    return own.eval().requires_grad_(False)
