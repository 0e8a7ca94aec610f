"""What a training takes over from an earlier model."""

from typing import Any


def take_over(part: Any, known: Any) -> None:
    """Copy to ``part`` each tensor of ``known`` that has the same name and shape."""
    own = part.state_dict()
    fitting = {
        name: value
        for name, value in known.state_dict().items()
        if name in own and value.shape == own[name].shape
    }
    part.load_state_dict(own | fitting)
