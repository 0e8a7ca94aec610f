"""The comment of an offline video's file."""

import argparse

from models.engine import GenerationRequest
from models.variants import Variant
from offline.options import read_picture
from serve_app.media.file_settings import settings_comment


def comment_of(options: argparse.Namespace, variant: Variant, request: GenerationRequest) -> str:
    """Return the settings of a video for its file; the model is called as its variant, not by its path."""
    return settings_comment(
        request,
        model=variant.name,
        variant=variant.name,
        image=read_picture(options.image),
        last_image=read_picture(options.last_image),
    )
