"""Recognition of the variant in a weights folder, from its configuration."""

from collections.abc import Iterator

from models.errors import WeightsError
from models.variants import VARIANTS, Variant
from models.weights.folder import WeightsFolder


def recognised(folder: WeightsFolder) -> Variant:
    """Return the variant of a folder in the diffusers layout: the first in ``VARIANTS`` that matches.

    A configuration does not show two things: whether a model is distilled (the result never is), and which of
    two models of one shape it is (Wan 2.1's image-to-video models for 480p and 720p).

    Raises ``WeightsError`` if no variant matches, or ``model_index.json`` cannot be read.
    """
    folder.index()  # raises if there is none, with a message that says so
    found = next(_matching(folder), None)
    if found is None:
        names = [variant.name for variant in VARIANTS.values() if not variant.distilled]
        raise WeightsError(f"{folder.path} is none of the known variants: {', '.join(names)}.")
    return found


def _matching(folder: WeightsFolder) -> Iterator[Variant]:
    for variant in VARIANTS.values():
        if variant.distilled:
            continue
        try:
            folder.check_variant(variant)
        except WeightsError:
            continue
        yield variant
